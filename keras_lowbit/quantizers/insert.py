"""Step 2, structure: the student, a model whose every layer sits in a quantizing wrapper."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from keras_lowbit.checkpoint import digest
from keras_lowbit.graph import Graph, Node, build, role_of
from keras_lowbit.layer_table import FIXED_RANGE, LAYERS
from keras_lowbit.quantizers.placement import Placement, fused_relu, lowest_code, readers_of
from keras_lowbit.quantizers.quantize_configs import quantize_layer, wrap_layer
from keras_lowbit.quantizers.tensor_quantizers import (
    ActivationQuantizer,
    AverageQuantizer,
    WeightQuantizer,
)

# In int32 codes, of which the exporter allows less than 2^30: before tuning, which moves scales and biases, a quarter
# of that; in the end all, but for roundings of float32.
LARGEST_BIAS = 2.0**28
LARGEST_BIAS_AT_LAST = 2.0**30 * (1.0 - 2.0**-16)
BIAS_STEPS = 64  # of a bias behind a dead tensor, to a step of the output


@dataclasses.dataclass(frozen=True)
class Student:
    """The quantized model and direct access to the only values that change after step 2.

    Attributes:
      model: functional tf_keras model of tfmot wrappers; computes the simulation.
      graph: the structure, with the float weights it was built from.
      placement: which tensors are quantized to what.
      kernels: kernel variable by layer name.
      biases: bias variable by layer name.
      weight_quantizers: by layer name.
      activation_quantizers: by group name.
    """

    model: Any
    graph: Graph
    placement: Placement
    kernels: dict[str, Any]
    biases: dict[str, Any]
    weight_quantizers: dict[str, WeightQuantizer]
    activation_quantizers: dict[str, ActivationQuantizer]

    def variables(self) -> dict[str, Any]:
        """Every variable but scales that quantization may change, by a stable name."""
        named = {f"{name}/kernel": variable for name, variable in self.kernels.items()}
        named |= {f"{name}/bias": variable for name, variable in self.biases.items()}
        for name, weight in self.weight_quantizers.items():
            named[f"{name}/kernel_zero_point"] = weight.variables["zero_point"]
        for name, activation in self.activation_quantizers.items():
            named[f"{name}/output_zero_point"] = activation.variables["zero_point"]
        return named

    def scales(self) -> dict[str, WeightQuantizer | ActivationQuantizer]:
        """Whose scale it is, by a stable name."""
        weights, activations = self.weight_quantizers.items(), self.activation_quantizers.items()
        named: dict[str, Any] = {f"{name}/kernel_scale": weight for name, weight in weights}
        return named | {f"{name}/output_scale": activation for name, activation in activations}

    def make_room_for_biases(
        self, dead: Iterable[ActivationQuantizer] = (), largest: float = LARGEST_BIAS
    ) -> list[str]:
        """Raise weight scales, of dead channels mostly, whose int32 bias would overflow.

        The bias of a channel is stored in units of input scale times weight scale. Weights so small
        beside their bias round to zero on any grid of the output. Any scale would do for tensors that
        are ``dead``, of nothing but zeros, but it must not be coarse beside what their readers give.

        Args:
          dead: quantizers of such tensors.
          largest: bias that there is room for, in int32 codes.

        Returns:
          The layers whose scales were raised.
        """
        names = {id(q): name for name, q in self.activation_quantizers.items()}
        groups = [names[id(quantizer)] for quantizer in dead]
        for group in reversed(groups):  # a reader may be dead too
            logging.warning("keras_lowbit: %s is zero in all calibration samples", group)
            steps = self._steps_of_readers(group)
            if steps:
                self.activation_quantizers[group].set_scale(min(steps))
        raised = []
        for name, bias in self.biases.items():
            quantizer = self.weight_quantizers[name]
            source = self.activation_quantizers[self.placement.inputs[name]].scale()
            scale = quantizer.scale().numpy()
            unit = source.numpy() * largest / 2.0 ** (8 - quantizer.spec.bits)
            least = (np.abs(bias.numpy()).reshape(scale.shape) / unit).astype(np.float32)
            if (least > scale).any():
                quantizer.set_scale(np.maximum(scale, least))
                raised.append(name)
        return raised

    def _steps_of_readers(self, group: str) -> list[float]:
        """How fine a group's scale has to be for each of its readers: as their outputs, or their biases."""
        steps = []
        heads = [head for head in self.placement.heads if self.placement.groups[head] == group]
        for node in (node for head in heads for node in readers_of(self.graph, head)):
            end = fused_relu(self.graph, node) or node
            step = float(self.activation_quantizers[self.placement.groups[end.name]].scale())
            if node.name in self.weight_quantizers:
                step /= BIAS_STEPS * float(np.max(self.weight_quantizers[node.name].scale()))
            steps.append(step)
        return steps

    def values(self) -> dict[str, np.ndarray]:
        """A copy of the values of :meth:`variables` and :meth:`scales`, float32."""
        values = {name: variable.numpy() for name, variable in self.variables().items()}
        return values | {
            name: quantizer.scale().numpy() for name, quantizer in self.scales().items()
        }

    def digests(self) -> dict[str, str]:
        """What :meth:`values` are known by: sha256 of those of every "weight", "bias" and "activation"."""
        parts = {
            "weight": ("kernel", "kernel_scale"),
            "bias": ("bias",),
            "activation": ("output_scale", "output_zero_point"),
        }
        values = sorted(self.values().items())
        return {
            part: digest(value for name, value in values if name.rsplit("/", 1)[1] in roles)
            for part, roles in parts.items()
        }

    def assign(self, values: dict[str, np.ndarray]) -> None:
        """Set some of :meth:`values` by name."""
        variables, scales = self.variables(), self.scales()
        for name, value in values.items():
            if name in scales:
                scales[name].set_scale(value)
            else:
                variables[name].assign(value)

    def tensor(self, name: str) -> Any:
        """The symbolic output of node ``name``, quantized where it has a quantizer."""
        layer_name = f"quantized_{name}"
        names = {layer.name for layer in self.model.layers}
        return self.model.get_layer(layer_name if layer_name in names else name).output


def insert_quantizers(graph: Graph, placement: Placement) -> Student:
    """Build the student; scales are NaN until calibrated.

    Args:
      graph: folded, with its ``Quantize`` nodes.
      placement: of the same graph.
    """
    activations = {
        name: ActivationQuantizer(spec.bits, spec.unsigned, graph[name].kind not in FIXED_RANGE)
        for name, spec in placement.activations.items()
    }
    kernels: dict[str, Any] = {}
    biases: dict[str, Any] = {}
    configs: dict[str, Any] = {}

    def wrap(node: Node, layer: Any) -> Any:
        group = placement.groups.get(node.name)
        quantizer: Any = activations[group] if group else None
        if group and LAYERS[node.kind].averages:
            quantizer = AverageQuantizer(quantizer, lowest_code(graph, placement, group))
        if layer is None:
            return quantize_layer(node.name, activations[placement.groups[node.name]])
        variables = {role_of(variable.name): variable for variable in layer.weights}
        if "kernel" in variables:
            kernels[node.name] = variables["kernel"]
        if "bias" in variables:
            biases[node.name] = variables["bias"]
        spec = placement.weights.get(node.name)
        wrapper, configs[node.name] = wrap_layer(layer, spec, quantizer)
        return wrapper

    model = build(graph, wrap)
    model.save = _refuse_to_save  # Keras would write a file that it cannot read
    weights = {name: configs[name].weight_quantizer for name in placement.weights}
    for node in graph.nodes:
        if node.kind in FIXED_RANGE:
            quantizer = activations[placement.groups[node.name]]
            quantizer.set_scale(1.0 / 256.0)
            quantizer.variables["zero_point"].assign(0.0)
    return Student(model, graph, placement, kernels, biases, weights, activations)


def _refuse_to_save(*args: Any, **options: Any) -> None:
    raise ValueError(
        "Keras cannot load its wrappers again. Save the whole with QuantizedModel.save, which "
        "keras_lowbit.load reads, or the weights alone with save_weights or ModelCheckpoint(..., "
        f"save_weights_only=True). Received: model.save({', '.join(map(repr, args))})"
    )
