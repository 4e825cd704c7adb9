"""Step 1: a graph of the same function that is friendlier to quantization."""

from __future__ import annotations

from absl import logging

from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph
from keras_lowbit.preprocess.equalize import equalize
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.preprocess.hoist_relu import hoist_relu
from keras_lowbit.preprocess.split_channels import split_channels
from keras_lowbit.quantizers.placement import place
from keras_lowbit.quantizers.ranges import first_method


def preprocess(graph: Graph, config: PTQConfig) -> tuple[Graph, dict[str, str]]:
    """Fold batch norms, move ReLUs into kernels and, if asked, equalize and split channels.

    Outputs are unchanged.

    Args:
      graph: as read.
      config: ``fold_batch_norm``, ``equalize`` and ``split_channels`` matter, and for the last the
        grids of the weights.

    Returns:
      The graph and, by layer name, what was done to it.

    Raises:
      ValueError: batch norms would be left, since the integer kernels have none.
    """
    notes: dict[str, str] = {}
    kept = [node.name for node in graph.nodes if node.kind == "BatchNormalization"]
    if config.fold_batch_norm:
        graph, notes = fold_batch_norm(graph)
    elif kept:
        raise ValueError(
            "The integer kernels have no batch norm, rescaling or normalization, so these are folded, or the model "
            f"has none. Use fold_batch_norm=True. Received: fold_batch_norm=False and the layers {kept}"
        )
    graph, moved = hoist_relu(graph)
    notes |= moved
    if config.equalize:
        graph, pairs = equalize(graph)
        notes |= {first: f"equalized with {second}" for first, second in pairs}
        if not pairs:
            logging.warning(
                "keras_lowbit: equalize=True found no pair of layers to equalize: between the two there may "
                "only be a ReLU, no ReLU6, whose cap does not scale, no fork, add, pool or the like."
            )
    if config.split_channels:
        specs = place(graph, config).weights
        weight_range = first_method(config.weight_range)
        graph, split = split_channels(graph, config.split_channels, specs, weight_range)
        notes |= {n: f"{notes[n]}; {note}" if n in notes else note for n, note in split.items()}
        if not split:
            logging.warning(
                "keras_lowbit: split_channels=%s found no layer to split: its input must lead back to a "
                "convolution or dense layer without a fork, add, concatenation or flattening.",
                config.split_channels,
            )
    return graph, notes
