"""MobileNetV1 at a quarter of its width, for visual wake words, as in MLPerf Tiny."""

import tf_keras
from tf_keras import layers

from models.separable import convolution, separable_pair

_INITIALIZER = "he_normal"
_PAIRS = (  # filters and strides
    (16, 1),
    (32, 2),
    (32, 1),
    (64, 2),
    (64, 1),
    (128, 2),
    *[(128, 1)] * 5,
    (256, 2),
    (256, 1),
)


def build() -> tf_keras.Model:
    """The untrained net: float32 [n, 96, 96, 3] in 0..1 to probabilities of [no person, person].

    216,322 parameters, 210,850 once its batch norms are folded. Layer by layer the network that
    mlcommons/tiny publishes (benchmark/training/visual_wake_words, Apache-2.0), its weights in the
    same order; `models.pretrained.load_mobilenet` reads that one as it was trained there.
    """
    image = layers.Input((96, 96, 3), name="image")
    hidden = convolution(image, 8, 3, "stem", strides=2, initializer=_INITIALIZER)
    for number, (filters, strides) in enumerate(_PAIRS, start=1):
        hidden = separable_pair(hidden, filters, f"pair_{number}", strides, _INITIALIZER)
    hidden = layers.AveragePooling2D(3, name="pool")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)
    probabilities = layers.Dense(2, activation="softmax", name="classifier")(hidden)
    return tf_keras.Model(image, probabilities, name="mobilenet")
