"""Visual wake words as MLPerf Tiny publishes them: small JPEG files in one folder per class."""

import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

_CLASSES = ("non_person", "person")
_SIDE = 96
_VALIDATION_SHARE = 0.1


def read_jpegs(path: Path) -> dict[str, bytes]:
    """The JPEG files of vw_coco2014_96.tar.gz by "class/file", sorted."""
    jpegs = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = "/".join(member.name.rsplit("/", 2)[-2:])
            file = archive.extractfile(member) if name.endswith(".jpg") else None
            if file is not None:
                jpegs[name] = file.read()
    return dict(sorted(jpegs.items()))


def read_test_labels(path: Path) -> dict[str, int]:
    """COCO's number of each picture in the official accuracy set and its class, in order."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return {row[0].strip().removesuffix(".bin"): int(row[2]) for row in rows}


def number(name: str) -> str:
    """COCO's number of a picture: the twelve digits at the end of its name."""
    found = re.search(r"(\d{12})\.jpg$", name)
    if found is None:
        raise ValueError(
            "This is no picture of COCO. Expected a name that ends with twelve digits and .jpg. "
            f"Fetch the archive again. Received: {name!r}"
        )
    return found[1]


def training_names(names: Iterable[str], test_numbers: Iterable[str]) -> list[str]:
    """The names of an archive to train on: no test pictures, and no validation pictures.

    MLPerf Tiny validates on the first tenth of each class in the order of names, and trains on the
    test pictures among the others; here they are left out.
    """
    excluded, chosen = set(test_numbers), []
    names = sorted(names)
    for folder in _CLASSES:
        pictures = [name for name in names if name.startswith(f"{folder}/")]
        kept = pictures[int(_VALIDATION_SHARE * len(pictures)) :]
        chosen += [name for name in kept if number(name) not in excluded]
    return chosen


def labelled_names(names: Iterable[str], labels: dict[str, int]) -> list[str]:
    """The names of the pictures numbered in `labels`, in the order of `labels`."""
    by_number = {number(name): name for name in names}
    chosen = [by_number.get(digits, "") for digits in labels]
    wrong = [
        digits
        for digits, name in zip(labels, chosen, strict=True)
        if not name.startswith(f"{_CLASSES[labels[digits]]}/")
    ]
    if wrong:
        raise ValueError(
            "The archive and the labels of visual wake words do not belong together. Expected each "
            "numbered picture in the folder of its class. Fetch both again. Received: other "
            f"classes or none for {wrong[:5]}, {len(wrong)} in all"
        )
    return chosen


def decode(jpegs: dict[str, bytes], names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 96, 96, 3] and class numbers uint8 [n]."""
    rows = np.fromiter(
        ((_picture(jpegs[name], name), _CLASSES.index(name.split("/")[0])) for name in names),
        dtype=[("picture", np.uint8, (_SIDE, _SIDE, 3)), ("label", np.uint8)],
    )
    return rows["picture"], rows["label"]


def _picture(jpeg: bytes, name: str) -> np.ndarray:
    picture = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    if picture.shape != (_SIDE, _SIDE, 3):
        raise ValueError(
            f"{name} is no picture of visual wake words. Expected {(_SIDE, _SIDE, 3)}. Fetch the "
            f"archive again. Received: {picture.shape}"
        )
    return picture
