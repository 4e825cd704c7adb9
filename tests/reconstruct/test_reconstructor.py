"""The reconstruction as a whole: errors fall, callbacks watch, nothing is kept that is not needed."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pipelines
import pytest
import tf_keras
from networks import chain

from keras_lowbit import PTQConfig, variables
from keras_lowbit.callbacks import Callback, CallbackList, History, ProgressBar, StopOnNaN
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.insert import Student
from keras_lowbit.reconstruct.activations import ActivationCache, UnitFunction
from keras_lowbit.reconstruct.reconstructor import Reconstructor, owners
from keras_lowbit.reconstruct.units import find_units

STEPS = 12

small = chain(
    (5, 5, 2), lambda k: k.Conv2D(4, 3, activation="relu", name="first"), lambda k: k.Flatten(),
    lambda k: k.Dense(3, name="last"),
)  # fmt: skip


class Recorder(Callback):
    """Remembers every call as (hook, index, logs)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int | None, Any]] = []

    def on_reconstruct_begin(self, logs: Any = None) -> None:
        self.calls.append(("begin", None, logs))

    def on_unit_begin(self, unit: int, logs: Any = None) -> None:
        self.calls.append(("unit begins", unit, logs))

    def on_step_end(self, step: int, logs: Any = None) -> None:
        self.calls.append(("step", step, logs))

    def on_unit_end(self, unit: int, logs: Any = None) -> None:
        self.calls.append(("unit ends", unit, logs))

    def on_reconstruct_end(self, logs: Any = None) -> None:
        self.calls.append(("end", None, logs))


class Stop(Callback):
    """Raises in a step of a unit."""

    def __init__(self, unit: int, step: int = 3) -> None:
        self.unit, self.step, self.current = unit, step, -1

    def on_unit_begin(self, unit: int, logs: Any = None) -> None:
        self.current = unit

    def on_step_end(self, step: int, logs: Any = None) -> None:
        if (self.current, step) == (self.unit, self.step):
            raise KeyboardInterrupt


def calibrated(bits: int = 3, network: networks.Network = networks.residual) -> QuantizedModel:
    """Ranges are set, nothing has been trained."""
    config = pipelines.ranges_only(bits, weight_grid="narrow")
    return pipelines.quantized(networks.randomize(network(tf_keras)), config)


def reconstruct(
    qmodel: QuantizedModel, *callbacks: Callback, seed: int = 0, **fields: Any
) -> list[dict[str, Any]]:
    data = networks.samples(qmodel.model, 96)
    inputs = dict(zip(qmodel.student.graph.inputs, data, strict=True))
    reconstructor = Reconstructor(
        PTQConfig(**{"steps": STEPS, **fields}), CallbackList(callbacks), seed
    )
    return reconstructor.run(qmodel.student, qmodel.teacher, inputs)


def assert_same_values(first: QuantizedModel, second: QuantizedModel) -> None:
    others = second.student.values()
    for name, value in first.student.values().items():
        np.testing.assert_array_equal(value, others[name], name)


def assert_no_rules(student: Student) -> None:
    quantizers = [*student.weight_quantizers.values(), *student.activation_quantizers.values()]
    assert all(quantizer.rule is None for quantizer in quantizers)


def test_callbacks_are_called_in_order() -> None:
    qmodel, recorder = calibrated(), Recorder()
    records = reconstruct(qmodel, recorder)
    assert len(records) == 5  # the block, the pair, the head: see the units' own tests
    trained = [index for hook, index, _ in recorder.calls if hook == "unit begins"]
    assert trained == [
        index for index, record in enumerate(records) if "softmax" not in record["name"]
    ]
    expected: list[tuple[str, int | None]] = [("begin", None)]
    for index in trained:
        steps = [("step", step) for step in range(STEPS)]
        expected += [("unit begins", index), *steps, ("unit ends", index)]
    assert [call[:2] for call in recorder.calls] == [*expected, ("end", None)]


def test_logs() -> None:
    qmodel, recorder = calibrated(), Recorder()
    records = reconstruct(qmodel, recorder)
    for hook, index, logs in recorder.calls:
        if hook == "begin":
            assert logs == {"units": [record["name"] for record in records]}
        if hook == "unit begins":
            assert logs == {"name": records[index]["name"], "steps": STEPS}
        if hook == "step":
            assert {name: type(value) for name, value in logs.items()} == {
                "loss": float, "penalty": float,
            }  # fmt: skip
        if hook == "unit ends":
            assert logs == records[index]
            assert {type(logs[name]) for name in ("error_before", "error_after")} == {float}


def test_callbacks_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watched, alone = calibrated(network=small), calibrated(network=small)
    history = History()
    records = reconstruct(watched, ProgressBar(1), history, StopOnNaN(), Recorder())
    assert "Unit 1/2: first" in capsys.readouterr().out
    assert reconstruct(alone) == records
    assert_same_values(watched, alone)
    assert history.units == [{"unit": 0, **records[0]}, {"unit": 1, **records[1]}]


def test_callbacks_cannot_change_the_records() -> None:
    class Vandal(Callback):
        def on_unit_end(self, unit: int, logs: Any = None) -> None:
            logs.clear()

    records = [reconstruct(calibrated(network=small), *seen) for seen in ((), (Vandal(),))]
    assert records[0] == records[1]


@pytest.mark.parametrize("units", ["layer", "block", "merged:2", "network"])
@pytest.mark.parametrize(
    ("optimize", "at_most"),
    [(("adaround", "lsq"), 0.9), (("adaquant", "lsq"), 0.9), (("lsq",), 0.97)],
)
def test_errors_fall(units: str, optimize: tuple[str, ...], at_most: float) -> None:
    """In the geometric mean of all units."""
    fields = {"units": units, "optimize": optimize, "steps": 120}
    records = [r for r in reconstruct(calibrated(), **fields) if r["error_before"] > 0]
    ratios = [record["error_after"] / record["error_before"] for record in records]
    assert len(ratios) >= {"layer": 7, "block": 4, "merged:2": 2, "network": 1}[units]
    assert np.exp(np.mean(np.log(ratios))) < at_most


def test_the_seed_decides() -> None:
    first, again, other = (calibrated(network=small) for _ in range(3))
    records = [reconstruct(q, seed=s) for q, s in ((first, 3), (again, 3), (other, 4))]
    assert records[0] == records[1] != records[2]
    assert_same_values(first, again)


@pytest.mark.parametrize(
    "optimize",
    [
        ("adaround", "adaquant"), ("adaquant", "adaround"), ("lsq", "adaround"),
        ("lsq", "adaquant"), ("bitsplit", "adaround"),
        ("adaround", "lsq", "bitsplit"), ("adaround", "adaround"),
    ],
)  # fmt: skip
def test_variables_that_want_the_same_tensors_are_refused(optimize: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"claim the same tensors.*'{optimize[-1]}'.* from `opt"):
        owners(PTQConfig(optimize=optimize, units="layer"))


def test_weights_in_any_form_go_together_with_activation_ranges() -> None:
    for weight in ("adaround", "bitsplit", "adaquant"):
        owned = owners(PTQConfig(optimize=(weight, "lsq"), units="layer"))
        assert owned == {"weight": variables.get(weight), "activation": variables.LSQ()}
    both = owners(PTQConfig(optimize=("adaquant",)))
    assert both == dict.fromkeys(("weight", "activation"), variables.AdaQuant())


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown optimization variable"):
        owners(PTQConfig(optimize=("nearest",)))


def test_a_learning_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is none.*learning_rate=0.1, optimize=\(\)"):
        owners(PTQConfig(optimize=(), learning_rate=0.1))


def test_owners() -> None:
    both = owners(PTQConfig(optimize=("adaround", "lsq"), learning_rate=0.5))
    assert both == {"weight": variables.AdaRound(learning_rate=0.5), "activation": variables.LSQ()}
    alone = owners(PTQConfig(optimize=("lsq",)))
    assert alone == {"weight": variables.LSQ(), "activation": variables.LSQ()}
    assert owners(PTQConfig(optimize=())) == {"weight": None, "activation": None}
    mine = variables.AdaQuant(learning_rate=0.25)
    assert owners(PTQConfig(optimize=[mine]))["weight"] is mine


def test_no_steps_change_nothing() -> None:
    qmodel, untouched = calibrated(network=small), calibrated(network=small)
    recorder = Recorder()
    records = reconstruct(qmodel, recorder, steps=0)
    assert [hook for hook, _, _ in recorder.calls] == ["begin", "end"]
    assert all(record["error_before"] == record["error_after"] for record in records)
    assert_same_values(qmodel, untouched)


@pytest.mark.parametrize("unit", [0, 2])
def test_an_exception_leaves_no_rule(unit: int) -> None:
    qmodel = calibrated()
    names = {variable.name for variable in qmodel.model.variables}
    with pytest.raises(KeyboardInterrupt):
        reconstruct(qmodel, Stop(unit))
    assert_no_rules(qmodel.student)
    assert {variable.name for variable in qmodel.model.variables} == names
    image = networks.samples(qmodel.model, 2)[0]
    assert np.isfinite(qmodel.model.predict(image, verbose=0)).all()


def test_a_loss_that_is_no_number_stops_and_names_the_unit() -> None:
    qmodel = calibrated()
    # Which unit is the first to be NaN at such a rate depends on how a processor adds up.
    with pytest.raises(
        ValueError, match=r"unit '(stem|first \+ second)' diverged: the loss is NaN at step \d"
    ):
        reconstruct(qmodel, StopOnNaN(), optimize=[variables.LSQ(learning_rate=3e38)])
    assert_no_rules(qmodel.student)


def test_sigmoids_inside_keep_their_range() -> None:
    """TFLite fixes it at 1/256; nothing may train it."""
    network = chain(
        (6,), lambda k: k.Dense(8, activation="sigmoid", name="gate"),
        lambda k: k.Dense(4, name="last"),
    )  # fmt: skip
    qmodel = calibrated(network=network)
    reconstruct(qmodel, units="network", steps=20)
    values = qmodel.student.values()
    assert values["gate_sigmoid/output_scale"] == np.float32(1 / 256)
    assert (
        values["gate/output_scale"]
        != calibrated(network=network).student.values()["gate/output_scale"]
    )


def test_caches_hold_what_is_still_read() -> None:
    qmodel = calibrated()
    student = qmodel.student
    units = find_units(student.graph, student.placement, "layer")
    data = networks.samples(qmodel.model, 8)
    cache = ActivationCache(dict(zip(student.graph.inputs, data, strict=True)), units)
    alive = [set(cache._live)]
    for index, unit in enumerate(units):
        function = UnitFunction(unit, student.model, student)
        cache.advance(index, function.map(cache.inputs_of(unit)))
        alive.append(set(cache._live))
    assert alive == [
        {"image"}, {"stem_relu"}, {"stem_relu", "first_relu"}, {"stem_relu", "second"},
        {"add_relu"}, {"depthwise_relu"}, {"pointwise_relu"}, {"classifier"}, set(),
    ]  # fmt: skip


def test_units_in_a_row_are_the_whole_student() -> None:
    """What the units pass on ends in what the model computes."""
    qmodel = calibrated(bits=4)
    student = qmodel.student
    units = find_units(student.graph, student.placement, "block")
    data = networks.samples(qmodel.model, 160)
    cache = ActivationCache(dict(zip(student.graph.inputs, data, strict=True)), units)
    outputs = []
    for index, unit in enumerate(units):
        outputs = UnitFunction(unit, student.model, student).map(cache.inputs_of(unit))
        cache.advance(index, outputs)
    quantizer = student.activation_quantizers["classifier_softmax"]
    last = quantizer(outputs[0], False, quantizer.variables)
    np.testing.assert_allclose(last, networks.outputs(qmodel.model, data)[0], atol=1e-6)
