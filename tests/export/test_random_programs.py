"""Property: whatever small program we build, TFLM computes the integer reference's codes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Builder
from test_integer_reference import assert_equals_tflm

from keras_lowbit.export import runtimes

pytestmark = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.sampled_from(["SAME", "VALID"])
activations = st.sampled_from(["NONE", "RELU", "RELU6"])
layers = st.one_of(
    st.fixed_dictionaries(
        {
            "layer": st.just("conv"),
            "channels": st.integers(1, 5),
            "window": pairs,
            "strides": pairs,
            "activation": activations,
            "padding": paddings,
            "align": st.booleans(),
            "per_channel": st.booleans(),
            "bias": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "layer": st.just("conv"),
            "channels": st.integers(1, 5),
            "window": pairs,
            "dilation": pairs,
            "activation": activations,
            "padding": st.just("SAME"),
        }
    ),
    st.fixed_dictionaries(
        {
            "layer": st.just("depthwise"),
            "multiplier": st.integers(1, 3),
            "window": pairs,
            "strides": st.sampled_from([(1, 1), (2, 2)]),
            "activation": activations,
            "padding": paddings,
            "align": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "layer": st.just("pool"),
            "kind": st.sampled_from(["AVERAGE_POOL_2D", "MAX_POOL_2D"]),
            "window": pairs,
            "strides": pairs,
            "padding": paddings,
        }
    ),
    st.fixed_dictionaries({"layer": st.just("add"), "activation": activations}),
    st.fixed_dictionaries({"layer": st.just("pad")}),
    st.fixed_dictionaries({"layer": st.just("concatenate")}),
)


def grow(build, name, layer):
    layer = dict(layer)
    kind = layer.pop("layer")
    shape = build.tensors[name].shape
    if kind == "pad":
        return build.pad(name, [(0, 0), (1, 0), (0, 2), (0, 0)])
    if kind == "concatenate":
        return build.concatenate((name, name), 3)
    if kind == "add":
        other = build.conv(name, shape[3], (1, 1), activation="NONE")
        return build.add(name, other, **layer)
    if layer.get("padding") == "VALID":
        layer["window"] = tuple(
            min(size, limit) for size, limit in zip(layer["window"], shape[1:3], strict=True)
        )
    if kind == "depthwise" and shape[3] > 12:
        layer["multiplier"] = 1
    return getattr(build, kind)(source=name, **layer)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    bits=st.integers(2, 8),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 4),
    chain=st.lists(layers, min_size=1, max_size=4),
    head=st.booleans(),
)
def test_tflm_computes_the_reference(seed, bits, sizes, channels, chain, head):
    build = Builder(seed, bits)
    name = build.input((1, *sizes, channels))
    for layer in chain:
        name = grow(build, name, layer)
    if head:
        shape = build.tensors[name].shape
        flat = build.reshape(name, (1, shape[1] * shape[2] * shape[3]))
        name = build.probability("SOFTMAX", build.dense(flat, 5, "NONE"))
    assert_equals_tflm(build.program(name), samples=3)
