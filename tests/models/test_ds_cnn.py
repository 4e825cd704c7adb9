"""DS-CNN as defined here is the published one, and has the sizes of the paper."""

from pathlib import Path

from architectures import assert_counts, assert_same_network, table

from keras_lowbit.accounting import cost
from models import data, ds_cnn, pretrained

_PAIR = [("DepthwiseConv2D", (3, 3), (25, 5, 64)), ("Conv2D", (1, 1), (25, 5, 64))]


def test_layers_are_those_of_the_paper() -> None:
    assert table(ds_cnn.build()) == [
        ("Conv2D", (10, 4), (25, 5, 64)),
        *_PAIR * 4,
        ("AveragePooling2D", (25, 5), (1, 1, 64)),
        ("Dense", (), (12,)),
    ]


def test_counts_are_those_of_table_1() -> None:
    # Stem 10 * 4 and per pair 3 * 3 + 64 weights a position, 12 classes.
    macs = 25 * 5 * 64 * (40 + 4 * (9 + 64)) + 64 * 12
    assert_counts(ds_cnn.build(), parameters=22_604, macs=macs, paper_macs=2_736_832)


def test_activations_are_alike_in_all_pairs() -> None:
    """Two live tensors; the paper's column has MobileNetV1's largest output in this row."""
    assert cost(ds_cnn.build()).peak_activation_elements == 2 * 25 * 5 * 64


def test_official_weights_give_the_official_outputs(shared_data: Path) -> None:
    del shared_data
    assert_same_network(ds_cnn.build(), pretrained.load_ds_cnn(), data.load_kws().x_calib[:64])
