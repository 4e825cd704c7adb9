"""The interface of ``tf.lite.TFLiteConverter``, for builds that call it already."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lowbit._keras import load_float_model
from keras_lowbit.callbacks import Callback
from keras_lowbit.config import PTQConfig
from keras_lowbit.export.containers import check_options
from keras_lowbit.pipeline import quantize
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.search.budget import Budget
from keras_lowbit.search.file_sizes import check_is_for_that_file

_OWN = (
    "weight_bits", "activation_bits", "recipe", "config", "budget", "candidate_bits", "callbacks",
    "checkpoint_dir", "seed", "verbose", "packing", "strip", "target",
)  # fmt: skip
_SHARED = (
    "optimizations", "representative_dataset", "target_spec", "inference_input_type",
    "inference_output_type",
)  # fmt: skip
# What TFLiteConverter documents beside these. Its defaults ask for nothing and may be set.
_DEFAULTS = {
    "allow_custom_ops": False, "exclude_conversion_metadata": False,
    "experimental_new_converter": True, "experimental_new_quantizer": True,
    "experimental_enable_resource_variables": True, "serialize_debug_metadata": False,
}  # fmt: skip
_RESULTS = ("quantized_model", "metadata")


class Converter:
    """Quantize and export with the calls and attributes of ``tf.lite.TFLiteConverter``.

    Where that class converts to 8 bits, this one quantizes to ``weight_bits`` and ``activation_bits``
    as :func:`keras_lowbit.quantize` does, and returns the bytes that ``export`` writes. What it has no
    equivalent of is refused by name. Two defaults differ, since no other value is possible here: inputs
    and outputs are int8, and ``target_spec.supported_ops`` is ``{TFLITE_BUILTINS_INT8}``.

    Attributes:
      representative_dataset: a function, called once, whose result yields one list or dict of float
        arrays after another, one array per input (1, ...); or a ``tf.lite.RepresentativeDataset`` of
        one. At most ``config.calibration_samples`` samples are taken.
      optimizations: ``[tf.lite.Optimize.DEFAULT]``.
      target_spec: a ``tf.lite.TargetSpec`` for int8 operators.
      inference_input_type, inference_output_type: ``tf.int8``.
      weight_bits, activation_bits, recipe, config, budget, candidate_bits, callbacks, checkpoint_dir, seed,
        verbose: of :func:`keras_lowbit.quantize`.
      packing, strip, target: of :meth:`keras_lowbit.QuantizedModel.export`.
      quantized_model: after :meth:`convert`, what the bytes were written from: to report, save, verify.
      metadata: after :meth:`convert`, bits, grid and container of every tensor. A stripped file holds none:
        to read it back or verify it, write them as JSON to ``<file>.json``.

    Example:
      >>> converter = keras_lowbit.Converter.from_keras_model(model)
      >>> converter.representative_dataset = lambda: ([x[None]] for x in x_train[:512])
      >>> converter.packing, converter.strip = "auto", "micro"
      >>> blob = converter.convert()
    """

    _model: Any

    def __init__(self, model: Any) -> None:
        """Args: model: as of :func:`keras_lowbit.quantize`."""
        object.__setattr__(self, "_model", model)
        self.representative_dataset: Any = None
        self.optimizations: Any = [tf.lite.Optimize.DEFAULT]
        self.target_spec: Any = tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
        self.inference_input_type: Any = tf.int8
        self.inference_output_type: Any = tf.int8
        self.weight_bits: int | None = None
        self.activation_bits: int | None = None
        self.recipe = "default"
        self.config: PTQConfig | None = None
        self.budget: Budget | None = None
        self.candidate_bits: Iterable[int] | None = None
        self.callbacks: Iterable[Callback] | None = None
        self.checkpoint_dir: str | os.PathLike[str] | None = None
        self.seed = 0
        self.verbose = 1
        self.packing = "int8"
        self.strip = "none"
        self.target = "tflm"
        for name, value in _DEFAULTS.items():
            setattr(self, name, value)
        self.quantized_model: QuantizedModel | None = None
        self.metadata: dict[str, Any] | None = None

    @classmethod
    def from_keras_model(cls, model: Any) -> Converter:
        """A converter of a built Functional or Sequential model of tf_keras or Keras 3."""
        return cls(model)

    @classmethod
    def from_saved_model(
        cls,
        saved_model_dir: str | os.PathLike[str],
        signature_keys: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
    ) -> Converter:
        """A converter of a SavedModel folder that Keras wrote, or of a ``.keras`` or ``.h5`` file.

        Args:
          saved_model_dir: the path.
          signature_keys: None or ``["serving_default"]``: the layers are read, not a signature.
          tags: None or ``{"serve"}``.

        Raises:
          ValueError: nothing with Keras layers can be loaded, or another signature or tag.
        """
        for name, value, only in (
            ("signature_keys", signature_keys, {"serving_default"}), ("tags", tags, {"serve"}),
        ):  # fmt: skip
            if value is not None and set(value) != only:
                raise ValueError(
                    f"`{name}` chooses nothing here: the Keras layers of the SavedModel are read. "
                    f"Expected None or {sorted(only)}. Received: {name}={value!r}"
                )
        return cls(load_float_model(saved_model_dir))

    @classmethod
    def from_concrete_functions(cls, funcs: Any, trackable_obj: Any = None) -> Converter:
        """Refused: a function has no layers to quantize.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            "Concrete functions have no layers to quantize: call from_keras_model with the Keras model. "
            f"Received: {type(funcs).__name__}, trackable_obj={type(trackable_obj).__name__}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DEFAULTS:
            if value is not _DEFAULTS[name]:
                raise ValueError(
                    f"keras_lowbit has no equivalent of TFLiteConverter's `{name}`: remove the line. "
                    f"Expected {_DEFAULTS[name]}. Received: {name}={value!r}"
                )
        elif name not in (*_SHARED, *_OWN, *_RESULTS):
            raise ValueError(
                f"keras_lowbit.Converter has no attribute `{name}`: remove the line. It takes "
                f"{', '.join(_SHARED)} of TFLiteConverter's and {', '.join(_OWN)} of its own. "
                f"Received: {name}={value!r}"
            )
        object.__setattr__(self, name, value)

    def convert(self) -> bytes:
        """Quantize and export.

        Returns:
          The ``.tflite`` file, byte for byte that of ``quantize`` and ``export`` with these settings.

        Raises:
          ValueError: an attribute that asks for what is not possible here, or as of ``quantize`` and
            ``export``.
        """
        self._check()
        qmodel = quantize(
            self._model, _samples(self.representative_dataset), self.weight_bits,
            self.activation_bits, recipe=self.recipe, config=self.config, budget=self.budget,
            candidate_bits=self.candidate_bits, callbacks=self.callbacks,
            checkpoint_dir=self.checkpoint_dir, seed=self.seed, verbose=self.verbose,
        )  # fmt: skip
        self.quantized_model = qmodel  # before the export, which can fail
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            self.metadata = qmodel.export(
                path, packing=self.packing, strip=self.strip, target=self.target
            )
            return path.read_bytes()

    def _check(self) -> None:
        """Here and not where they are set: lists and sets may have changed since."""
        check_options(self.packing, self.strip, self.target)
        if isinstance(self.budget, Budget):
            check_is_for_that_file(self.budget, self.packing, self.strip, self.target)
        for name in ("inference_input_type", "inference_output_type"):
            if not _is_int8(getattr(self, name)):
                raise ValueError(
                    f"The model's inputs and outputs are int8. Set {name} = tf.int8 and quantize floats "
                    "with the scale and zero point of the tensor (QuantizedModel.quantize_input). "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        known = tf.lite.Optimize
        does = {known.DEFAULT, known.OPTIMIZE_FOR_SIZE, known.OPTIMIZE_FOR_LATENCY}
        if not _is_some_of(self.optimizations, does):
            raise ValueError(
                "This converter always quantizes, and does nothing else. Set optimizations = "
                f"[tf.lite.Optimize.DEFAULT]. Received: optimizations={self.optimizations!r}"
            )
        _check_target_spec(self.target_spec)


def _check_target_spec(spec: Any) -> None:
    int8 = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    if not isinstance(spec, tf.lite.TargetSpec):
        raise ValueError(
            f"`target_spec` must be a tf.lite.TargetSpec. Received: {type(spec).__name__}"
        )
    if not _is_some_of(spec.supported_ops, {int8}):
        raise ValueError(
            "The exported file has int8 operators only. Set target_spec.supported_ops = "
            "[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]. "
            f"Received: target_spec.supported_ops={spec.supported_ops!r}"
        )
    if not all(_is_int8(kind) for kind in spec.supported_types):
        raise ValueError(
            "Tensors are stored as int8 (biases as int32). Remove target_spec.supported_types, or set "
            f"it to [tf.int8]. Received: target_spec.supported_types={spec.supported_types!r}"
        )
    untouched = vars(tf.lite.TargetSpec())
    for name in sorted(set(vars(spec)) - {"supported_ops", "supported_types"}):
        value = getattr(spec, name)
        if name not in untouched or value != untouched[name]:
            raise ValueError(
                f"keras_lowbit has no equivalent of `target_spec.{name}`: remove the line. "
                f"Received: target_spec.{name}={value!r}"
            )


def _is_some_of(given: Any, known: set[Any]) -> bool:
    allowed = list(known)  # anything may be looked for in a list, a set hashes it
    is_some = isinstance(given, (list, tuple, set)) and bool(given)
    return is_some and all(item in allowed for item in given)


def _is_int8(kind: Any) -> bool:
    try:
        return tf.as_dtype(kind) == tf.int8
    except TypeError:  # no type at all
        return False


def _samples(dataset: Any) -> Iterator[Any]:
    """What a representative dataset yields, as ``quantize`` takes it."""
    function = dataset.input_gen if isinstance(dataset, tf.lite.RepresentativeDataset) else dataset
    if not callable(function):
        raise ValueError(
            "`representative_dataset` must be a function that yields lists or dicts of arrays, some "
            "hundred of them: the ranges of the activations come from these samples. "
            f"Received: representative_dataset={type(dataset).__name__}"
        )
    samples = function()
    if not isinstance(samples, Iterable):
        raise ValueError(
            "The function `representative_dataset` must yield lists or dicts of arrays, or return what does. "
            f"Received: it returned {samples!r}"
        )
    return map(_without_signature, samples)


def _without_signature(element: Any) -> Any:
    """For models with signatures, elements are ``(signature, {input: array})``."""
    named = isinstance(element, tuple) and len(element) == 2 and isinstance(element[0], str)
    return element[1] if named else element
