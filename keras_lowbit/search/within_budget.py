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
      BudgetError: the budget cannot be kept; also if fewer bits are needed than there are, once trained.
    """
    room, choice, attempt = budget, search.within(budget), 0
    while True:
        qmodel = quantize_with(choice.config, attempt)
        excess = _excess(qmodel, budget)
        if not excess:
            return qmodel
        smaller = {name: max(getattr(room, name) - bytes_, 1) for name, bytes_ in excess.items()}
        room, attempt = dataclasses.replace(room, **smaller), attempt + 1
        too_large = (
            f"The trained network exceeds the budget by {excess} bytes, in {attempt} attempts: training "
            "changes which codes occur. Allow a little more, or fewer bits. "
            f"Received: {budget.limits()}"
        )
        if attempt == ATTEMPTS:
            raise BudgetError(too_large)
        try:
            choice = search.within(room)
        except BudgetError as error:
            raise BudgetError(too_large) from error
        logging.warning("keras_lowbit: above the budget once trained by %s; once more", excess)


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
