"""What a configuration accepts, and its two-way JSON."""

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from keras_lowbit.checks import plain_number
from keras_lowbit.config import PTQConfig, TensorSpec
from keras_lowbit.reconstruct.variables import AdaRound


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_of_a_grid(bits: int) -> None:
    weights = TensorSpec(bits, symmetric=True, axis=(3,))
    activations = TensorSpec(bits, symmetric=False)
    assert weights.qmin == -weights.qmax == 1 - 2 ** (bits - 1)
    assert (activations.qmin, activations.qmax) == (0, 2**bits - 1)
    assert weights.scale_shape((3, 3, 4, 5)) == (1, 1, 1, 5)
    assert activations.scale_shape((7,)) == (1,)


def test_grids_of_weights() -> None:
    zero_points = {"full": (0.0,), "midrise": (-0.5,), "centred": (-0.5, 0.0, -1.0)}
    for grid, expected in zero_points.items():
        spec = TensorSpec(3, True, grid=grid)
        assert (spec.qmin, spec.qmax, spec.zero_points) == (-4, 3, expected)
    chosen = [PTQConfig().grid_of_weights(bits) for bits in (2, 3, 4, 8)]
    assert chosen == ["midrise", "midrise", "narrow", "narrow"]
    chosen = [PTQConfig(weight_grid="full").grid_of_weights(bits) for bits in (2, 7, 8)]
    assert chosen == ["full", "full", "narrow"]
    for grid, bits in (("full", 8), ("midrise", 8), ("auto", 4)):
        with pytest.raises(ValueError, match=f"'narrow' at 8 bits.*grid='{grid}', bits={bits}"):
            TensorSpec(bits, True, grid=grid)


@pytest.mark.parametrize("bits", [1, 9, 4.0, 2.5, np.True_, True, "4", None])
def test_bits_are_checked(bits: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"2 to 8, since codes are stored in int8 containers. "
                                                   f"Received: bits={plain_number(bits)!r}")):  # fmt: skip
        TensorSpec(bits, symmetric=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_bits": 1}, "weight_bits=1"),
        ({"weight_bits": 16}, "weight_bits=16"),
        ({"activation_bits": 12}, "or 16 for activations.*activation_bits=12"),
        ({"layer_bits": {"conv": (16, 16)}}, "layer_bits\\['conv'\\]"),
        ({"linear_activation_bits": 0}, "linear_activation_bits=0"),
        ({"input_bits": 9}, "input_bits=9"),
        ({"first_last_bits": 12}, "first_last_bits=12"),
        ({"layer_bits": {"conv(": 4}}, "regular expression.*'conv\\('"),
        ({"layer_bits": 5}, "must map patterns.*layer_bits=5"),
        ({"layer_bits": [("conv",)]}, "must map patterns.*layer_bits=\\[\\('conv',\\)\\]"),
        ({"layer_bits": {5: 8}}, "must map patterns.*layer_bits=\\{5: 8\\}"),
        ({"layer_bits": None}, "layer_bits=None"),
        ({"correct_bias": "false"}, "True or False. Received: correct_bias='false'"),
        ({"fold_batch_norm": None}, "fold_batch_norm=None"),
        ({"equalize": 1}, "equalize=1"),
        ({"layer_bits": {"conv": 1}}, "layer_bits\\['conv'\\]"),
        ({"layer_bits": {"conv": (4, 4, 4)}}, "pair"),
        ({"weight_grid": "ternary"}, "'centred'.*weight_grid='ternary'"),
        ({"weight_range": "percentile"}, "'minmax', 'mse'.*weight_range='percentile'"),
        ({"activation_range": "max"}, "activation_range='max'"),
        ({"units": "stage"}, "units='stage'"),
        ({"units": "merged:1"}, "units='merged:1'"),
        ({"tune": "biases"}, "'weight_scale'.*tune=\\('biases',\\)"),
        ({"tune": ("bias", True)}, "tune=\\('bias', True\\)"),
        ({"tune": 5}, "a list or tuple of several.*tune=5"),
        ({"tune": False}, "tune=False"),
        ({"tune": {"bias": False}}, "tune=\\{'bias': False\\}"),
        ({"optimize": 5}, "optimize=5"),
        ({"optimize": (5,)}, "names, dicts or instances.*optimize=\\(5,\\)"),
        ({"steps": -1}, "at least 0. Received: steps=-1"),
        ({"batch_size": 0}, "at least 1. Received: batch_size=0"),
        ({"calibration_samples": 1.5}, "calibration_samples=1.5"),
        ({"steps": np.float64(10)}, "steps=10.0"),
        ({"layer_bits": {"conv": np.int64(9)}}, "layer_bits\\['conv'\\]=9"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"tune_learning_rate": float("inf")}, "tune_learning_rate=inf"),
        ({"split_channels": 0.6}, "from 0 to 0.5. Received: split_channels=0.6"),
        ({"split_channels": -0.1}, "split_channels=-0.1"),
        ({"split_channels": True}, "split_channels=True"),
        ({"split_channels": float("nan")}, "split_channels=nan"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PTQConfig(**fields)


def test_layer_bits_the_last_match_of_a_whole_name_wins() -> None:
    config = PTQConfig(
        weight_bits=3, activation_bits=5, layer_bits={"conv.*": 8, "conv_2|dense": (2, 6)}
    )
    assert config.bits_of_layer("stem") == (3, 5)
    assert config.bits_of_layer("conv_1") == (8, 8)
    assert config.bits_of_layer("conv_2") == (2, 6)
    assert config.bits_of_layer("my_dense") == (3, 5)


def test_presets() -> None:
    uniform = PTQConfig.uniform(3, steps=7)
    assert (uniform.weight_bits, uniform.activation_bits, uniform.input_bits) == (3, 3, 3)
    assert (uniform.linear_activation_bits, uniform.first_last_bits, uniform.steps) == (8, None, 7)
    edge = PTQConfig.edge8(3)
    assert (edge.weight_bits, edge.activation_bits) == (3, 3)
    assert (edge.input_bits, edge.first_last_bits) == (8, 8)


@pytest.mark.parametrize(
    "config",
    [
        PTQConfig(),
        PTQConfig(layer_bits={"a|b": 8, "c": (2, 4)}, learning_rate=0.1, optimize=()),
        PTQConfig.edge8(2, optimize=[AdaRound(), "lsq"], units="layer", equalize=True),
        PTQConfig(split_channels=0.1, tune=("kernel", "bias")),
    ],
)
def test_json_both_ways(config: PTQConfig) -> None:
    again = PTQConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_json() == config.to_json()


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        ({"weight_bits": np.int64(2)}, {"weight_bits": 2}),
        ({"activation_bits": np.uint8(16)}, {"activation_bits": 16}),
        ({"first_last_bits": np.int8(8)}, {"first_last_bits": 8}),
        ({"steps": np.int64(10), "batch_size": np.int32(4)}, {"steps": 10, "batch_size": 4}),
        ({"layer_bits": {"a": np.int64(3)}}, {"layer_bits": {"a": 3}}),
        ({"layer_bits": {"a": (np.int64(3), np.int64(16))}}, {"layer_bits": {"a": (3, 16)}}),
        ({"learning_rate": np.float32(0.5)}, {"learning_rate": 0.5}),
        ({"split_channels": np.float32(0.25)}, {"split_channels": 0.25}),
        (
            {"learning_rate": 1, "tune_learning_rate": 2},
            {"learning_rate": 1.0, "tune_learning_rate": 2.0},
        ),
    ],
)
def test_numbers_of_numpy_are_stored_as_pythons(
    fields: dict[str, Any], plain: dict[str, Any]
) -> None:
    config, expected = PTQConfig(**fields), PTQConfig(**plain)
    assert repr(config) == repr(expected)
    assert config == expected
    assert hash(config) == hash(expected)
    assert json.loads(config.to_json()) == json.loads(expected.to_json())
    assert repr(TensorSpec(np.int64(4), symmetric=True)) == repr(TensorSpec(4, symmetric=True))


def test_a_configuration_is_frozen_and_compares_by_value() -> None:
    config = PTQConfig(layer_bits={"a": 4})
    assert config == PTQConfig(layer_bits=[("a", 4)])
    assert config != PTQConfig(layer_bits={"a": 5})
    assert PTQConfig(optimize="lsq").optimize == ("lsq",)
    assert PTQConfig(optimize=None).optimize == ()
    assert PTQConfig(tune=["kernel", "bias"]) == PTQConfig(tune=("bias", "kernel"))
    assert PTQConfig(tune="bias").tune == ("bias",)
    assert PTQConfig(tune=None).tune == ()
    assert PTQConfig(split_channels=0) == PTQConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]
