"""A float network as files that every Keras 2 can read: its architecture as JSON, its weights as arrays."""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

import numpy as np

LATER_FIELDS = ("optional",)  # of layers, which TensorFlow 2.15 does not know
FLAT_LAYERS = {
    "Conv1D": "Conv2D", "MaxPooling1D": "MaxPooling2D", "AveragePooling1D": "AveragePooling2D",
}  # fmt: skip
FLAT_FIELDS = ("kernel_size", "pool_size", "strides", "dilation_rate")
CHANNELS = 2  # the axis, of samples, steps and channels
EXPANDED = "with_a_width_of_one"


class Network(NamedTuple):
    """A float network.

    Attributes:
      name: "" as it is, or how it was rewritten.
      architecture: JSON that ``model_from_json`` reads.
      weights: in the order of ``get_weights``.
    """

    name: str
    architecture: str
    weights: list[np.ndarray]


def networks_of(model: Any) -> list[Network]:
    """The network as it is and, if it has layers of one dimension, the same with two.

    Some tools know no Conv1D; the network with a width of one computes the same.

    Args:
      model: tf_keras Functional model with one input.
    """
    config = json.loads(model.to_json())
    for layer in config["config"]["layers"]:
        for field in LATER_FIELDS:
            layer["config"].pop(field, None)
    found = [Network("", json.dumps(config), model.get_weights())]
    if any(type(layer).__name__ in FLAT_LAYERS for layer in model.layers):
        found.append(_with_two_dimensions(model, config))
    return found


def _with_two_dimensions(model: Any, config: dict[str, Any]) -> Network:
    config = copy.deepcopy(config)
    layers = config["config"]["layers"]
    first = layers[0]
    steps, channels = model.inputs[0].shape[1:]
    for layer in layers[1:]:
        for node in layer["inbound_nodes"]:
            for tensor in node:
                if tensor[0] == first["name"]:
                    tensor[0] = EXPANDED
        if layer["class_name"] in FLAT_LAYERS:
            layer["class_name"] = FLAT_LAYERS[layer["class_name"]]
            for field in FLAT_FIELDS:
                if field in layer["config"]:
                    layer["config"][field] = [layer["config"][field][0], 1]
        if layer["config"].get("axis") == [CHANNELS]:  # of a batch norm
            layer["config"]["axis"] = [CHANNELS + 1]
    reshape = {
        "class_name": "Reshape", "name": EXPANDED,
        "config": {"name": EXPANDED, "target_shape": [steps, 1, channels]},
        "inbound_nodes": [[[first["name"], 0, 0, {}]]],
    }  # fmt: skip
    layers.insert(1, reshape)
    weights = [array[:, None] if array.ndim == 3 else array for array in model.get_weights()]
    return Network("Conv1D written as Conv2D", json.dumps(config), weights)
