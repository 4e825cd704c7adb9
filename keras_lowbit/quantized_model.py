"""The result: a model that simulates, and everything needed to save, measure and deploy it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_lowbit.accounting import Cost, cost_of
from keras_lowbit.calibration_data import read_samples
from keras_lowbit.checks import check_count
from keras_lowbit.config import PTQConfig
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.version import __version__


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A quantized model.

    Attributes:
      student: the simulation, with access to every value.
      teacher: the float model it was made from, batch norms folded; same layer names.
      config: how it was quantized.
      history: one record per reconstructed unit and one for the end-to-end stage.
      notes: what became of layers that are no longer there.
      methods: how "weight", "activation" and "low-bit activation" values (below 8 bits) were found, and
        those of ``<layer>/kernel`` and ``<layer>/output`` that did not move; for the metadata.
      calibration_samples: how many samples it was made with.
      calibration_source: where they are from if they are not real; else empty.
      digests: :meth:`Student.digests` as :func:`keras_lowbit.quantize` ended; empty if unknown.
    """

    student: Student = dataclasses.field(repr=False)
    teacher: Any = dataclasses.field(repr=False)
    config: PTQConfig
    history: list[dict[str, Any]]
    notes: dict[str, str]
    methods: dict[str, str]
    calibration_samples: int
    calibration_source: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The simulation as a tf_keras model: predict, evaluate, fit (straight-through gradients)."""
        return self.student.model

    @property
    def calibration(self) -> dict[str, Any]:
        """For the metadata: how many calibration samples, and their source unless they are real."""
        source = {"source": self.calibration_source} if self.calibration_source else {}
        return {"samples": self.calibration_samples, **source}

    @property
    def changed_since(self) -> tuple[str, ...]:
        """Which of "weight", "bias" and "activation" changed since ``quantize`` ended, as by ``model.fit``."""
        now = self.student.digests() if self.digests else {}
        return tuple(part for part, digest in self.digests.items() if digest != now[part])

    def cost(self) -> Cost:
        """Parameters, MACs, BOPs, bytes; see :class:`keras_lowbit.Cost`."""
        return cost_of(self.student.graph, self.student.placement)

    def report(self) -> Any:
        """What was quantized to what, folded, and how well; printable, ``.to_dict()`` for JSON."""
        from keras_lowbit.analysis.report import report_on

        return report_on(self)

    def deployment_report(
        self, target: str = "tflm", packing: str = "auto", strip: str | None = None, **options: Any
    ) -> Any:
        """What the file costs on a target, measured: bytes by part, RAM, operators, host latency.

        Printable, ``.to_dict()`` for JSON. ``options`` are those of
        :func:`keras_lowbit.analysis.deployment.deployment_report`.
        """
        from keras_lowbit.analysis.deployment import deployment_report

        return deployment_report(self, target, packing, strip, **options)

    def save(self, directory: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write everything to a new folder, exactly; :func:`keras_lowbit.load` reads it.

        Raises:
          ValueError: the folder exists and ``overwrite`` is False, or it holds anything but a quantized model.
        """
        from keras_lowbit.saved_model import write

        write(self, directory, overwrite)

    def export(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        packing: str = "int8",
        strip: str = "none",
        target: str = "tflm",
        format: str = "tflite",
    ) -> dict[str, Any]:
        """Write a TFLite flatbuffer that a stock runtime runs, as a file or as C source.

        Args:
          path: of the ``.tflite`` file; C source goes to this path with ``.h`` and ``.cc`` instead.
          overwrite: replace existing files.
          packing: how weights are stored: ``"int8"`` a byte each; ``"int4"`` two a byte, where they have at
            most 4 bits and the kernel takes it; ``"lut"`` in TFLM's lookup tables where that is
            smaller; ``"auto"`` the smallest file that the target runs. Packed layers are expanded
            in RAM one at a time, and large dense layers in lookup tables need much of it.
          strip: ``"names"`` drops tensor names, signature, description and metadata, which go to
            ``<path>.json``; ``"micro"`` also quantization parameters that TFLM does not read.
          target: ``"tflm"``, ``"litert"``, or ``"ethos-u"``, a file for Vela to compile. Files with
            int8 containers, stripped of names or not, run on all.
          format: ``"tflite"``; or ``"c"``: the same bytes as an array, with the size of the tensor arena,
            the operators to register, input and output quantization and a test vector, for a TFLM project.

        Returns:
          The metadata in or beside the file: bits, grid and container of every tensor.

        Raises:
          ValueError: a bias that overflows int32, a bad scale, an existing file, or options that the
            target cannot run; with ``"c"`` also if TFLM is not installed or is not exact.
        """
        from keras_lowbit.export.c_source import c_source
        from keras_lowbit.export.containers import check_options, choose_containers
        from keras_lowbit.export.flatbuffer import write
        from keras_lowbit.export.metadata import METADATA_SEAL, build_metadata, digest
        from keras_lowbit.export.model_file import SEAL, fingerprint
        from keras_lowbit.export.output_files import check_free, output_paths, replace_file

        check_options(packing, strip, target)
        paths = output_paths(path, strip, format, target)
        for file in paths:
            check_free(file, overwrite)
        containers = choose_containers(self.to_program, packing, strip, target)
        program = self.to_program(containers)
        producer = f"keras_lowbit {__version__}"
        metadata = build_metadata(program, producer, containers, calibration=self.calibration)
        blob = write(program, metadata if strip == "none" else None, containers, strip)
        metadata[SEAL] = fingerprint(blob)
        contents = [blob]
        if format == "c":
            header, source = c_source(Path(path).stem, blob, program, producer)
            contents = [source.encode(), header.encode()]
        if strip != "none":
            metadata[METADATA_SEAL] = digest(metadata)
            contents.append(json.dumps(metadata, indent=1).encode())
        for file, content in zip(paths, contents, strict=True):
            replace_file(file, content)
        return metadata

    def to_program(self, containers: Mapping[str, str] | None = None) -> Any:
        """The integer operators that :meth:`export` writes, as records.

        Args:
          containers: of the weights by layer, as in the file; "int8" unless given.
        """
        from keras_lowbit.export.lower import lower

        student = self.student
        kinds = {f"{name}/kernel": "weight" for name in student.placement.weights}
        for name, spec in student.placement.activations.items():
            kinds[f"{name}/output"] = "low-bit activation" if spec.bits < 8 else "activation"
        changed = self.changed_since
        methods = {
            name: self.methods.get(name, self.methods.get(kind, ""))
            + "+changed since" * kind.endswith(changed)
            for name, kind in kinds.items()
        }
        return lower(student.graph, student.placement, student.values(), methods, containers)

    def quantize_input(self, x: Any) -> list[np.ndarray]:
        """Float samples as the int8 arrays that the exported model takes, one per input."""
        return _input_codes(self.to_program(), read_samples(x, self.student.graph))

    def verify(self, path: str | os.PathLike[str], x: Any, max_samples: int = 1024) -> Any:
        """Run an exported file and the integer reference on real samples and compare every tensor.

        Args:
          path: of a file written by :meth:`export`; of C source, the ``.cc``.
          x: samples, in any form that ``calib_ds`` may have.
          max_samples: most samples taken from ``x``.

        Returns:
          :class:`keras_lowbit.export.verify.Verification`: per runtime that can run the file the
          differing elements, the largest difference, the agreement with the simulation; ``.ok``.

        Raises:
          ValueError: the file was not exported by keras_lowbit or is damaged, its JSON file is missing,
            the samples do not fit, or ``max_samples`` is no number of them.
        """
        from keras_lowbit.export.containers import read_containers, runtimes_for
        from keras_lowbit.export.metadata import open_model
        from keras_lowbit.export.verify import verify

        check_count("max_samples", max_samples, least=1)
        blob = open_model(path).blob
        samples = read_samples(x, self.student.graph, max_samples)
        simulated = self.model.predict(samples if len(samples) > 1 else samples[0], verbose=0)
        if isinstance(simulated, dict):
            simulated = [simulated[name] for name in self.student.graph.output_names]
        simulated = simulated if isinstance(simulated, list) else [simulated]
        program = self.to_program(read_containers(blob, self.to_program()))
        inputs, names = _input_codes(program, samples), runtimes_for(blob, program)
        return verify(program, blob, inputs, simulated, names)


def _input_codes(program: Any, samples: list[np.ndarray]) -> list[np.ndarray]:
    """Float samples on the grids of the program's inputs, int8."""
    from keras_lowbit.export.integer_reference import quantize_input

    return [
        quantize_input(program.tensors[name], values)
        for name, values in zip(program.inputs, samples, strict=True)
    ]
