"""The features of MLPerf Tiny keyword spotting: ten MFCCs for each of 49 windows of a second.

Fitted to mlcommons/tiny, benchmark/training/keyword_spotting/get_dataset.py: windows of 30 ms
every 20 ms, 40 mel bins from 20 to 4,000 Hz of the magnitudes, the first ten of their cosines.
"""

import numpy as np
import tensorflow as tf

SAMPLE_RATE = 16_000
NUM_WINDOWS, NUM_COEFFICIENTS = 49, 10
_WINDOW, _STEP, _TRANSFORM = 480, 320, 512
_MEL_BINS, _LOWEST_HERTZ, _HIGHEST_HERTZ = 40, 20.0, 4000.0
_CLIPS_AT_ONCE = 512


def speech_features(waves: np.ndarray) -> np.ndarray:
    """MFCCs float32 [n, 49, 10] of mono clips [n, samples] at 16 kHz, of any real type.

    Each clip is divided by its greatest sample, so that units do not matter, and clips shorter
    than one second are filled up with zeros.
    """
    waves = _checked(waves)
    chunks = [
        mfcc(normalize(waves[first : first + _CLIPS_AT_ONCE])).numpy()
        for first in range(0, len(waves), _CLIPS_AT_ONCE)
    ]
    return np.concatenate([np.zeros((0, NUM_WINDOWS, NUM_COEFFICIENTS), np.float32), *chunks])


def normalize(waves: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Clips [n, samples] as float32 [n, 16000], divided by their greatest sample and filled up.

    A clip whose greatest sample is zero becomes silence, where the published recipe divides by it.
    """
    samples = tf.cast(waves, tf.float32)
    samples = tf.math.divide_no_nan(samples, tf.reduce_max(samples, axis=1, keepdims=True))
    return tf.pad(samples, ((0, 0), (0, SAMPLE_RATE - tf.shape(samples)[1])))


def mfcc(samples: tf.Tensor) -> tf.Tensor:
    """MFCCs float32 [n, 49, 10] of normalized clips float32 [n, 16000]."""
    spectrum = tf.abs(tf.signal.stft(samples, _WINDOW, _STEP, _TRANSFORM))
    to_mel = tf.signal.linear_to_mel_weight_matrix(
        _MEL_BINS, _TRANSFORM // 2 + 1, SAMPLE_RATE, _LOWEST_HERTZ, _HIGHEST_HERTZ
    )
    log_mel = tf.math.log(tf.matmul(spectrum, to_mel) + 1e-6)
    return tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[..., :NUM_COEFFICIENTS]


def _checked(waves: np.ndarray) -> np.ndarray:
    waves = np.asarray(waves)
    if waves.dtype.kind not in "iuf" or waves.ndim != 2 or not 1 <= waves.shape[1] <= SAMPLE_RATE:
        raise ValueError(
            "These are no clips of speech. Expected integers or floats [clips, samples] with 1 to "
            f"{SAMPLE_RATE} samples, one second at 16 kHz. Cut longer recordings and add the axis "
            f"of clips. Received: {waves.dtype} {waves.shape}"
        )
    return waves
