"""What every optimization variable must do: one battery, inherited by the tests of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pipelines
import pytest
import tensorflow as tf
import tf_keras
from networks import chain, randomize

from keras_lowbit import PTQConfig
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.reconstruct import variables
from keras_lowbit.reconstruct.activations import UnitFunction
from keras_lowbit.reconstruct.reconstructor import relative_error
from keras_lowbit.reconstruct.training import attach, train
from keras_lowbit.reconstruct.units import Unit, find_units
from keras_lowbit.reconstruct.variables import Grid, OptimizationVariable

KINDS = {
    "Conv2D": chain((4, 4, 2), lambda k: k.Conv2D(3, 3, name="layer")),
    "DepthwiseConv2D": chain(
        (4, 4, 2), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="layer")
    ),
    "Dense": chain((6,), lambda k: k.Dense(4, name="layer")),
}
STEPS = 50
on_all_kernels = pytest.mark.parametrize("kind", KINDS)
at_some_widths = pytest.mark.parametrize(
    ("bits", "grid"), [(2, "narrow"), (2, "midrise"), (3, "centred"), (3, "full"), (8, "narrow")]
)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A one-layer student whose input needs no rounding, so that only the kernel can err."""

    qmodel: QuantizedModel
    x: np.ndarray

    @classmethod
    def of(cls, kind: str, bits: int, grid: str = "auto") -> Toy:
        """Random weights; inputs are multiples of the input's scale, 1/128."""
        model = randomize(KINDS[kind](tf_keras))
        codes = np.random.default_rng(0).integers(-128, 128, (64, *model.input_shape[1:]))
        codes.ravel()[:2] = -128, 127
        x = (codes / 128).astype(np.float32)
        config = pipelines.ranges_only(
            bits, input_bits=8, activation_range="minmax", weight_grid=grid
        )
        return cls(pipelines.quantized(model, config, data=x), x)

    @property
    def unit(self) -> Unit:
        student = self.qmodel.student
        return find_units(student.graph, student.placement, "layer")[0]

    @property
    def kernel(self) -> tf.Variable:
        return self.qmodel.student.kernels["layer"]

    @property
    def grid(self) -> Grid:
        quantizer = self.qmodel.student.weight_quantizers["layer"]
        return Grid.of(quantizer)

    def train(
        self, variable: OptimizationVariable, wanted_kernel: Any, on_step_end: Any = None
    ) -> list[float]:
        """Losses by step while the student learns the output of ``wanted_kernel``."""
        student, teacher = self.qmodel.student, self.qmodel.teacher
        weights = teacher.get_layer("layer").get_weights()
        teacher.get_layer("layer").set_weights([np.asarray(wanted_kernel), *weights[1:]])
        arrived = [tf.constant(self.x)]
        wanted = UnitFunction(self.unit, teacher, None).map(arrived)
        losses: list[float] = []

        def watch(step: int, logs: dict[str, float]) -> None:
            losses.append(logs["loss"])
            if on_step_end:
                on_step_end(step, logs)

        train(
            UnitFunction(self.unit, student.model, student),
            attach(student, self.unit.layers, [], variable, None), [], arrived, wanted,
            lambda outputs, batch: relative_error(outputs, batch, [1.0]),
            steps=STEPS, batch_size=64, bias_learning_rate=0.0,
            generator=np.random.default_rng(0), on_step_end=watch,
        )  # fmt: skip
        return losses


class VariableContract:
    """Inherit, set ``variable``, and say what is special by overriding the hooks."""

    variable: OptimizationVariable

    def start(self, kernel: tf.Tensor, grid: Grid) -> tuple[tf.Tensor, float]:
        """What ``quantize`` gives before any step, and how far in scales it may be off."""
        return grid.nearest(kernel), 1e-6

    def wanted(self, kernel: tf.Tensor, grid: Grid) -> tf.Tensor:
        """A kernel whose output this variable can come nearer to: everything half a code up."""
        return kernel + 0.5 * grid.scale

    def spoil(self, toy: Toy) -> None:
        """Make the start worse, where the output is good from the start."""

    @on_all_kernels
    @at_some_widths
    def test_start(self, kind: str, bits: int, grid: str) -> None:
        toy = Toy.of(kind, bits, grid)
        kernel = toy.kernel.value()
        state = self.variable.init(kernel, toy.grid)
        expected, tolerance = self.start(kernel, toy.grid)
        started = self.variable.quantize(kernel, toy.grid, state)
        assert started.shape == kernel.shape
        np.testing.assert_array_less(
            np.abs((started - expected) / toy.grid.scale), tolerance * (1 + 1e-3)
        )

    @on_all_kernels
    @at_some_widths
    def test_gradients(self, kind: str, bits: int, grid: str) -> None:
        toy = Toy.of(kind, bits, grid)
        kernel = toy.kernel.value()
        state = self.variable.init(kernel, toy.grid)
        assert state
        with tf.GradientTape() as tape:
            quantized = self.variable.quantize(kernel, toy.grid, state)
            loss = tf.reduce_sum(quantized * self.wanted(kernel, toy.grid))
        for name, gradient in tape.gradient(loss, state).items():
            assert gradient is not None, name
            assert gradient.shape == state[name].shape
            assert np.isfinite(gradient).all(), name
            assert np.abs(gradient).max() > 0, name

    def test_penalties_are_finite_scalars(self) -> None:
        toy = Toy.of("Dense", 4)
        state = self.variable.init(toy.kernel.value(), toy.grid)
        for progress in np.linspace(0.0, 1.0, 11):
            penalty = self.variable.penalty(state, tf.constant(progress, tf.float32))
            assert penalty.shape == ()
            assert 0.0 <= float(penalty) < np.inf

    @on_all_kernels
    @at_some_widths
    def test_training(self, kind: str, bits: int, grid: str) -> None:
        """The loss falls, the hard kernel is on the grid, and nothing else is left."""
        toy = Toy.of(kind, bits, grid)
        self.spoil(toy)
        model = toy.qmodel.model
        before = [(v.ref(), v.shape) for v in model.variables]
        losses = toy.train(self.variable, self.wanted(toy.kernel.value(), toy.grid))
        assert len(losses) == STEPS
        assert losses[-1] < losses[0]
        assert [(v.ref(), v.shape) for v in model.variables] == before
        assert_no_rules(toy)
        kernel, scale = toy.kernel.numpy(), toy.grid.scale.numpy()
        assert_on_grid(kernel, toy.grid)
        np.testing.assert_array_equal(toy.grid.nearest(kernel), kernel)
        assert (scale > 0).all()

    @on_all_kernels
    def test_same_seed_same_bits(self, kind: str) -> None:
        toys = [Toy.of(kind, 3) for _ in range(2)]
        losses = [toy.train(self.variable, self.wanted(toy.kernel, toy.grid)) for toy in toys]
        assert losses[0] == losses[1]
        first, second = (toy.qmodel.student.values() for toy in toys)
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name], name)

    def test_an_exception_leaves_no_rule(self) -> None:
        def stop(step: int, logs: dict[str, float]) -> None:
            if step == 3:
                raise RuntimeError(f"stop at {logs}")

        toy = Toy.of("Dense", 4)
        kernel = toy.kernel.numpy()
        with pytest.raises(RuntimeError, match="stop at"):
            toy.train(self.variable, self.wanted(toy.kernel, toy.grid), stop)
        assert_no_rules(toy)
        np.testing.assert_array_equal(toy.kernel, kernel)

    def test_there_and_back_as_a_dict(self) -> None:
        kind = type(self.variable)
        assert variables.get(kind.name) == kind()
        assert variables.get(self.variable) is self.variable
        for variable in (self.variable, kind(), kind(learning_rate=0.125)):
            again = variables.get(variable.to_dict())
            assert type(again) is kind
            assert again == variable
            assert hash(again) == hash(variable)
            assert again.to_dict() == variable.to_dict()
            assert eval(repr(variable), {kind.__name__: kind}) == variable
        assert kind(learning_rate=0.125) != kind(learning_rate=0.25)

    def test_there_and_back_as_json(self) -> None:
        variable = type(self.variable)(learning_rate=0.125)
        config = PTQConfig(optimize=[variable])
        again = PTQConfig.from_json(config.to_json())
        assert again == config
        assert variables.get(again.optimize[0]) == variable


def assert_on_grid(kernel: np.ndarray, grid: Grid) -> None:
    scale, zero, spec = np.asarray(grid.scale), np.asarray(grid.zero_point), grid.spec
    codes = np.rint(kernel / scale + zero)
    assert spec.qmin <= codes.min() <= codes.max() <= spec.qmax
    np.testing.assert_array_equal(kernel, np.float32(codes - zero) * scale)


def assert_no_rules(toy: Toy) -> None:
    student = toy.qmodel.student
    quantizers = [*student.weight_quantizers.values(), *student.activation_quantizers.values()]
    assert len(quantizers) == 3
    assert all(quantizer.rule is None for quantizer in quantizers)


@pytest.mark.parametrize("identifier", ["bitsplits", None, 3, {"name": "adarond"}, {}])
def test_unknown_variables_are_refused(identifier: Any) -> None:
    with pytest.raises(ValueError, match="Unknown optimization variable.*'adaquant', 'adaround'"):
        variables.get(identifier)


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ({"name": "lsq", "learning_rate": 0.0}, "`learning_rate` must be positive and finite.*0.0"),
        ({"name": "lsq", "learning_rate": "x"}, "`learning_rate` must be positive and finite.*'x'"),
        ({"name": "adaquant", "learning_rate": -1}, "`learning_rate` must be positive.*-1"),
        ({"name": "adaquant", "scale_learning_rate": -1}, "`scale_learning_rate` must be at least 0"),
        ({"name": "adaround", "warmup": 1.5}, "`warmup` must be a share of the steps, 1 at most"),
        ({"name": "adaround", "beta_end": np.inf}, "`beta_end` must be positive and finite"),
        ({"name": "bitsplit", "sweeps": 2.5}, "`sweeps` must be an integer of at least 1.*2.5"),
        ({"name": "bitsplit", "sweeps": 0}, "`sweeps` must be an integer of at least 1.*0"),
        ({"name": ["lsq"]}, "Unknown optimization variable"),
    ],
)  # fmt: skip
def test_hyperparameters_are_checked(identifier: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variables.get(identifier)


@pytest.mark.parametrize("variable", [variables.LSQ(1), variables.AdaQuant(1, 0)])
def test_whole_numbers_are_rates_too(variable: Any) -> None:
    qmodel = pipelines.quantized(
        chain((4,), lambda k: k.Dense(3, name="dense"))(tf_keras),
        PTQConfig(optimize=[variable], steps=2, tune_learning_rate=1, tune_steps=2),
    )
    assert "undone" in qmodel.history[-1] or qmodel.history[-1]["error_after"] < 1
    assert variable == type(variable)(*map(float, vars(variable).values()))


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="'lsq' cannot be made.*rate.*LSQ\\(learning_rate="):
        variables.get({"name": "lsq", "rate": 1.0})
