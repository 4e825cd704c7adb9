"""The official archives become the arrays of the local files; here small ones stand in."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_speech_commands_format import ramp, wav
from test_speech_commands_format import write_archive as write_speech
from test_uci_har_format import write_archive as write_har
from test_vww_format import jpeg, picture_name
from test_vww_format import write_archive as write_vww

from models import data, official_downloads
from models.speech_features import speech_features


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Path], None]:
    """Has a source of `official_downloads` point to a file here, and the cache to a new folder."""
    monkeypatch.setattr(official_downloads, "CACHE_FOLDER", tmp_path / "cache")

    def set_source(name: str, path: Path) -> None:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(official_downloads, name, (path.as_uri(), sha256))

    return set_source


def test_keyword_spotting(publish: Callable[[str, Path], None], tmp_path: Path) -> None:
    test = {
        "yes/f2e59fea_nohash_1.wav": wav(ramp(16_000)),
        "_silence_/7.wav": wav(ramp(16_000, 5)),
        "_unknown_/backward_0c540988_nohash_0.wav.wav": wav(ramp(12_000)),
    }
    train = {
        "right/a69b9b3e_nohash_0.wav": wav(ramp(16_000)),  # to validate on
        "tree/62581901_nohash_0.wav": wav(ramp(16_000, 1)),
        "left/62581901_nohash_1.wav": wav(ramp(16_000, 7)),
        "_background_noise_/pink_noise.wav": wav(ramp(24_001)),
    }
    publish("_SPEECH_TEST", write_speech(tmp_path / "test.tar.gz", test))
    publish("_SPEECH_TRAIN", write_speech(tmp_path / "train.tar.gz", train))

    arrays = official_downloads.keyword_spotting()
    assert set(arrays) == set(data.KeywordSpotting._fields)
    assert arrays["y_test"].tolist() == [10, 11, 9]  # sorted by name
    # The speaker with the smaller hash comes first; the one clip of silence is dealt to fold 0.
    assert arrays["test_fold"].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(arrays["x_test"][2:], speech_features(ramp(16_000)[None]))
    assert sorted(arrays["y_calib"].tolist()) == [2, 10, 10, 11]
    assert arrays["x_calib"].shape == (4, 49, 10)

    clips = official_downloads.speech_clips()
    assert clips.labels.tolist() == [11, 2, 10, 10]
    np.testing.assert_array_equal(clips.samples[1], ramp(16_000, 7))
    assert [len(noise) for noise in clips.noise] == [24_001]


def test_calibration_is_drawn_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_downloads, "_NUM_CALIBRATION", 5)
    names = [f"{number}.wav" for number in range(100)]
    drawn = official_downloads._drawn(names, lambda name: name)
    assert len(set(drawn)) == 5
    assert drawn == official_downloads._drawn(names[::-1], lambda name: name)
    assert drawn != names[:5]


def test_visual_wake_words(publish: Callable[[str, Path], None], tmp_path: Path) -> None:
    files = {picture_name("person", number): jpeg((200, number, 0)) for number in range(10)}
    files |= {
        picture_name("non_person", 10 + number): jpeg((0, number, 200)) for number in range(10)
    }
    labels = tmp_path / "y_labels.csv"
    labels.write_text("000000000008.bin,2,1\n000000000013.bin,2,0\n000000000000.bin,2,1\n")
    publish("_VWW", write_vww(tmp_path / "vww.tar.gz", files))
    publish("_VWW_TEST_LABELS", labels)

    arrays = official_downloads.visual_wake_words()
    assert set(arrays) == set(data.VisualWakeWords._fields)
    assert arrays["y_test"].tolist() == [1, 0, 1]
    assert (arrays["x_test"][:, 0, 0, 0] > 100).tolist() == [True, False, True]
    # Of ten in each class, one is for validation; picture 8 and 13 are for testing besides.
    assert np.bincount(arrays["y_calib"]).tolist() == [8, 8]
    assert ((arrays["x_calib"][:, 0, 0, 0] > 100) == (arrays["y_calib"] == 1)).all()

    pictures, classes = official_downloads.photographs()
    assert (pictures.shape, classes.tolist()) == ((16, 96, 96, 3), [0] * 8 + [1] * 8)


def test_uci_har(publish: Callable[[str, Path], None], tmp_path: Path) -> None:
    windows = {"train": np.ones((2, 128, 9)), "test": np.zeros((1, 128, 9))}
    publish("_UCI_HAR", write_har(tmp_path / "har.zip", windows))
    arrays = official_downloads.uci_har()
    assert set(arrays) == set(data.HumanActivity._fields)
    assert arrays["x_train"].shape == (2, 128, 9)


def test_another_file_is_not_read(publish: Callable[[str, Path], None], tmp_path: Path) -> None:
    path = write_har(tmp_path / "har.zip", {"train": np.ones((1, 128, 9))})
    publish("_UCI_HAR", path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="checksum differs"):
        official_downloads.uci_har()


def test_test_labels_are_those_of_the_local_file(shared_data: Path) -> None:
    """So the checksum of the list is known to be right without a download."""
    with np.load(shared_data / "data" / "vww.npz") as archive:
        rows = zip(archive["test_id"].tolist(), archive["y_test"].tolist(), strict=True)
        text = "".join(f"{name.removeprefix('coco_')}.bin,2,{label}\n" for name, label in rows)
    _, sha256 = official_downloads._VWW_TEST_LABELS
    assert hashlib.sha256(text.encode()).hexdigest() == sha256
