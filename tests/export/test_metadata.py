"""Metadata: what is written is read back, and unreadable files say why."""

import json

import numpy as np
import pytest
from programs import Builder

from keras_lowbit.export import flatbuffer
from keras_lowbit.export.metadata import METADATA_NAME, build_metadata, digest, read_metadata
from keras_lowbit.export.model_file import fingerprint


@pytest.fixture
def program():
    build = Builder(1, 4)
    return build.program(build.conv(build.input((1, 4, 4, 3)), 4, activation="NONE"))


def test_round_trip_through_file_and_bytes(program, tmp_path):
    metadata = build_metadata(
        program, "keras_lowbit 0.1.0", calibration={"samples": 256, "note": "größe"}
    )
    blob = flatbuffer.write(program, metadata)
    path = tmp_path / "model.tflite"
    path.write_bytes(blob)
    expected = {**metadata, "model_sha256": fingerprint(blob)}
    assert read_metadata(blob) == read_metadata(path) == read_metadata(str(path)) == expected
    assert metadata["format"] == 1 and metadata["rounding"] == "double"
    assert metadata["producer"] == "keras_lowbit 0.1.0"


@pytest.mark.parametrize("bits", range(2, 9))
def test_entries_decode_the_containers(bits):
    build = Builder(bits, bits)
    relu = build.conv(build.input((1, 4, 4, 3)), 4)
    linear = build.conv(relu, 4, activation="NONE")
    program = build.program(linear)
    entries = build_metadata(program, "test")["tensors"]
    assert entries[relu] == {
        "index": list(program.tensors).index(relu),
        "bits": bits,
        "scheme": "asym",
        "granularity": "tensor",
        "axis": 0,
        "container": "int8",
        "shift": 0,
        "offset": 128 - 2**bits,
        "qmin": 128 - 2**bits,
        "qmax": 127,
        "zero_point_b": 0,
        "method": "",
    }
    assert entries[linear]["offset"] == -128 and entries[linear]["qmax"] == 2**bits - 129
    weights = program.tensors[program.ops[0].inputs[1]]
    entry = entries[weights.name]
    assert (entry["bits"], entry["scheme"], entry["granularity"], entry["shift"]) == (
        bits,
        "sym",
        "channel",
        8 - bits,
    )
    assert entry["method"] == "random"
    codes = (weights.data.astype(int) - entry["offset"]) >> entry["shift"]
    assert np.abs(codes).max() < 2 ** (bits - 1)
    assert np.array_equal(codes << entry["shift"], weights.data)
    assert all(program.tensors[name].dtype == "int8" for name in entries)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the model file: No such file.*none.tflite"):
        read_metadata(tmp_path / "none.tflite")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\x03\x04 a zip archive", bytes(1000)])
def test_another_format_says_so(content, tmp_path):
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="other.bin' is not a TFLite flatbuffer"):
        read_metadata(path)


def test_every_truncation_is_noticed(program):
    blob = flatbuffer.write(program, build_metadata(program, "test"))
    for size in (*range(8, len(blob), 61), len(blob) - 1):
        with pytest.raises(ValueError, match="is cut short or damaged"):
            read_metadata(blob[:size])


def test_a_foreign_model_says_so(program):
    with pytest.raises(ValueError, match=f"has no '{METADATA_NAME}' entry"):
        read_metadata(flatbuffer.write(program))


def test_another_metadata_format_says_so(program):
    with pytest.raises(ValueError, match="another format than 1.*Received: 99"):
        read_metadata(flatbuffer.write(program, {"format": 99}))


def test_metadata_of_other_bytes_say_so(program):
    blob = flatbuffer.write(program, build_metadata(program, "test"))
    for old, new in ((b'"format":1', b'"format":?'), (b'"model_sha256"', b'"model_SHA256"')):
        assert blob.count(old) == 1
        with pytest.raises(ValueError, match="damaged, or another tool changed it"):
            read_metadata(blob.replace(old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?", "m.tflite.json' has metadata that are not JSON"),
        ("[1]", r"another format than 1.*Received: \[1\]"),
        ('{"format": 1}', "describes another model"),
        ('{"format": 1, "model_sha256": SEAL, "tensors": {}}', "changed since it was written"),
        ('{"format": 1, "model_sha256": SEAL, "metadata_sha256": OWN}', "metadata without tensors"),
        (
            '{"format": 1, "model_sha256": SEAL, "metadata_sha256": OWN, "tensors": {"a": 3}}',
            "broken entry for.*'a'",
        ),
        (
            '{"format": 1, "model_sha256": SEAL, "metadata_sha256": OWN, "tensors": {"a": {"index": 0}}}',
            "broken entry",
        ),
    ],
)
def test_damaged_side_cars_say_so(program, text, message, tmp_path):
    blob = flatbuffer.write(program, None, {}, "names")
    (tmp_path / "m.tflite").write_bytes(blob)
    text = text.replace("SEAL", json.dumps(fingerprint(blob)))
    if "OWN" in text:
        text = text.replace("OWN", json.dumps(digest(json.loads(text.replace("OWN", "0")))))
    (tmp_path / "m.tflite.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metadata(tmp_path / "m.tflite")
