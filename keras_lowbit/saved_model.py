"""A quantized model as a folder: what is written, and what is read from it again, exactly."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from keras_lowbit.config import PTQConfig
from keras_lowbit.export.output_files import SAVED_FILES, folder_to_write
from keras_lowbit.graph import Graph, build
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.insert import insert_quantizers
from keras_lowbit.quantizers.placement import place

FORMAT = 1
KEPT = ("history", "notes", "methods", "calibration_samples", "calibration_source", "digests")
MODEL, FLOAT_WEIGHTS, VALUES = SAVED_FILES
NEWER = "/kernel_zero_point"  # values that older folders lack


def write(qmodel: QuantizedModel, directory: str | os.PathLike[str], overwrite: bool) -> None:
    """See :meth:`QuantizedModel.save`; the folder appears complete or not at all."""
    target = folder_to_write(directory, overwrite)
    graph = qmodel.student.graph
    kept = {name: getattr(qmodel, name) for name in KEPT}
    document = {"format": FORMAT, "config": json.loads(qmodel.config.to_json())}
    document |= graph.to_document() | kept
    arrays = {f"{n.name}/{role}": w for n in graph.nodes for role, w in n.weights.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        temporary.mkdir()
        (temporary / MODEL).write_text(json.dumps(document, indent=1, default=_plain))
        np.savez(temporary / FLOAT_WEIGHTS, **arrays)  # type: ignore[arg-type]
        np.savez(temporary / VALUES, **qmodel.student.values())  # type: ignore[arg-type]
        replaced = Path(folder) / "replaced"
        if target.exists():
            os.replace(target, replaced)
        try:
            os.replace(temporary, target)
        except OSError:
            if replaced.exists():
                os.replace(replaced, target)
            raise


def load(directory: str | os.PathLike[str]) -> QuantizedModel:
    """Read what :meth:`QuantizedModel.save` wrote: same outputs, same exported bytes.

    Raises:
      ValueError: the folder does not hold a quantized model of this format, whole and of one piece.
    """
    source = Path(directory)
    document = _read(source, lambda: json.loads((source / MODEL).read_text()))
    written = document.get("format") if isinstance(document, dict) else None
    if written != FORMAT:
        raise ValueError(
            f"The folder is in another format. Expected format {FORMAT}; use the keras_lowbit that "
            f"wrote it. Received: {written!r}"
        )
    return _read(source, lambda: _rebuilt(source, document))


def _rebuilt(source: Path, document: Mapping[str, Any]) -> QuantizedModel:
    weights, values = (dict(np.load(source / name)) for name in (FLOAT_WEIGHTS, VALUES))
    config = PTQConfig.from_json(json.dumps(document["config"]))
    graph = Graph.from_document(document, weights)
    student = insert_quantizers(graph, place(graph, config))
    expected = {name: value.shape for name, value in student.values().items()}
    found = {name: value.shape for name, value in values.items()}
    missing = {name for name in expected.keys() - found.keys() if not name.endswith(NEWER)}
    wrong = missing | {name for name, shape in found.items() if expected.get(name) != shape}
    if wrong:
        raise ValueError(f"{VALUES} is not that of {MODEL}: {sorted(wrong)} differ")
    student.assign(values)
    kept = {name: document[name] for name in KEPT if name in document}  # older folders have fewer
    return QuantizedModel(student, build(graph), config, **kept)


def _read(folder: Path, reader: Callable[[], Any]) -> Any:
    """What ``reader`` makes of the files of a saved model."""
    try:
        return reader()
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        EOFError,
        BadZipFile,
    ) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"No quantized model can be read here: {reason}. Expected a folder written by "
            f"QuantizedModel.save. Received: {str(folder)!r}"
        ) from error


def _plain(value: Any) -> Any:
    """NumPy and Keras containers as JSON types."""
    if isinstance(value, np.generic):
        return value.item()
    return list(value)
