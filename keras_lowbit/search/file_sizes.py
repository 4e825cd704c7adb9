"""The bytes of the file that a choice of widths will give, from the exporter's own code.

The file is that of ``export(path, packing="auto", strip="micro")``. Layers share lookup tables and
operator codes, so bytes do not add up over layers; what they share is counted once for each width.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from keras_lowbit.config import PTQConfig
from keras_lowbit.export.arena import measure_arena
from keras_lowbit.export.containers import choose_containers
from keras_lowbit.export.flatbuffer import file_size, write
from keras_lowbit.export.ir import Program
from keras_lowbit.export.lower import lower
from keras_lowbit.export.packing import kernel_names
from keras_lowbit.graph import Graph
from keras_lowbit.layer_table import FIXED_RANGE
from keras_lowbit.quantizers.placement import place
from keras_lowbit.search.budget import Budget
from keras_lowbit.search.choice import with_bits
from keras_lowbit.search.sensitivity import Widths
from keras_lowbit.search.solver import Limit, Pair

PACKING, STRIP, TARGET = "auto", "micro", "tflm"
BIAS_CODES = 2**16  # far enough apart that no two layers have the same, whatever their container
Containers = Mapping[str, str]


def check_is_for_that_file(budget: Budget, packing: str, strip: str, target: str) -> None:
    """Sizes are those of one way to export.

    Raises:
      ValueError: the budget limits sizes, and the file is to be another.
    """
    chosen = (packing, strip, target)
    if {"flash", "arena"} & budget.limits().keys() and chosen != (PACKING, STRIP, TARGET):
        raise ValueError(
            "A budget of flash or arena is for the smallest file for TFLM: choose packing 'auto' and strip "
            f"'micro'. Received: packing, strip and target {chosen}"
        )


class FileSizes:
    """Measures files before anything is calibrated or trained.

    Kernels are those that were rounded for the sensitivity. Biases and activation grids are made up and
    all different, since equal ones would be stored once and tuning makes them differ.

    Args:
      graph: folded, with ``Quantize`` nodes.
      config: everything but the widths of the kernels.
      widths: the kernels of every layer at its candidate widths.
    """

    def __init__(self, graph: Graph, config: PTQConfig, widths: Widths) -> None:
        self._graph, self._config, self._widths = graph, config, widths
        self._values: dict[str, np.ndarray] = {}
        self._containers: dict[tuple[int, ...], dict[str, str]] = {}
        placement = place(graph, config)
        for index, (group, spec) in enumerate(placement.activations.items()):
            fixed = graph[group].kind in FIXED_RANGE
            # Of about one range, since what comes to few bits from many takes another operator.
            scale = 1 / 256 if fixed else (0.05 + 1e-4 * index) * 255 / (2**spec.bits - 1)
            zero_point = 0 if fixed or spec.unsigned else (index + 1) % (spec.qmax + 1)
            self._values[f"{group}/output_scale"] = np.array(scale, np.float32)
            self._values[f"{group}/output_zero_point"] = np.array(zero_point, np.float32)
        self._input_scales = {
            name: self._values[f"{group}/output_scale"] for name, group in placement.inputs.items()
        }

    def program(self, bits: Mapping[str, int], containers: Containers) -> Program:
        """The integer operators of a choice, their integers fitting the containers."""
        values = dict(self._values)
        for index, (name, chosen) in enumerate(bits.items()):
            width = self._widths[name][chosen]
            parts = {"": width.kernel, "_scale": width.scale, "_zero_point": width.zero_point}
            values |= {f"{name}/kernel{part}": value for part, value in parts.items()}
            if "bias" in self._graph[name].weights:
                steps = width.scale.reshape(-1) * self._input_scales[name]
                values[f"{name}/bias"] = steps * (BIAS_CODES * (index + 1) + np.arange(steps.size))
        free = {name: b for name, b in bits.items() if len(self._widths[name]) > 1}
        placement = place(self._graph, with_bits(self._config, free))
        return lower(self._graph, placement, values, None, containers)

    def containers(self, bits: Mapping[str, int]) -> dict[str, str]:
        """The containers that the export will choose, by layer."""
        key = tuple(bits.values())
        if key not in self._containers:
            self._containers[key] = choose_containers(
                lambda chosen: self.program(bits, chosen), PACKING, STRIP, TARGET
            )
        return self._containers[key]

    def flash(self, bits: Mapping[str, int]) -> int:
        """Bytes of the file."""
        containers = self.containers(bits)
        return file_size(self.program(bits, containers), containers, STRIP)

    def arena(self, bits: Mapping[str, int], packed: tuple[str, ...] | None = None) -> int:
        """Bytes of the smallest arena in which TFLM runs the file on this host.

        Args:
          bits: the choice.
          packed: measure with only these layers packed, instead of as exported.
        """
        containers = self.containers(bits)
        if packed is not None:
            containers = {name: containers[name] for name in packed}
        blob = write(self.program(bits, containers), None, containers, STRIP)
        return measure_arena(blob).smallest

    def prediction(self) -> Limit:
        """The bytes of any choice, nearly, as a limit of 0 bytes.

        For each width, all free layers get it, and one after the other is put back into a byte per
        weight: the difference is what that layer saves in the company of those that share its tables.
        What such layers save together is less than the sum of that, by their tables. (Tables along
        another axis, those of depthwise convolutions, are others.)
        """
        free = [name for name, row in self._widths.items() if len(row) > 1]
        layers = {name: dict.fromkeys(row, 0) for name, row in self._widths.items()}
        shared: list[tuple[Set[Pair], int]] = []
        base = 0
        for width in self._widths[free[0]]:
            bits = {n: width if n in free else next(iter(r)) for n, r in self._widths.items()}
            containers = self.containers(bits)
            program = self.program(bits, containers)
            kernels = kernel_names(program)

            def without(
                names: Set[str], program: Program = program, containers: Containers = containers
            ) -> int:
                left = {n: container for n, container in containers.items() if n not in names}
                return file_size(program, left, STRIP)

            size, base = without(set()), without(set(free))
            alike: dict[int, set[str]] = {}
            for name in filter(containers.__contains__, free):
                layers[name][width] = size - without({name})
                alike.setdefault(program.tensors[kernels[name]].axis, set()).add(name)
            for names in alike.values():
                once = size - without(names) - sum(layers[name][width] for name in names)
                shared.append(({(name, width) for name in names}, once))
        return Limit(layers, -base, shared)
