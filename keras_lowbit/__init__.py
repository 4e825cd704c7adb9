"""Post-training quantization of Keras models to 2..8 bits that runs bit for bit on microcontrollers."""

from keras_lowbit import callbacks
from keras_lowbit.accounting import Cost, cost
from keras_lowbit.annotated import from_annotated
from keras_lowbit.config import PTQConfig
from keras_lowbit.converter import Converter
from keras_lowbit.export.inspect_file import inspect
from keras_lowbit.export.load_tflite import load_tflite
from keras_lowbit.export.metadata import read_metadata
from keras_lowbit.finetune.relative_adam import RelativeAdam
from keras_lowbit.pipeline import quantize
from keras_lowbit.quantized_model import QuantizedModel
from keras_lowbit.quantizers.calibrate import calibrate
from keras_lowbit.quantizers.quantize_configs import LowBitQuantizeConfig
from keras_lowbit.reader import UnsupportedModelError
from keras_lowbit.recipes import RECIPES
from keras_lowbit.reconstruct import variables
from keras_lowbit.reconstruct.reconstructor import Reconstructor
from keras_lowbit.saved_model import load
from keras_lowbit.search.budget import Budget, BudgetError
from keras_lowbit.search.front import Front, pareto
from keras_lowbit.version import __version__

__all__ = [
    "RECIPES",
    "Budget",
    "BudgetError",
    "Converter",
    "Cost",
    "Front",
    "LowBitQuantizeConfig",
    "PTQConfig",
    "QuantizedModel",
    "Reconstructor",
    "RelativeAdam",
    "UnsupportedModelError",
    "__version__",
    "calibrate",
    "callbacks",
    "cost",
    "from_annotated",
    "inspect",
    "load",
    "load_tflite",
    "pareto",
    "quantize",
    "read_metadata",
    "variables",
]
