"""The HAR CNN has the sizes of the paper's Table 1."""

import numpy as np

from models import har_cnn


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
