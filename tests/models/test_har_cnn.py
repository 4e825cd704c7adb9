"""The HAR CNN has the sizes of the paper's Table 1, and its accuracy."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from architectures import Row, table

from models import data, har_cnn, train_har

LAYERS: list[Row] = [
    ("Conv1D", (3,), (126, 64)),
    ("Conv1D", (3,), (124, 64)),
    ("MaxPooling1D", (2,), (62, 64)),
    ("Dense", (), (128,)),  # not in the paper's table, but in its parameters
    ("Dense", (), (6,)),
]
ORDER = (
    "InputLayer Conv1D BatchNormalization ReLU Conv1D BatchNormalization ReLU MaxPooling1D Flatten "
    "Dense BatchNormalization ReLU Dense"
)


def test_layers_are_those_of_the_paper() -> None:
    net = har_cnn.build()
    assert table(net) == LAYERS
    assert [type(layer).__name__ for layer in net.layers] == ORDER.split()


def test_parameters_are_those_of_table_1() -> None:
    net = har_cnn.build()
    trainable = sum(int(np.prod(variable.shape)) for variable in net.trainable_weights)
    assert trainable == 523_462
    assert net.count_params() == 523_462 + 512


def test_shapes_are_those_of_table_1() -> None:
    net = har_cnn.build()
    assert net.input_shape == (None, 128, 9)
    assert net.output_shape == (None, 6)
    sizes = {layer.name: int(np.prod(layer.output.shape[1:])) for layer in net.layers}
    assert max(sizes.values()) == sizes["conv_first"] == 8_064
    assert sizes["flatten"] == 62 * 64


def test_multiply_accumulates_are_those_of_table_1() -> None:
    """Counted as in spec.md, section 3: convolution biases and unfolded batch norms included."""
    net = har_cnn.build()
    sizes = {layer.name: int(np.prod(layer.output.shape[1:])) for layer in net.layers}
    convolutions = sizes["conv_first"] * (3 * 9 + 1) + sizes["conv_second"] * (3 * 64 + 1)
    dense = 62 * 64 * 128 + 128 * 6
    norms = 2 * (sizes["conv_first_norm"] + sizes["conv_second_norm"] + sizes["dense_norm"])
    assert convolutions + dense + norms == 2_298_368


def test_outputs_are_probabilities() -> None:
    outputs = har_cnn.build()(np.zeros((2, 128, 9), np.float32)).numpy()
    np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_reaches_the_accuracy_of_table_1_on_subjects_it_never_saw(shared_data: Path) -> None:
    del shared_data
    windows = data.load_uci_har()
    assert train_har.accuracy(har_cnn.load(), windows.x_test, windows.y_test) >= 0.9036


def test_weights_file_is_small_enough_to_commit() -> None:
    assert har_cnn.WEIGHTS_PATH.stat().st_size < 2_200_000


def test_validation_holds_out_whole_subjects_each_once(shared_data: Path) -> None:
    del shared_data
    subjects = data.load_uci_har().subject_train
    out = np.stack([train_har.held_out(subjects, fold) for fold in range(train_har.FOLDS)])
    assert (out.sum(axis=0) == 1).all()
    for fold in out:
        assert not set(subjects[fold]) & set(subjects[~fold])
        assert len(set(subjects[fold])) in (4, 5)


def test_training_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    windows = np.random.default_rng(0).normal(size=(32, 128, 9)).astype(np.float32)
    labels = np.arange(32, dtype=np.uint8) % 6
    recipe = train_har.Recipe(epochs=2, batch_size=16)
    first, second = (train_har.train(windows, labels, recipe, seed=1) for _ in range(2))
    for one, another in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-5)
