"""C source: compiled, it holds the bytes, sizes, operators and test vector of the flatbuffer beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from programs import Builder

import keras_lowbit
from keras_lowbit import PTQConfig, QuantizedModel
from keras_lowbit.export import flatbuffer, integer_reference, packing, runtimes
from keras_lowbit.export.c_array import read_array
from keras_lowbit.export.c_source import c_source, identifier
from keras_lowbit.export.contents import resolver_call

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")

# Prints one "name values" line each. A resolver takes as many operators as the real one would.
MAIN = """
#include "{stem}.h"
#include "{stem}.h"  // guarded
#include <cstdio>

enum Status {{ kOk = 0, kError = 1 }};
struct Resolver {{
  unsigned room;
  bool quiet;
  Status Take(const char* name) {{
    if (!quiet) std::printf(" %s", name);
    return room-- > 0 ? kOk : kError;
  }}
{methods}
}};

template <typename T> void Row(const char* name, const T* values, std::size_t count) {{
  std::printf("%s", name);
  for (std::size_t i = 0; i < count; ++i) std::printf(" %d", static_cast<int>(values[i]));
  std::printf("\\n");
}}

int main() {{
  std::printf("alignment %d\\n", static_cast<int>(reinterpret_cast<std::uintptr_t>({name}_data) % 16));
  std::printf("declared %d\\n", static_cast<int>(__extension__ __alignof__({name}_data)));
  Row("data", {name}_data, {name}_size);
  std::printf("sizeof %d\\n", static_cast<int>(sizeof({name}_data)));
  std::printf("arena %d\\n", static_cast<int>({name}_arena_size));
  std::printf("operators");
  Resolver enough{{{name}_operator_count, false}}, few{{{name}_operator_count - 1, true}};
  const bool taken = {name}_register_operators(enough);
  std::printf("\\ntaken %d %d\\n", taken, {name}_register_operators(few));
{ends}
}}
"""
# Of tflite::MicroMutableOpResolver, as TFLM spells them.
METHODS = {
    "ADD": "AddAdd", "AVERAGE_POOL_2D": "AddAveragePool2D", "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected", "LOGISTIC": "AddLogistic", "MAX_POOL_2D": "AddMaxPool2D",
    "PAD": "AddPad", "QUANTIZE": "AddQuantize", "RELU": "AddRelu", "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape", "SOFTMAX": "AddSoftmax", packing.DECODE: "AddDecode",
}  # fmt: skip
END = """  std::printf("{end}_scale %.17g\\n", static_cast<double>({name}_{end}_scale));
  Row("{end}_zero_point", &{name}_{end}_zero_point, 1);
  Row("{end}_shape", {name}_{end}_shape, sizeof({name}_{end}_shape) / sizeof(int));
  Row("{end}_test", {name}_{end}_test, {name}_{end}_size);"""


def compiled(folder: Path, stem: str, ends: tuple[str, ...]) -> dict[str, list[float]]:
    """What a program that includes the header prints: numbers by name, operators as they are."""
    methods = "\n".join(
        f'  Status {method}() {{ return Take("{method}"); }}' for method in METHODS.values()
    )
    name = identifier(stem)
    body = "\n".join(END.format(name=name, end=end) for end in ends)
    (folder / "main.cc").write_text(MAIN.format(stem=stem, name=name, methods=methods, ends=body))
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["g++", *flags, "main.cc", f"{stem}.cc", "-o", "main"], cwd=folder, check=True)
    shown = subprocess.run([folder / "main"], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in shown.splitlines())
    return {row[0]: row[1:] if row[0] == "operators" else list(map(float, row[1:])) for row in rows}


@needs_tflm
@needs_compiler
@pytest.mark.parametrize(
    ("bits", "packing", "strip"),
    [(6, "int8", "none"), (4, "auto", "names"), (2, "lut", "micro")],
)
def test_compiled(
    bits: int, packing: str, strip: str, by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    qmodel = by_bits[bits]
    metadata = qmodel.export(tmp_path / "twin.tflite", packing=packing, strip=strip)
    twin = (tmp_path / "twin.tflite").read_bytes()
    same = qmodel.export(tmp_path / "net-2.any", packing=packing, strip=strip, format="c")
    assert same == metadata
    got = compiled(tmp_path, "net-2", ("input_0", "output_0"))

    assert bytes(map(int, got["data"])) == twin
    assert got["sizeof"] == [len(twin)] and got["alignment"] == [0]
    assert got["declared"] == [16]  # large arrays may come out aligned without it
    lookup = ["AddDecode"] if packing != "int8" else []
    assert sorted(got["operators"]) == sorted(
        ["AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddReshape", *lookup]
    )
    assert got["taken"] == [1, 0]

    containers = {
        name.removesuffix("/kernel"): entry["container"]
        for name, entry in metadata["tensors"].items()
        if name.endswith("/kernel")
    }
    program = qmodel.to_program(containers)
    ends = {"input_0": program.tensors["image"], "output_0": program.tensors["last"]}
    for end, tensor in ends.items():
        assert got[f"{end}_scale"] == [float(tensor.scale[0])]
        assert got[f"{end}_zero_point"] == [tensor.zero_point]
        assert got[f"{end}_shape"] == list(tensor.shape)
    codes = np.array(got["input_0_test"], np.int8).reshape(1, 6, 6, 16)
    expected = integer_reference.run(program, {"image": codes})["last"]
    assert got["output_0_test"] == expected.reshape(-1).tolist()
    assert len(np.unique(codes)) > 100
    np.testing.assert_array_equal(runtimes.run(twin, "tflm", [codes])[0], expected)
    runs_in_arena(twin, codes, int(got["arena"][0]))


@needs_tflm
@needs_compiler
def test_a_network_without_operators(tmp_path: Path) -> None:
    image = tf_keras.Input((4,), name="image")
    model = tf_keras.Model(image, tf_keras.layers.Dropout(0.1)(image))
    qmodel = pipelines.quantized(model, pipelines.ranges_only(8))
    qmodel.export(tmp_path / "net.any", format="c")
    source = ["g++", "-std=c++17", "-Wall", "-Werror", "-c", "net.cc", "-o", "net.o"]
    subprocess.run(source, cwd=tmp_path, check=True)


def runs_in_arena(blob: bytes, codes: np.ndarray, size: int) -> None:
    """The arena is enough, and not far more than is needed."""
    from tflite_micro import runtime as tflm

    interpreter = tflm.Interpreter.from_bytes(blob, arena_size=size)
    interpreter.set_input(codes, 0)
    interpreter.invoke()
    with pytest.raises(RuntimeError, match="allocate"):
        tflm.Interpreter.from_bytes(blob, arena_size=int(0.7 * size))


@needs_tflm
@needs_compiler
def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    layers = tf_keras.layers
    left, right = tf_keras.Input((3, 3, 2), name="left"), tf_keras.Input((3, 3, 2), name="right")
    joined = layers.Concatenate(name="both")([left, right])
    heads = [layers.Conv2D(2, 3, name="a")(joined), layers.Activation("sigmoid", name="b")(left)]
    model = networks.randomize(tf_keras.Model([left, right], heads))
    qmodel = pipelines.quantized(model, PTQConfig(8, 8, optimize=(), tune_steps=0))
    qmodel.export(tmp_path / "int.cc", format="c")
    ends = ("input_0", "input_1", "output_0", "output_1")
    got = compiled(tmp_path, "int", ends)
    assert {"AddConcatenation", "AddLogistic"} <= set(got["operators"])
    assert got["output_1_scale"] == [1 / 256] and got["output_1_zero_point"] == [-128]
    codes = [np.array(got[f"input_{i}_test"], np.int8).reshape(1, 3, 3, 2) for i in range(2)]
    program = qmodel.to_program()
    expected = integer_reference.run(program, dict(zip(program.inputs, codes, strict=True)))
    for index, name in enumerate(program.outputs):
        assert got[f"output_{index}_test"] == expected[name].reshape(-1).tolist()


@needs_tflm
def test_c_source_is_read_like_the_flatbuffer(
    by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    for strip in ("none", "micro"):
        metadata = by_bits[2].export(
            tmp_path / "m", overwrite=True, strip=strip, packing="auto", format="c"
        )
        path = tmp_path / "m.cc"
        assert (tmp_path / "m.cc.json").exists() is (strip != "none")
        assert keras_lowbit.read_metadata(path) == metadata
        assert keras_lowbit.inspect(path).known
        assert by_bits[2].verify(path, networks.samples(by_bits[2].model, 2)[0]).ok
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.cc", "m.cc.json", "m.h"]
    with pytest.raises(ValueError, match=r"exists already.*m.cc'"):
        by_bits[2].export(tmp_path / "m.tflite", format="c")
    (tmp_path / "m.cc").unlink()
    with pytest.raises(ValueError, match=r"exists already.*m.h'"):
        by_bits[2].export(tmp_path / "m.tflite", format="c")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("resnet8", "resnet8"),
        ("3bit-net", "model_3bit_net"),
        ("__a--b  c__", "a_b_c"),
        ("größe", "gr_e"),
        ("模型", "model"),
        ("Net.v2", "Net_v2"),
    ],
)
def test_identifiers(stem: str, expected: str) -> None:
    assert identifier(stem) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "C"}, "`format` must be one of.*Received: format='C'"),
        ({"format": "c", "target": "litert"}, "C source is for TensorFlow Lite Micro"),
    ],
)
def test_refusals(
    options: dict[str, str], message: str, by_bits: dict[int, QuantizedModel], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        by_bits[4].export(tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_without_tflm_nothing_is_written(
    by_bits: dict[int, QuantizedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "available", lambda: ("litert_ref", "litert"))
    with pytest.raises(ValueError, match=r"C source needs TFLM.*keras_lowbit\[micro\]"):
        by_bits[4].export(tmp_path / "m", format="c")
    assert not list(tmp_path.iterdir())


@needs_tflm
def test_a_program_that_tflm_does_not_compute_is_refused() -> None:
    first, second = Builder(0, 4), Builder(1, 4)
    programs = [b.program(b.conv(b.input((1, 4, 4, 3)), 4)) for b in (first, second)]
    with pytest.raises(ValueError, match=r"something else than the integer reference.*codes of"):
        c_source("m", flatbuffer.write(programs[0]), programs[1], "test")


def test_every_operator_we_write_can_be_registered() -> None:
    assert set(METHODS) == set(flatbuffer._VERSIONS)
    assert {kind: resolver_call(kind) for kind in METHODS} == METHODS


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alignas", "aligned", "no array as export"),
        ("0x01", "0x101", "something else than bytes"),
        ("0x01, ", "", "another length than it says"),
    ],
)
def test_damaged_arrays(old: str, new: str, message: str) -> None:
    text = "alignas(16) const unsigned char m_data[3] = {\n  0x01, 0x02, 0xff,\n};\n"
    assert read_array(text.encode(), "it") == b"\1\2\xff"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_array(text.replace(old, new).encode(), "it")
