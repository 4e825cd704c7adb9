"""The digits net is small, complete, and reads digits."""

import numpy as np
import pytest
import tf_keras

from models import data, digits, train_digits


@pytest.fixture(scope="module")
def net() -> tf_keras.Model:
    return digits.load()


def test_reaches_its_accuracy_on_images_it_never_saw(net: tf_keras.Model) -> None:
    dataset = data.load_digits()
    predicted = net.predict(dataset.x_test, batch_size=450, verbose=0).argmax(axis=1)
    assert (predicted == dataset.y_test).mean() >= 0.98


def test_has_the_operations_that_quantization_must_handle(net: tf_keras.Model) -> None:
    kinds = {type(layer).__name__ for layer in net.layers}
    assert kinds >= {
        "Conv2D",
        "DepthwiseConv2D",
        "BatchNormalization",
        "ReLU",
        "Add",
        "GlobalAveragePooling2D",
        "Dense",
    }
    assert net.input_shape == (None, 8, 8, 1)
    assert net.output_shape == (None, 10)
    assert net.count_params() == 13_050


def test_load_gives_the_same_net_each_time(net: tf_keras.Model) -> None:
    again = digits.load()
    assert [layer.name for layer in again.layers] == [layer.name for layer in net.layers]
    for first, second in zip(net.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_weights_file_is_small_enough_to_commit() -> None:
    assert digits.WEIGHTS_PATH.stat().st_size < 150_000


def test_shifted_moves_by_one_pixel_each_way() -> None:
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    images = train_digits.shifted(image)[..., 0]
    assert images.shape == (9, 3, 3)
    np.testing.assert_array_equal(images[4], image[0, ..., 0])
    np.testing.assert_array_equal(images[0], [[0, 0, 0], [0, 1, 2], [0, 4, 5]])
    np.testing.assert_array_equal(images[8], [[5, 6, 0], [8, 9, 0], [0, 0, 0]])
