"""Recipes: what they set, and how they are asked for."""

from __future__ import annotations

import re
from typing import Any

import networks
import numpy as np
import pytest
import tf_keras
from networks import chain

import keras_lowbit
from keras_lowbit import RECIPES, PTQConfig
from keras_lowbit.recipes import fields_of

NETWORK = chain(
    (6,), lambda k: k.Dense(4, activation="relu", name="a"), lambda k: k.Dense(3, name="b")
)


def test_every_recipe_is_a_configuration() -> None:
    assert set(RECIPES) == {"fast", "default", "best"}
    configs = {PTQConfig(**fields_of(name)) for name in RECIPES}
    assert len(configs) == len(RECIPES)
    assert PTQConfig(**fields_of("default")) == PTQConfig()


def test_quantize_follows_the_recipe() -> None:
    model = networks.randomize(NETWORK(tf_keras))
    x = networks.samples(model, 64)[0]
    qmodel = keras_lowbit.quantize(model, x, weight_bits=3, recipe="fast", verbose=0)
    assert qmodel.config == PTQConfig(weight_bits=3, **fields_of("fast"))
    plain = keras_lowbit.quantize(
        model, x, config=PTQConfig(3, optimize=(), tune_steps=0), verbose=0
    )
    fast, ranges = qmodel.student.values(), plain.student.values()
    differing = {
        name.split("/")[1] for name in fast if not np.array_equal(fast[name], ranges[name])
    }
    assert differing == {"kernel", "bias", "kernel_scale", "kernel_zero_point"}
    wanted = model(x).numpy()
    errors = [np.square(q.model(x).numpy() - wanted).mean() for q in (qmodel, plain)]
    assert errors[0] < errors[1]


def test_fast_shows_no_steps_that_it_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    model = networks.randomize(NETWORK(tf_keras))
    keras_lowbit.quantize(model, networks.samples(model, 64)[0], weight_bits=3, recipe="fast")
    shown = capsys.readouterr().out
    assert "Unit 1/" in shown and "1/1 [=" in shown and "500" not in shown


@pytest.mark.parametrize("recipe", ["quick", ["fast"], None])
def test_unknown_recipes_are_refused(recipe: Any) -> None:
    received = re.escape(f"Received: recipe={recipe!r}")
    with pytest.raises(ValueError, match=f"'fast', 'default', 'best'.*{received}"):
        keras_lowbit.quantize(NETWORK(tf_keras), np.zeros((4, 6), "f"), recipe=recipe)


def test_a_recipe_beside_a_config_is_refused() -> None:
    with pytest.raises(ValueError, match="A config says all that a recipe does.*recipe='best'"):
        keras_lowbit.quantize(
            NETWORK(tf_keras), np.zeros((4, 6), "f"), recipe="best", config=PTQConfig()
        )
