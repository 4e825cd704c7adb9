"""Adam for training with labels after quantization, in steps that suit every value.

Adam moves every value by about its learning rate, whatever its size, and kernels of one network differ in size by
factors of hundreds: what is little for the last layer destroys the first. Here a weight moves by the learning rate
times its own quantization step, and biases, scales and ranges by a tenth of that, relative to the range of the
layer's output and to themselves; as in the end-to-end stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_lowbit._keras import keras
from keras_lowbit.finetune.end_to_end import SLOWER, output_span
from keras_lowbit.quantizers.tensor_quantizers import LOG_FACTOR

if TYPE_CHECKING:
    from keras_lowbit.quantized_model import QuantizedModel


class RelativeAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015) with a unit for every variable of a quantized model.

    Args:
      qmodel: whose ``model`` is to be trained. Its scales as they are now are the units; variables of other layers,
        such as a new head, are trained as by Adam.
      learning_rate: a float, or a Keras schedule; 5e-3 moves weights by 5e-3 of a quantization step. Let
        it fall to zero.
      **options: of ``tf_keras.optimizers.Adam``.

    Raises:
      ValueError: ``qmodel`` is no QuantizedModel, or what is trained is the model of another one.

    Example:
      >>> rate = tf_keras.optimizers.schedules.CosineDecay(5e-3, decay_steps)
      >>> qmodel.model.compile(RelativeAdam(qmodel, rate), "sparse_categorical_crossentropy")
      >>> qmodel.model.fit(train_ds)
    """

    def __init__(self, qmodel: QuantizedModel, learning_rate: Any = 5e-3, **options: Any) -> None:
        student = getattr(qmodel, "student", None)
        if student is None:
            raise ValueError(
                "RelativeAdam takes what `quantize` or `load` returned, not its `model`. "
                f"Received: {type(qmodel).__name__}"
            )
        super().__init__(learning_rate, **{"jit_compile": False, **options})
        units = [
            (quantizer.log_factor, SLOWER)
            for quantizer in student.scales().values()
            if quantizer.log_factor is not None
        ]
        units += [(b, SLOWER * output_span(student, name)) for name, b in student.biases.items()]
        units += [
            (kernel, student.weight_quantizers[name].scale())
            for name, kernel in student.kernels.items()
        ]
        # A method of a dict: Keras would track the dict itself, and cannot save such keys.
        self._unit_of = {variable.ref(): tf.constant(unit) for variable, unit in units}.get

    def build(self, var_list: Any) -> None:
        """Make the variables of Adam for these variables of a model."""
        strange = [variable for variable in var_list if self._unit_of(variable.ref()) is None]
        foreign = [variable.name for variable in strange if LOG_FACTOR in variable.name]
        if foreign:
            raise ValueError(
                "RelativeAdam was made for another quantized model, and would be plain Adam here: make it from "
                f"the one whose `model` is trained. Received: {foreign[:4]}"
            )
        super().build(var_list)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """One step of Adam for the variable in its unit."""
        unit = self._unit_of(variable.ref())
        if unit is None:
            super().update_step(gradient, variable)
            return
        before = tf.identity(variable)
        super().update_step(gradient * unit, variable)
        variable.assign(before + unit * (variable - before))
