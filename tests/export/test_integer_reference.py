"""The integer reference against TFLM: every operator, every bit-width, every tensor, no difference."""

import numpy as np
import pytest
from programs import Builder, random_inputs

from keras_lowbit.export import flatbuffer, integer_reference, runtimes

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
BITS = range(2, 9)


def assert_equals_tflm(program, samples=4):
    inputs = random_inputs(program, samples)
    expected = integer_reference.run(program, dict(zip(program.inputs, inputs, strict=True)))
    actual = runtimes.run_all_tensors(flatbuffer.write(program), "tflm", inputs)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        tensor = program.tensors[name]
        assert np.count_nonzero(actual[name] != value) == 0, (
            f"{name} of {[op.kind for op in program.ops]}"
        )
        assert tensor.qmin <= value.min() and value.max() <= tensor.qmax, name
    return expected


CONVOLUTIONS = {
    "plain": {},
    "1x1": {"window": (1, 1)},
    "strided same even": {"strides": (2, 2), "window": (4, 2)},
    "strided valid": {"strides": (2, 3), "padding": "VALID", "window": (2, 3)},
    "dilated same": {"dilation": (2, 3)},
    "dilated valid": {"dilation": (2, 1), "padding": "VALID"},
    "linear": {"activation": "NONE"},
    "relu6": {"activation": "RELU6"},
    "per tensor, lsb": {"per_channel": False, "align": False},
    "lsb linear": {"align": False, "activation": "NONE"},
    "no bias": {"bias": False},
    "stride beyond window": {"window": (1, 1), "strides": (3, 2)},
}


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_2d_equals_tflm(bits, name):
    build = Builder(bits, bits)
    source = build.input((1, 9, 7, 3))
    assert_equals_tflm(build.program(build.conv(source, 5, **CONVOLUTIONS[name])))


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_depthwise_conv_2d_equals_tflm(bits, name):
    build = Builder(bits, bits)
    source = build.input((1, 8, 9, 4))
    options = CONVOLUTIONS[name]
    strides = options.get("strides", (1, 1))
    if strides[0] != strides[1]:
        options = {**options, "strides": (2, 2)}
    first = build.depthwise(source, 1, **options)
    second = build.depthwise(source, 3, **options)
    assert_equals_tflm(build.program(first, second))


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6"])
def test_fully_connected_equals_tflm(bits, per_channel, activation):
    build = Builder(bits, bits)
    source = build.input((1, 40))
    wide = build.dense(source, 60, activation, per_channel=per_channel)
    single = build.dense(wide, 1, activation, per_channel=per_channel, bias=False)
    assert_equals_tflm(build.program(single), samples=16)


@needs_tflm
def test_fully_connected_keeps_leading_dimensions():
    build = Builder(0, 4)
    assert_equals_tflm(build.program(build.dense(build.input((1, 3, 5, 8)), 6)))


@needs_tflm
@pytest.mark.parametrize("kind", ["FULLY_CONNECTED", "CONV_2D"])
@pytest.mark.parametrize("expected", [2, 3])
def test_scales_are_multiplied_in_double(kind, expected):
    # The float32 product of the scales is 0.375, the exact one a little less, or at least that. 6 * 0.375 = 2.25
    # is first rounded at half codes, to 4/2 or to 5/2, and then to 2 or to 3.
    left = np.random.default_rng(0).uniform(0.5, 0.9, 1000).astype(np.float32)
    right = np.float32(0.375) / left
    below = left.astype(np.float64) * right < 0.375
    left, right = (
        scale[(left * right == np.float32(0.375)) & (below == (expected == 2))][:1]
        for scale in (left, right)
    )
    build = Builder(0, 8)
    shape = (1, 1) if kind == "FULLY_CONNECTED" else (1, 1, 1, 1)
    source = build.input(shape, left[0], 0)
    weights = build.constant(np.ones(shape, np.int8), right)
    bias = build.constant(np.int32([0]), left * right, bits=32)
    options = {} if kind == "FULLY_CONNECTED" else {"padding": "SAME", "strides": (1, 1)}
    target = build.apply(kind, (source, weights, bias), build.activation(shape, 1, 0), **options)
    program = build.program(target)
    codes = np.full(shape, 6, np.int8)
    assert integer_reference.run(program, {source: codes})[target].item() == expected
    assert runtimes.run(flatbuffer.write(program), "tflm", [codes])[0].item() == expected


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ratio", [1, 1.9, 37, 1e4])
@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6"])
def test_add_equals_tflm(bits, ratio, activation):
    build = Builder(bits, bits)
    left = build.input((1, 6, 5, 8))
    right = build.input((1, 6, 5, 8), scale=float(build.tensors[left].scale[0]) * ratio)
    assert_equals_tflm(
        build.program(build.add(left, right, activation), build.add(right, right, activation))
    )


@needs_tflm
@pytest.mark.parametrize("ratio", [1, 1.5, 2, 3, 1 / 3, 0.7, 11, 1e3])
def test_add_equals_tflm_on_all_pairs_of_codes(ratio):
    for output_ratio in (1, 0.5, 1.1, 3, 17):
        build = Builder(0, 8)
        left = build.input((1, 256, 256), 0.1, 3)
        right = build.input((1, 256, 256), 0.1 * ratio, -7)
        target = build.apply(
            "ADD", (left, right), build.activation((1, 256, 256), 0.1 * output_ratio, 5)
        )
        program = build.program(target)
        codes = np.arange(-128, 128).astype(np.int8)
        pairs = [np.ascontiguousarray(grid[None]) for grid in np.meshgrid(codes, codes)]
        expected = integer_reference.run(program, dict(zip((left, right), pairs, strict=True)))[
            target
        ]
        assert np.array_equal(runtimes.run(flatbuffer.write(program), "tflm", pairs)[0], expected)


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pooling_equals_tflm_on_both_sides_of_code_zero(bits, padding, kind):
    build = Builder(bits, bits)
    source = build.input((1, 9, 7, 3))
    high = build.conv(source, 4)
    low = build.conv(source, 4, activation="NONE")
    outputs = [
        build.pool(kind, name, window, strides, padding)
        for name in (source, high, low)
        for window, strides in (((2, 2), (2, 2)), ((3, 3), (1, 2)), ((9, 7), (1, 1)))
    ]
    assert_equals_tflm(build.program(*outputs))


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
def test_data_movement_equals_tflm(bits):
    build = Builder(bits, bits)
    source = build.conv(build.input((1, 5, 6, 3)), 4)
    padded = build.pad(source, [(0, 0), (1, 2), (0, 3), (0, 0)])
    deep = build.pad(source, [(0, 0), (0, 0), (1, 0), (2, 1)])
    joined = build.concatenate((source, source), 3)
    tall = build.concatenate((source, source, source), -3)
    flat = build.reshape(joined, (1, 240))
    assert_equals_tflm(build.program(padded, deep, tall, flat))


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ratio", [1, 0.25, 0.7311, 1 / 255, 3.3, 40])
def test_requantizing_lookups_equal_tflm_on_all_codes(bits, ratio):
    build = Builder(bits, bits)
    source = build.input((1, 8, 8, 16))
    outputs = [build.rescale(kind, source, ratio) for kind in ("RELU", "QUANTIZE")]
    outputs.append(build.apply("RELU6", (source,), build.like(source)))
    assert_equals_tflm(build.program(*outputs))


@needs_tflm
@pytest.mark.parametrize("scale", [1e-4, 0.003, 1 / 16, 0.1, 0.24999, 0.7, 3.0, 40.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_softmax_equals_tflm(scale, classes):
    build = Builder(1, 8)
    source = build.input((1, classes), scale=scale)
    program = build.program(build.probability("SOFTMAX", source))
    result = assert_equals_tflm(program, samples=60)
    assert result[program.outputs[0]].std() > 0 or scale < 0.001


@needs_tflm
@pytest.mark.parametrize("scale", [1e-3, 0.02, 1 / 16, 0.1, 0.24999, 0.7, 3.0])
def test_logistic_equals_tflm_on_all_codes(scale):
    for zero_point in (-128, -3, 0, 127):
        build = Builder(1, 8)
        source = build.input((1, 1000), scale=scale, zero_point=zero_point)
        program = build.program(build.probability("LOGISTIC", source))
        result = assert_equals_tflm(program)
        assert len(np.unique(result[program.outputs[0]])) > 2


@needs_tflm
@pytest.mark.parametrize("scale", [2**-28, 7.999])
def test_logistic_equals_tflm_up_to_the_limits_of_its_scale(scale):
    build = Builder(1, 8)
    source = build.input((1, 1000), scale=scale, zero_point=-3)
    assert_equals_tflm(build.program(build.probability("LOGISTIC", source)))


@needs_tflm
@pytest.mark.parametrize("bits", BITS)
def test_a_residual_network_equals_tflm(bits):
    build = Builder(bits, bits)
    stem = build.conv(build.input((1, 16, 16, 3)), 8)
    inner = build.conv(build.conv(stem, 8), 8, activation="NONE")
    joined = build.add(stem, inner)
    mobile = build.conv(build.depthwise(joined, strides=(2, 2)), 12, (1, 1))
    pooled = build.reshape(build.pool("AVERAGE_POOL_2D", mobile, (8, 8), (8, 8), "VALID"), (1, 12))
    logits = build.dense(pooled, 10, "NONE")
    assert_equals_tflm(build.program(build.probability("SOFTMAX", logits)), samples=8)


def test_results_do_not_depend_on_the_chunks(monkeypatch):
    build = Builder(3, 4)
    program = build.program(build.conv(build.conv(build.input((1, 8, 8, 3)), 6), 4))
    inputs = dict(zip(program.inputs, random_inputs(program, 11), strict=True))
    whole = integer_reference.run(program, inputs)
    monkeypatch.setattr(integer_reference, "_CHUNK_BYTES", 1)
    single = integer_reference.run(program, inputs)
    assert all(np.array_equal(whole[name], single[name]) for name in whole)
    kept = integer_reference.run(program, inputs, keep=program.outputs)
    assert list(kept) == list(program.outputs)
    assert np.array_equal(kept[program.outputs[0]], whole[program.outputs[0]])


def test_large_accumulators_are_exact():
    # Beyond 2^24 float32 would lose the last bit: weights and inputs at their extremes, 4608 taps.
    from keras_lowbit.export import integer_kernels

    values = np.full((1, 3, 3, 512), 127, np.int8)
    weights = np.full((1, 3, 3, 512), 127, np.int8)
    weights[0, 0, 0, 0] = 126
    total = integer_kernels.conv_2d(values, weights, -128, (1, 1), (1, 1), "VALID")
    assert int(total[0, 0, 0, 0]) == 255 * (127 * 4608 - 1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "takes the inputs"),
        ({"t0": np.zeros((2, 4, 4, 3), np.float32)}, "quantize the data first"),
        ({"t0": np.zeros((2, 4, 4, 2), np.int8)}, r"shape \[N, 4, 4, 3\]"),
    ],
)
def test_unfit_inputs_are_refused(inputs, message):
    build = Builder(0, 4)
    program = build.program(build.conv(build.input((1, 4, 4, 3)), 2))
    with pytest.raises(ValueError, match=message):
        integer_reference.run(program, inputs)
