"""The float reference networks of MLPerf Tiny, read from the folder of KERAS_LOWBIT_DATA.

Source: mlcommons/tiny, benchmark/training/*/trained_models, commit 1afd2c98, Apache-2.0.
"""

import tf_keras

from models.data_files import data_root, local_file

_FOLDER = "models/mlperf_tiny"
_DS_CNN_FILES = {
    "saved_model.pb": "80665dd19eeb03d1152fdc098b5635261731b23478d09f6ff2166da799f98138",
    "variables/variables.index": "3f21dd9ea6736e20e70c5ed2f40ed9d8a7d12b98316ac0e4ab8f4eb7e303d738",
    "variables/variables.data-00000-of-00001": (
        "5ebfddd34e85a2d35e87e27a8a803353534019bb460907b16db5fa72d757e8c5"
    ),
}


def load_res8() -> tf_keras.Model:
    """Res8 for CIFAR-10: float32 [n, 32, 32, 3] in 0..255 to class probabilities [n, 10]."""
    path = local_file(
        f"{_FOLDER}/pretrainedResnet.h5",
        "5f938a8eea605438cc7360aa13c987bc6d7bd0c8d931b2917361ae7ae4eeda2f",
    )
    return tf_keras.models.load_model(path, compile=False)


def load_mobilenet() -> tf_keras.Model:
    """MobileNetV1 x 0.25 for visual wake words: float32 [n, 96, 96, 3] in 0..1 to [n, 2]."""
    path = local_file(
        f"{_FOLDER}/vww_96.h5",
        "af9111d50e6e85b2f2123345e0316ef1c384865ebf6b06340ddac7e66017450f",
    )
    return tf_keras.models.load_model(path, compile=False)


def load_ds_cnn() -> tf_keras.Model:
    """DS-CNN for keyword spotting: float32 [n, 49, 10, 1] MFCCs to class probabilities [n, 12]."""
    folder = f"{_FOLDER}/kws_ref_model"
    for name, sha256 in _DS_CNN_FILES.items():
        local_file(f"{folder}/{name}", sha256)
    return tf_keras.models.load_model(data_root() / folder, compile=False)
