"""Costs: the paper's Table 1 exactly, and small nets by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import tf_keras
from networks import FLAVOURS, chain

from keras_lowbit.accounting import Cost, cost, cost_of
from keras_lowbit.config import PTQConfig
from keras_lowbit.preprocess.fold_batch_norm import fold_batch_norm
from keras_lowbit.quantizers.placement import insert_requantization, place
from keras_lowbit.reader import read
from models import har_cnn, pretrained

TABLE_1 = [  # model, batch norms folded, parameters, MACs as the paper counts
    (pretrained.load_res8, True, 77_706, 12_591_808),
    (pretrained.load_ds_cnn, True, 22_604, 2_736_832),
    (pretrained.load_mobilenet, True, 210_850, 7_723_776),
    (har_cnn.build, False, 523_462, 2_298_368),
]


@pytest.mark.parametrize(("load", "folded", "parameters", "paper_macs"), TABLE_1)
def test_table_1_of_the_paper(
    shared_data: Path, load: Callable[[], Any], folded: bool, parameters: int, paper_macs: int
) -> None:
    del shared_data
    result = cost(load(), fold_batch_norm=folded)
    assert (result.parameters, result.paper_macs) == (parameters, paper_macs)


def test_res8_by_liveness(shared_data: Path) -> None:
    del shared_data
    result = cost(pretrained.load_res8())
    assert result.macs == 12_501_632
    # The second convolution of the first block: its input, its output and the skip.
    assert result.peak_activation_elements == 3 * 32 * 32 * 16
    assert result.peak_memory_bytes == 4 * (77_706 + 3 * 32 * 32 * 16)


@pytest.mark.parametrize("keras", FLAVOURS.values(), ids=FLAVOURS)
def test_a_small_net_by_hand(keras: Any) -> None:
    network = chain(
        (6, 5, 2),
        lambda k: k.Conv2D(4, 3, strides=2, padding="same"),  # 3 x 3 x 4
        lambda k: k.BatchNormalization(),
        lambda k: k.ReLU(),
        lambda k: k.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False),  # 2 x 2 x 8
        lambda k: k.AveragePooling2D(2),
        lambda k: k.Flatten(),
        lambda k: k.Dense(3),
    )
    macs = 9 * 72 + 4 * 32 + 24
    folded, unfolded = cost(network(keras)), cost(network(keras), fold_batch_norm=False)
    assert folded == Cost(
        parameters=72 + 4 + 32 + 24 + 3,
        macs=macs,
        paper_macs=macs + 36 + 8 * 5,
        bops=macs * 32 * 32,
        weight_bytes=4 * 135,
        peak_activation_elements=60 + 36,
        peak_memory_bytes=4 * (135 + 96),
    )
    assert unfolded.parameters == 135 + 8
    assert unfolded.paper_macs == folded.paper_macs + 2 * 36
    assert unfolded.peak_activation_elements == folded.peak_activation_elements


def quantized_cost(model: Any, config: PTQConfig) -> Cost:
    graph = insert_requantization(fold_batch_norm(read(model))[0], config)
    return cost_of(graph, place(graph, config))


def test_bits_of_each_tensor_count() -> None:
    model = chain(
        (6, 6, 2), lambda k: k.Conv2D(4, 3, activation="relu"), lambda k: k.MaxPooling2D(2),
        lambda k: k.Flatten(), lambda k: k.Dense(3),
    )(tf_keras)  # fmt: skip
    result = quantized_cost(
        model, PTQConfig(weight_bits=3, activation_bits=5, layer_bits={"dense.*": 4})
    )
    first, last = 16 * 72, 16 * 3
    assert result.macs == first + last
    assert result.bops == first * 3 * 8 + last * 4 * 4  # the network input has 8 bits
    assert result.weight_bytes == (72 * 3 + 48 * 4) // 8 + 4 * (4 + 3)
    assert result.peak_activation_elements == 72 + 64
    assert result.peak_memory_bytes == result.weight_bytes + 72 + 64 * 4 // 8


def test_requantized_tensors_count() -> None:
    model = chain(
        (8, 8, 3), lambda k: k.Conv2D(4, 1, activation="relu"),
        lambda k: k.GlobalAveragePooling2D(), lambda k: k.Dense(2),
    )(tf_keras)  # fmt: skip
    result = quantized_cost(model, PTQConfig.uniform(2))
    assert result.bops == result.macs * 2 * 2
    # The convolution's output has 8 bits, since its mean is rounded to 2 bits only behind the pool.
    assert result.peak_memory_bytes == result.weight_bytes + 64 * 3 * 2 // 8 + 64 * 4


def test_skips_live_until_their_last_use() -> None:
    def network(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((4, 4, 2))
        narrow = layers.Conv2D(1, 1)(layers.ReLU()(image))  # beside it the image lives on
        wide = layers.Conv2D(3, 1)(narrow)
        return keras.Model(image, [layers.Concatenate()([image, wide]), narrow])

    result = cost(network(tf_keras))
    assert result.peak_activation_elements == 16 * (2 + 3 + 5 + 1)


def test_the_text_names_every_figure() -> None:
    text = str(cost(networks.residual(tf_keras)))
    for word in ("parameters", "MACs", "as the paper counts", "BOPs", "weights", "peak memory"):
        assert word in text
    assert all(len(line) < 80 for line in text.splitlines())
