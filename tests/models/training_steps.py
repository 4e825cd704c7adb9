"""What the tests of the training scripts have in common."""

import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras


def assert_seed_decides(train: Callable[[int], tf_keras.Model]) -> None:
    """Training takes one step; the same seed gives the same weights, another one others.

    The steps are not traced, which would take far longer than the few of them.
    """
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
            nets = [train(seed) for seed in (0, 0, 1)]
    finally:
        tf.config.run_functions_eagerly(False)
    first, again, other = (
        np.concatenate([array.ravel() for array in net.get_weights()]) for net in nets
    )
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    assert int(nets[0].optimizer.iterations) == 1
