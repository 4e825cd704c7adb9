"""What the tests of the official networks' definitions have in common."""

from collections.abc import Iterable

import numpy as np
import tf_keras

from keras_lowbit.accounting import cost

# One row of the paper's architecture tables: kind of layer, kernel or window, output shape.
Row = tuple[str, tuple[int, ...], tuple[int, ...]]

_KINDS = {
    "Conv1D": "kernel_size",
    "Conv2D": "kernel_size",
    "DepthwiseConv2D": "kernel_size",
    "AveragePooling2D": "pool_size",
    "MaxPooling1D": "pool_size",
    "Dense": None,
}


def table(model: tf_keras.Model) -> list[Row]:
    """The layers of a model that its table names."""
    rows = []
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in _KINDS:
            window = getattr(layer, _KINDS[kind]) if _KINDS[kind] else ()
            rows.append((kind, tuple(window), tuple(layer.output_shape[1:])))
    return rows


def assert_counts(model: tf_keras.Model, parameters: int, macs: int, paper_macs: int) -> None:
    """The figures of Table 1 after folding, and the pure multiply-accumulates."""
    folded = cost(model)
    assert (folded.parameters, folded.macs, folded.paper_macs) == (parameters, macs, paper_macs)


def assert_same_network(
    built: tf_keras.Model, official: tf_keras.Model, samples: np.ndarray
) -> None:
    """The official weights fit the definition and give the official outputs.

    Settings that inference does not show (initial values, weight decay, dropout, the norms'
    momentum) must agree as well, or the training script trains another network.
    """
    assert table(built) == table(official)
    built.set_weights(official.get_weights())
    np.testing.assert_allclose(
        built.predict(samples, verbose=0), official.predict(samples, verbose=0), atol=1e-6
    )
    assert _settings(built.layers) == _settings(official.layers)


def _settings(layers: Iterable[tf_keras.layers.Layer]) -> list[dict[str, str]]:
    """What the layers' configs say, but for their names."""
    return [
        {key: str(value) for key, value in layer.get_config().items() if key != "name"}
        for layer in layers
    ]
