"""Archives of Speech Commands become clips, and speakers stay in their part."""

import io
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

from models import speech_commands_format as speech


def wav(samples: np.ndarray, channels: int = 1, rate: int = 16_000) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as recording:
        recording.setnchannels(channels)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(samples.astype("<i2").tobytes())
    return content.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    """As the official ones: names start with a dot, texts lie beside the WAV files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"README.md": b"words", **files}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def ramp(length: int, start: int = 0) -> np.ndarray:
    return (np.arange(length) + start) % 20_000 - 10_000


# Lines of the data set's own validation_list.txt and testing_list.txt; in neither: training.
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("right/a69b9b3e_nohash_0.wav", "validation"),
        ("right/439c84f4_nohash_1.wav", "validation"),
        ("cat/060cd039_nohash_2.wav", "validation"),
        ("go/6a27a9bf_nohash_0.wav", "validation"),
        ("yes/f2e59fea_nohash_1.wav", "testing"),
        ("no/f9643d42_nohash_4.wav", "testing"),
        ("_unknown_/backward_0c540988_nohash_0.wav.wav", "testing"),
        ("tree/62581901_nohash_0.wav", "training"),
        ("_background_noise_/pink_noise.wav", "training"),
        ("_background_noise_/running_tap.wav", "validation"),
    ],
)
def test_parts_are_the_published_ones(name: str, part: str) -> None:
    assert speech.partition(name) == part


def test_parts_of_every_clip_at_hand(shared_data: Path) -> None:
    """4,482 spoken test clips; 230 and 45 clips to train and validate on, four copies of each."""
    with np.load(shared_data / "data" / "kws.npz") as archive:
        test, calibration = archive["test_name"].tolist(), archive["calib_name"].tolist()
    parts = [speech.partition(name) for name in test if not name.startswith("_silence_")]
    assert parts == ["testing"] * 4482
    parts = [speech.partition(name) for name in calibration if "_nohash_" in name]
    assert (parts.count("training"), parts.count("validation")) == (4 * 230, 4 * 45)
    assert len(parts) == 1100


def test_folds_are_those_of_the_local_file(shared_data: Path) -> None:
    with np.load(shared_data / "data" / "kws.npz") as archive:
        names, folds = archive["test_name"].tolist(), archive["test_fold"]
    assert names == sorted(names)
    np.testing.assert_array_equal(speech.speaker_folds(names), folds)


def test_clips_of_a_test_archive(tmp_path: Path) -> None:
    files = {
        "yes/f2e59fea_nohash_1.wav": wav(ramp(16_000)),
        "_silence_/7.wav": wav(ramp(16_000, 5)),
        "_unknown_/backward_0c540988_nohash_0.wav.wav": wav(ramp(12_000)),
        "down/f9643d42_nohash_4.wav": wav(ramp(16_000, 9)),
    }
    clips = list(speech.read_clips(write_archive(tmp_path / "test.tar.gz", files)))
    assert [clip.name for clip in clips] == list(files)
    assert [clip.label for clip in clips] == [9, 10, 11, 0]
    assert all(clip.samples.dtype == np.int16 for clip in clips)
    np.testing.assert_array_equal(clips[1].samples, ramp(16_000, 5))
    np.testing.assert_array_equal(clips[2].samples[:12_000], ramp(12_000))
    assert not clips[2].samples[12_000:].any()


def test_clips_of_one_part_of_a_train_archive(tmp_path: Path) -> None:
    files = {
        "right/a69b9b3e_nohash_0.wav": wav(ramp(16_000)),  # to validate on
        "right/f2e59fea_nohash_1.wav": wav(ramp(16_000)),  # to test on
        "tree/62581901_nohash_0.wav": wav(ramp(16_000, 1)),
        "right/62581901_nohash_0.wav": wav(ramp(16_000, 2)),
        "_background_noise_/pink_noise.wav": wav(ramp(32_001)),
        "_background_noise_/running_tap.wav": wav(ramp(16_001)),
    }
    path = write_archive(tmp_path / "train.tar.gz", files)

    clips = list(speech.read_clips(path, "training"))
    assert [(clip.name.split("/")[0], clip.label) for clip in clips] == [
        ("tree", 11), ("right", 6), *[("_background_noise_", 10)] * 3
    ]  # fmt: skip
    assert len({clip.name for clip in clips}) == 5
    for row, start in enumerate((0, 8_000, 16_000)):
        np.testing.assert_array_equal(clips[2 + row].samples, ramp(16_000, start))
    assert [clip.label for clip in speech.read_clips(path, "validation")] == [6, 10]

    samples, labels = speech.stack_clips(clips)
    assert (samples.shape, samples.dtype) == ((5, 16_000), np.int16)
    assert labels.tolist() == [11, 6, 10, 10, 10]
    np.testing.assert_array_equal(samples[1], ramp(16_000, 2))

    (noise,) = speech.read_noise(path)
    np.testing.assert_array_equal(noise, ramp(32_001))


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (wav(ramp(8), channels=2), r"\(2, 2, 16000\)"),
        (wav(ramp(8), rate=8_000), r"\(1, 2, 8000\)"),
        (wav(ramp(16_001)), "16001 samples"),
    ],
    ids=["stereo", "rate", "length"],
)
def test_other_recordings_are_refused(tmp_path: Path, content: bytes, received: str) -> None:
    path = write_archive(tmp_path / "test.tar.gz", {"yes/f2e59fea_nohash_1.wav": content})
    with pytest.raises(ValueError, match=f"yes/f2e59fea.*Received: {received}"):
        list(speech.read_clips(path))
