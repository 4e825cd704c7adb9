"""MobileNetV1 as defined here is the published one, and has the sizes of the paper."""

import math
from pathlib import Path

from architectures import Row, assert_counts, assert_same_network, table

from keras_lowbit.accounting import cost
from models import data, mobilenet, pretrained

# The 13 pairs: side of the depthwise output, channels in, channels out.
PAIRS = [
    (48, 8, 16),
    (24, 16, 32),
    (24, 32, 32),
    (12, 32, 64),
    (12, 64, 64),
    (6, 64, 128),
    *[(6, 128, 128)] * 5,
    (3, 128, 256),
    (3, 256, 256),
]


def test_layers_are_those_of_the_paper() -> None:
    rows: list[Row] = [("Conv2D", (3, 3), (48, 48, 8))]
    for side, inputs, outputs in PAIRS:
        rows.append(("DepthwiseConv2D", (3, 3), (side, side, inputs)))
        rows.append(("Conv2D", (1, 1), (side, side, outputs)))
    rows += [("AveragePooling2D", (3, 3), (1, 1, 256)), ("Dense", (), (2,))]
    assert table(mobilenet.build()) == rows


def test_counts_are_those_of_table_1() -> None:
    pairs = sum(side**2 * inputs * (9 + outputs) for side, inputs, outputs in PAIRS)
    macs = 48**2 * 8 * 27 + pairs + 256 * 2
    assert_counts(mobilenet.build(), parameters=210_850, macs=macs, paper_macs=7_723_776)


def test_activations_are_largest_in_the_first_pair() -> None:
    """Its 1 x 1 convolution has input and output live; the paper counts the output alone."""
    model = mobilenet.build()
    assert cost(model).peak_activation_elements == 48**2 * (8 + 16)
    assert max(math.prod(shape) for _, _, shape in table(model)) == 36_864


def test_official_weights_give_the_official_outputs(shared_data: Path) -> None:
    del shared_data
    samples = data.load_vww().x_calib[:16]
    assert_same_network(mobilenet.build(), pretrained.load_mobilenet(), samples)
