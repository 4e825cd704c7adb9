"""What accuracy costs: the choices of least harm for a row of file sizes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_lowbit._keras import load_float_model
from keras_lowbit.checks import check_seed, plain_number
from keras_lowbit.config import PTQConfig
from keras_lowbit.data_free import samples_for
from keras_lowbit.export.output_files import check_free, replace_file
from keras_lowbit.reader import read
from keras_lowbit.recipes import resolve
from keras_lowbit.search.bit_search import BitSearch, Choice
from keras_lowbit.search.budget import Budget
from keras_lowbit.search.choice import CANDIDATE_BITS


@dataclasses.dataclass(frozen=True)
class Front:
    """Choices of bits from the smallest file to the largest; none is beaten in both size and harm.

    Example:
      >>> front = keras_lowbit.pareto(model, x_train[:512])
      >>> print(front)
      >>> qmodel = keras_lowbit.quantize(model, x_train[:512], config=front.points[2].config)
    """

    points: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {
            "points": [
                {**vars(point), "config": json.loads(point.config.to_json())}
                for point in self.points
            ]
        }

    def plot(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Draw harm over file size; the format follows the suffix, e.g. ``.svg`` or ``.png``.

        Args:
          path: of the figure.
          overwrite: replace an existing file.

        Raises:
          ValueError: the file exists, or matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ValueError(
                "Plots need matplotlib, which is not installed: pip install matplotlib. "
                f"Received: path={str(path)!r}"
            ) from error
        check_free(Path(path), overwrite)
        if not os.path.isdir(folder := os.path.dirname(path) or "."):
            raise ValueError(f"There is no such folder: make it first. Received: {folder!r}")
        figure = Figure(figsize=(5.0, 3.5), layout="constrained")
        axes = figure.subplots()
        sizes = [(point.flash or 0) / 1000 for point in self.points]
        axes.plot(sizes, [point.harm for point in self.points], marker="o")
        for size, point in zip(sizes, self.points, strict=True):
            label = f"{point.average_weight_bits:.1f} bits"
            axes.annotate(label, (size, point.harm), (3, 3), textcoords="offset points")
        axes.set_yscale("log")
        axes.set_xlabel("file for TFLM, kB")
        axes.set_ylabel("predicted error")
        drawn = io.BytesIO()
        figure.savefig(drawn, format=Path(path).suffix[1:] or "png")
        replace_file(Path(path), drawn.getvalue())

    def __str__(self) -> str:
        lines = [
            f"{'file bytes':>12}{'bits a weight':>15}{'BOPs':>16}{'predicted error':>22}  bits"
        ]
        for point in self.points:
            bits = " ".join(map(str, point.bits.values()))
            lines.append(
                f"{point.flash:>12,}{point.average_weight_bits:>15.2f}{point.bops:>16,}"
                f"{point.harm:>22.5f}  {bits}"
            )
        layers = ", ".join(self.points[0].bits)
        return "\n".join([*lines, "", f"Layers, in the order of the bits: {layers}"])


def pareto(
    model: Any,
    calib_ds: Any = None,
    candidate_bits: Iterable[int] = CANDIDATE_BITS,
    points: int = 8,
    *,
    recipe: str = "default",
    config: PTQConfig | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Front:
    """Several choices of weight bits layer by layer, from one measurement of the sensitivity.

    Args:
      model, calib_ds: as of :func:`keras_lowbit.quantize`; nothing is trained.
      candidate_bits: widths that the kernels may get, 2..8.
      points: how many file sizes to ask for, at even distances from all kernels at their fewest bits
        to all at their most; choices that come twice or are beaten are left out.
      recipe: how the points are to be quantized; it goes into their configurations.
      config: everything else, excludes ``recipe``; its ``layer_bits`` and ``first_last_bits`` stay as
        they are.
      seed: of samples that are made up where ``calib_ds`` is None.
      verbose: 0 silent, 1 a progress bar, 2 one line.

    Returns:
      The front; each point has a ``config`` for ``quantize``.

    Raises:
      ValueError: as of ``quantize``, or ``points`` below 2.
    """
    points = plain_number(points)
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"`points` must be an integer of at least 2. Received: points={points!r}")
    check_seed(seed)
    config = resolve(config, None, None, recipe)
    source = read(load_float_model(model))
    data = samples_for(calib_ds, source, config, seed)
    inputs = dict(zip(source.inputs, data, strict=True))
    search = BitSearch(source, inputs, config, candidate_bits, verbose)
    ends = [
        search.flash({name: end(widths) for name, widths in search.widths.items()})
        for end in (min, max)
    ]
    step = (ends[1] - ends[0]) / (points - 1)
    found = [search.within(Budget(flash=round(ends[0] + i * step))) for i in range(points)]
    return Front(tuple(_unbeaten(found)))


def _unbeaten(choices: list[Choice]) -> list[Choice]:
    """The choices of which none is both as small and as harmless, smallest first."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.flash or 0, c.harm)):
        if not kept or choice.harm < kept[-1].harm:
            kept.append(choice)
    return kept
