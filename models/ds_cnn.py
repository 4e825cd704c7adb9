"""DS-CNN of MLPerf Tiny: four depthwise-separable pairs that spot keywords in MFCCs."""

import tf_keras
from tf_keras import layers

from models.separable import convolution, separable_pair

_FILTERS = 64


def build() -> tf_keras.Model:
    """The untrained net: float32 [n, 49, 10, 1] MFCCs to class probabilities [n, 12].

    23,756 parameters, 22,604 once its batch norms are folded. Layer by layer the network that
    mlcommons/tiny publishes (benchmark/training/keyword_spotting, Apache-2.0), its weights in the
    same order; `models.pretrained.load_ds_cnn` reads that one as it was trained there.
    """
    features = layers.Input((49, 10, 1), name="features")
    hidden = convolution(features, _FILTERS, (10, 4), "stem", strides=2)
    hidden = layers.Dropout(0.2, name="stem_dropout")(hidden)
    for number in range(1, 5):
        hidden = separable_pair(hidden, _FILTERS, f"pair_{number}")
    hidden = layers.Dropout(0.4, name="dropout")(hidden)
    hidden = layers.AveragePooling2D((25, 5), name="pool")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)
    probabilities = layers.Dense(12, activation="softmax", name="classifier")(hidden)
    return tf_keras.Model(features, probabilities, name="ds_cnn")
