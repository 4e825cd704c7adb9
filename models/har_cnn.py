"""The paper's network for human activity recognition: 1-D convolutions over motion windows."""

from pathlib import Path

import tf_keras
from tf_keras import layers

from models.weight_files import load_weights

WEIGHTS_PATH = Path(__file__).with_name("har_cnn.npz")


def build() -> tf_keras.Model:
    """The untrained net: float32 [n, 128, 9] to class probabilities [n, 6].

    523,462 parameters, as in Table 1 of Zhuo et al. 2022, without the moving statistics of the
    three batch norms. The hidden dense layer is missing in the paper's appendix, but only with it
    do the parameters and the multiply-accumulates of that table come out.
    """
    window = layers.Input((128, 9), name="window")
    hidden = layers.Conv1D(64, 3, name="conv_first")(window)
    hidden = layers.BatchNormalization(name="conv_first_norm")(hidden)
    hidden = layers.ReLU(name="conv_first_relu")(hidden)
    hidden = layers.Conv1D(64, 3, name="conv_second")(hidden)
    hidden = layers.BatchNormalization(name="conv_second_norm")(hidden)
    hidden = layers.ReLU(name="conv_second_relu")(hidden)
    hidden = layers.MaxPooling1D(2, name="pool")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)
    hidden = layers.Dense(128, name="dense")(hidden)
    hidden = layers.BatchNormalization(name="dense_norm")(hidden)
    hidden = layers.ReLU(name="dense_relu")(hidden)
    probabilities = layers.Dense(6, activation="softmax", name="classifier")(hidden)
    return tf_keras.Model(window, probabilities, name="har_cnn")


def load() -> tf_keras.Model:
    """The net of `build()` with the weights that `python -m models.train_har` wrote."""
    model = build()
    load_weights(model, WEIGHTS_PATH)
    return model
