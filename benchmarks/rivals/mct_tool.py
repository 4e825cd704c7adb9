"""Sony's Model Compression Toolkit: ranges alone, or gradient-based rounding (its GPTQ).

Runs in an environment of its own, with TensorFlow 2.15.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import model_compression_toolkit as mct
import numpy as np
from mct_quantizers import (
    KerasActivationQuantizationHolder,
    KerasQuantizationWrapper,
    QuantizationMethod,
)
from model_compression_toolkit.core.keras.default_framework_info import DEFAULT_KERAS_INFO
from model_compression_toolkit.target_platform_capabilities.constants import BIAS_ATTR, KERNEL_ATTR
from model_compression_toolkit.target_platform_capabilities.schema import (
    mct_current_schema as schema,
)

from benchmarks.rivals.answers import Quantized, Request

PACKAGES = ("model-compression-toolkit", "mct-quantizers", "tensorflow", "keras", "numpy")
BATCH_SIZE = 16  # of its tutorial of GPTQ
FLOAT_BITS = 32
LOGITS_BITS = 8

OPERATORS = schema.OperatorSetNames


def quantize(model: Any, request: Request) -> Quantized:
    """As its tutorials do it, with capabilities of as many bits as asked for.

    Options: ``epochs`` of GPTQ over the calibration samples; without them ranges alone.
    """
    _check_kernels(model)

    def representative() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(request.calibration), BATCH_SIZE):
            yield [request.calibration[start : start + BATCH_SIZE]]

    platform = capabilities(request.weight_bits, request.activation_bits)
    epochs = request.options.get("epochs")
    if epochs is None:
        quantized, _ = mct.ptq.keras_post_training_quantization(
            model, representative, target_platform_capabilities=platform
        )
    else:
        quantized, _ = mct.gptq.keras_gradient_post_training_quantization(
            model, representative, mct.gptq.get_keras_gptq_config(n_epochs=epochs),
            target_platform_capabilities=platform,
        )  # fmt: skip
    settings = {"batch_size": BATCH_SIZE, **request.options, **found_bits(quantized)}
    return Quantized(
        lambda x: quantized.predict(x, batch_size=256, verbose=0), "simulation", settings
    )


def capabilities(weight_bits: int, activation_bits: int) -> Any:
    """What TFLite's kernels can do, had they so few bits.

    Kernels are symmetric with a scale per channel, activations have a scale and a zero point per
    tensor. As in keras_lowbit, logits and what is added have eight bits.
    """
    plain = schema.AttributeQuantizationConfig(
        weights_quantization_method=QuantizationMethod.SYMMETRIC, weights_n_bits=FLOAT_BITS
    )
    kernel = plain.clone_and_edit(
        weights_n_bits=weight_bits, weights_per_channel_threshold=True,
        enable_weights_quantization=True,
    )  # fmt: skip
    activation = schema.OpQuantizationConfig(
        default_weight_attr_config=plain, attr_weights_configs_mapping={},
        activation_quantization_method=QuantizationMethod.UNIFORM,
        activation_n_bits=activation_bits, supported_input_activation_n_bits=(activation_bits, 8),
        enable_activation_quantization=True, quantization_preserving=False,
        signedness=schema.Signedness.AUTO,
    )  # fmt: skip
    linear = activation.clone_and_edit(activation_n_bits=LOGITS_BITS).clone_and_edit(
        attr_weights_configs_mapping={KERNEL_ATTR: kernel, BIAS_ATTR: plain}
    )
    same = activation.clone_and_edit(
        quantization_preserving=True, enable_activation_quantization=False
    )
    softmax = activation.clone_and_edit(
        activation_n_bits=8, fixed_scale=1 / 256, fixed_zero_point=-128
    )

    def operators(name: Any, config: Any) -> Any:
        options = schema.QuantizationConfigOptions(quantization_configurations=(config,))
        return schema.OperatorsSet(name=name, qc_options=options)

    kernels = [
        operators(name, linear)
        for name in (OPERATORS.CONV, OPERATORS.DEPTHWISE_CONV, OPERATORS.FULLY_CONNECTED)
    ]
    relus = [operators(name, activation) for name in (OPERATORS.RELU, OPERATORS.RELU6)]
    add = operators(OPERATORS.ADD, activation.clone_and_edit(activation_n_bits=LOGITS_BITS))
    unchanged = [
        operators(name, same)
        for name in (
            OPERATORS.AVGPOOL, OPERATORS.MAXPOOL, OPERATORS.FLATTEN, OPERATORS.RESHAPE,
            OPERATORS.DROPOUT, OPERATORS.ZERO_PADDING2D,
        )
    ]  # fmt: skip
    norm = operators(OPERATORS.BATCH_NORM, activation)  # MCT folds none into dense layers
    before = schema.OperatorSetGroup(operators_set=[*kernels, add])
    rectified = schema.OperatorSetGroup(operators_set=relus)
    return schema.TargetPlatformCapabilities(
        default_qco=schema.QuantizationConfigOptions(quantization_configurations=(activation,)),
        tpc_minor_version=1, tpc_patch_version=0, tpc_platform_type="tflite", add_metadata=False,
        operator_set=(
            *kernels, *relus, add, norm, *unchanged, operators(OPERATORS.SOFTMAX, softmax)
        ),
        fusing_patterns=(
            schema.Fusing(operator_groups=(before, rectified)),
            schema.Fusing(operator_groups=(before, norm)),
            schema.Fusing(operator_groups=(before, norm, rectified)),
        ),
        name=f"w{weight_bits}a{activation_bits}",
    )  # fmt: skip


def found_bits(model: Any) -> dict[str, dict[str, int]]:
    """How many kernels and activations of a quantized model have how many bits."""
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for layer in model.layers:
        if isinstance(layer, KerasQuantizationWrapper):
            for quantizer in layer.weights_quantizers.values():
                found["kernel_bits"][str(quantizer.num_bits)] += 1
        elif isinstance(layer, KerasActivationQuantizationHolder):
            found["activation_bits"][str(layer.activation_holder_quantizer.num_bits)] += 1
    return {name: dict(counts) for name, counts in found.items()}


def _check_kernels(model: Any) -> None:
    """MCT leaves the kernels of layers that it does not know float, without a word."""
    known = DEFAULT_KERAS_INFO.kernel_ops_attributes_mapping.keys()
    for layer in model.layers:
        has_kernel = any(name in vars(layer) for name in ("kernel", "depthwise_kernel"))
        if has_kernel and type(layer) not in known:
            raise ValueError(
                f"MCT knows no kernel of a {type(layer).__name__} and would leave it float, as it "
                f"does without a word. Received: {layer.name}"
            )
