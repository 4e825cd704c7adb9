"""What a quantized network is worth beside its float network on labelled test samples."""

from __future__ import annotations

from benchmarks.intervals import Agreement
from benchmarks.rows import Row
from benchmarks.study.tasks import Samples
from keras_lowbit import QuantizedModel

BATCH = 256


def scores(qmodel: QuantizedModel, samples: Samples) -> Row:
    """The part of a row that says so, JSON-able: the simulation's accuracy, and the kernels' bits.

    Args:
      qmodel: a classifier.
      samples: its test samples and their class numbers.
    """
    right = [
        network.predict(samples.x_test, batch_size=BATCH, verbose=0).argmax(axis=1)
        == samples.y_test
        for network in (qmodel.teacher, qmodel.model)
    ]
    return {
        "accuracy": {
            name: float(hits.mean())
            for name, hits in zip(("float", "quantized"), right, strict=True)
        },
        "agreement": Agreement.of(*right)._asdict(), "test_samples": len(samples.x_test),
        "calibration_samples": qmodel.calibration_samples,
        "weight_bits": {n: q.spec.bits for n, q in qmodel.student.weight_quantizers.items()},
    }  # fmt: skip
