"""Quantize within a budget, and make sure that the file of the result keeps it too."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import logging

from keras_lowbit.config import PTQConfig
from keras_lowbit.export.arena import measure_arena
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.search.bit_search import BitSearch
from keras_lowbit.search.budget import Budget, BudgetError
from keras_lowbit.search.file_sizes import PACKING, STRIP, TARGET

ATTEMPTS = 3


def quantize_within(
    budget: Budget, search: BitSearch, quantize_with: Callable[[PTQConfig, int], QuantizedModel]
) -> QuantizedModel:
    """Search, quantize, and measure the real file.

    Training changes which codes occur and with them a few bytes of lookup tables. If the file of the
    trained network is too large, which is rare, all is done again with that much less room.

    Args:
      budget: the limits.
      search: with the sensitivity of the network.
      quantize_with: quantizes with a configuration; its second argument counts the attempts from 0.

    Raises:
      BudgetError: the budget cannot be kept.
    """
    room = budget
    for attempt in range(ATTEMPTS):
        qmodel = quantize_with(search.within(room).config, attempt)
        excess = _excess(qmodel, budget)
        if not excess:
            return qmodel
        logging.warning("keras_lowbit: above the budget once trained by %s; once more", excess)
        smaller = {name: max(getattr(room, name) - bytes_, 1) for name, bytes_ in excess.items()}
        room = dataclasses.replace(room, **smaller)
    raise BudgetError(
        f"The trained network still exceeded the budget after {ATTEMPTS} attempts; ask for a little less. "
        f"Received: {budget.limits()}, exceeded by {excess} bytes"
    )


def _excess(qmodel: QuantizedModel, budget: Budget) -> dict[str, int]:
    """By how many bytes the exported file exceeds the budget, by limit."""
    if budget.flash is None and budget.arena is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        qmodel.export(path, packing=PACKING, strip=STRIP, target=TARGET)
        blob = path.read_bytes()
    over = {}
    if budget.flash is not None:
        over["flash"] = len(blob) - int(budget.flash)
    if budget.arena is not None:
        over["arena"] = measure_arena(blob).smallest - int(budget.arena)
    return {name: size for name, size in over.items() if size > 0}
