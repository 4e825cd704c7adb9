"""Move a ReLU in front of what only picks or places values, so that it runs in a layer's kernel.

``relu(max_pool(x)) = max_pool(relu(x))``, and likewise for padding with zeros and reshaping. Inside
the kernel of the layer before it a ReLU costs nothing and is rounded once; by itself it is one more
operator that rounds again.
"""

from __future__ import annotations

from keras_lowbit.graph import Graph
from keras_lowbit.layer_table import LAYERS


def hoist_relu(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """Swap every such pair, repeatedly; outputs are exactly unchanged.

    Returns:
      The graph and, by ReLU, what it was moved in front of.
    """
    moved: dict[str, str] = {}
    waiting = [node.name for node in graph.nodes if node.kind == "ReLU"]
    while waiting:
        relu = graph[waiting[-1]]
        picker = graph[relu.inputs[0]]
        alone = graph.only_consumer(picker.name) is not None
        if not (LAYERS[picker.kind].keeps_grid and len(picker.inputs) == 1 and alone):
            waiting.pop()
            continue
        source = graph[picker.inputs[0]]
        graph = graph.redirected(relu.name, picker.name, keep=picker.name)
        graph = graph.updated(
            relu.replace(inputs=(source.name,), shape=source.shape),
            picker.replace(inputs=(relu.name,)),
        )
        moved[relu.name] = f"moved in front of {picker.name}"
    return graph, moved
