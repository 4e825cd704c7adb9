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
    trained network is too large, which is rare, all is done again: with another choice, and room for such growth.

    Args:
      budget: the limits.
      search: with the sensitivity of the network.
      quantize_with: quantizes with a configuration; its second argument counts the attempts from 0.

    Raises:
      BudgetError: the budget cannot be kept, before or after training.
    """
    room = budget
    excess: dict[str, int] = {}
    for attempt in range(ATTEMPTS):
        try:
            choice = search.within(room)
        except BudgetError:
            if not excess:
                raise
            break  # the limits of the message would not be the user's
        qmodel = quantize_with(choice.config, attempt)
        trained = _sizes(qmodel, budget)
        limits = budget.limits()
        excess = {n: size - int(limits[n]) for n, size in trained.items() if size > limits[n]}
        if not excess:
            return qmodel
        logging.warning("keras_lowbit: above the budget once trained by %s", excess)
        smaller = {}
        for name, over in excess.items():
            predicted = search.flash if name == "flash" else search.sizes.arena
            chosen = predicted(choice.bits)
            smaller[name] = max(1, chosen - over)  # that is, the limit less what training added
        room = dataclasses.replace(room, **smaller)
    raise BudgetError(
        f"The trained network exceeds the budget by {excess} bytes, and choosing with less room did "
        "not help: training changes which codes occur, and so the lookup tables. Allow as many bytes more, or lower "
        f"`candidate_bits`. Received: {budget.limits()}"
    )


def _sizes(qmodel: QuantizedModel, budget: Budget) -> dict[str, int]:
    """Bytes that the exported file takes, by limit."""
    if budget.flash is None and budget.arena is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        qmodel.export(path, packing=PACKING, strip=STRIP, target=TARGET)
        blob = path.read_bytes()
    sizes = {} if budget.flash is None else {"flash": len(blob)}
    return sizes if budget.arena is None else {**sizes, "arena": measure_arena(blob).smallest}
