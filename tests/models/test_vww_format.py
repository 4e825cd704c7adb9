"""The archive of visual wake words becomes pictures, split by name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models import vww_format


def jpeg(colour: tuple[int, int, int], side: int = 96) -> bytes:
    picture = np.broadcast_to(np.uint8(colour), (side, side, 3))
    return tf.io.encode_jpeg(picture, quality=100).numpy()


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"vw_coco2014_96/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture_name(folder: str, number: int, part: str = "train") -> str:
    return f"{folder}/COCO_{part}2014_{number:012d}.jpg"


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    colours = {
        picture_name("person", 7): (250, 10, 20),
        picture_name("non_person", 9, "val"): (0, 120, 240),
    }
    files = {name: jpeg(colour) for name, colour in colours.items()}
    path = write_archive(tmp_path / "vww.tar.gz", {"labels.txt": b"words", **files})
    jpegs = vww_format.read_jpegs(path)
    assert list(jpegs) == sorted(colours)

    pictures, labels = vww_format.decode(jpegs, colours)
    assert (pictures.shape, pictures.dtype) == ((2, 96, 96, 3), np.uint8)
    assert labels.tolist() == [1, 0]
    expected = np.array(list(colours.values()))[:, None, None, :]
    assert np.abs(pictures.astype(int) - expected).max() <= 3


def test_a_picture_of_another_size_is_refused() -> None:
    name = picture_name("person", 7)
    with pytest.raises(ValueError, match=r"person/COCO.*Expected \(96, 96, 3\).*\(95, 95, 3\)"):
        vww_format.decode({name: jpeg((0, 0, 0), side=95)}, [name])


def test_training_leaves_out_test_and_validation_pictures() -> None:
    names = [picture_name("person", number) for number in range(20, 0, -1)]
    names += [picture_name("non_person", number) for number in range(101, 111)]
    chosen = vww_format.training_names(names, [f"{number:012d}" for number in (5, 6, 104)])
    expected = [picture_name("non_person", number) for number in range(102, 111) if number != 104]
    expected += [picture_name("person", number) for number in range(3, 21) if number not in (5, 6)]
    assert chosen == expected


def test_labels_choose_the_test_pictures_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "y_labels.csv").write_text("000000000007.bin,2,1\n000000000009.bin, 2, 0\n")
    labels = vww_format.read_test_labels(tmp_path / "y_labels.csv")
    assert labels == {"000000000007": 1, "000000000009": 0}
    names = [
        picture_name("non_person", 8),
        picture_name("non_person", 9, "val"),
        picture_name("person", 7),
    ]
    assert vww_format.labelled_names(names, labels) == [names[2], names[1]]


@pytest.mark.parametrize("folder", ["person", "elsewhere"])
def test_labels_that_do_not_fit_are_refused(folder: str) -> None:
    names = [picture_name(folder, 9), picture_name("person", 7)]
    with pytest.raises(ValueError, match=r"belong together.*\['000000000009'\], 1 in all"):
        vww_format.labelled_names(names, {"000000000007": 1, "000000000009": 0})


def test_a_name_without_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture of COCO.*Received: 'person/me.jpg'"):
        vww_format.number("person/me.jpg")
