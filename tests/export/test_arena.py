"""The arena that is measured is the smallest in which TFLM runs the model."""

import subprocess
import sys

import pytest
from programs import Builder

from keras_lowbit.export import flatbuffer, runtimes
from keras_lowbit.export.arena import STEP, _smallest, measure_arena

needs_tflm = pytest.mark.skipif(
    "tflm" not in runtimes.available(), reason="tflite_micro is not installed"
)
START = """
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()
"""


def convolutions():
    build = Builder(0, 4)
    image = build.conv(build.conv(build.input((1, 12, 12, 3)), 16), 16)
    return build.program(image)


def dense():
    """Preparing these takes more than running them."""
    build = Builder(0, 4)
    hidden = build.dense(build.input((1, 40)), 8)
    return build.program(build.dense(hidden, 2, "NONE"))


@needs_tflm
@pytest.mark.parametrize("network", [convolutions, dense])
def test_it_is_the_smallest(network, tmp_path):
    blob = flatbuffer.write(network(), None, None, "micro")
    path = tmp_path / "m.tflite"
    path.write_bytes(blob)
    arena = measure_arena(blob)
    assert arena.head + arena.tail == arena.total <= arena.smallest
    assert arena.smallest % STEP == 0

    def starts(size):
        command = [sys.executable, "-c", START, str(path), str(size)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert starts(arena.smallest)
    assert not starts(arena.smallest - STEP)


@needs_tflm
def test_the_head_holds_the_activations():
    """Two tensors of 12 * 12 * 16 codes are alive at once."""
    arena = measure_arena(flatbuffer.write(convolutions()))
    assert 2 * 12 * 12 * 16 <= arena.head < 3 * 12 * 12 * 16


@pytest.mark.parametrize("used", [1, 16, 1104, 1568])
@pytest.mark.parametrize("extra", [0, 1, 16, 17, 300, 5000, 100_000])
def test_the_search(used, extra):
    found = _smallest(used, lambda size: size >= used + extra)
    assert found % STEP == 0
    assert used + extra <= found < used + extra + STEP


@needs_tflm
def test_what_tflm_refuses():
    build = Builder(0, 2, 2)
    program = build.program(build.dense(build.input((1, 40)), 8))
    blob = flatbuffer.write(program, None, {program.ops[0].name: "int2"})
    with pytest.raises(ValueError, match="TFLM cannot run the model. Received: "):
        measure_arena(blob)
    with pytest.raises(ValueError, match="not a TFLite flatbuffer"):
        measure_arena(b"no model at all")
