"""Command line.

python -m keras_lowbit quantize --model m.keras --calib x.npy --weight_bits 4 --output m.tflite
python -m keras_lowbit verify --saved m.lowbit --output m.tflite --calib x.npy
python -m keras_lowbit inspect --output m.tflite
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from keras_lowbit import PTQConfig, load, quantize, read_metadata

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "The float model: .keras, .h5 or a SavedModel folder.")
flags.DEFINE_string("calib", None, "Samples: .npy, or .npz (see --calib_key); rows are samples.")
flags.DEFINE_string("calib_key", None, "Array of the .npz file; its only one by default.")
flags.DEFINE_string("output", None, "The .tflite file to write (quantize) or read.")
flags.DEFINE_string("config", None, "A JSON file with PTQConfig fields, instead of bit flags.")
flags.DEFINE_integer("weight_bits", 4, "Bits of the kernels, 2..8.", lower_bound=2, upper_bound=8)
flags.DEFINE_integer(
    "activation_bits", 8, "Bits of what feeds kernels, 2..8.", lower_bound=2, upper_bound=8
)
flags.DEFINE_integer("seed", 0, "Same seed, same bits.")
flags.DEFINE_integer("verbose", 1, "0 silent, 1 progress bars, 2 one line per unit.")
flags.DEFINE_integer("verify_samples", 16, "Samples to prove the file on; 0 for none.")
flags.DEFINE_string("checkpoint_dir", None, "Resume from here after a kill.")
flags.DEFINE_string("saved", None, "Folder for (quantize) or of (verify) the saved simulation.")
flags.DEFINE_boolean("overwrite", False, "Replace existing outputs.")


def run() -> None:
    """Entry point of ``python -m keras_lowbit``."""
    app.run(_main)


def _main(arguments: list[str]) -> int:
    commands = {"quantize": _quantize, "verify": _verify, "inspect": _inspect}
    if len(arguments) != 2 or arguments[1] not in commands:
        sys.stderr.write(
            f"Usage: python -m keras_lowbit {{{'|'.join(commands)}}} --flags; --help lists them. "
            f"Received: {' '.join(arguments[1:]) or 'no command'}\n"
        )
        return 2
    try:
        return commands[arguments[1]]()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _quantize() -> int:
    _require("model", "calib", "output")
    for path in (FLAGS.output, FLAGS.saved):
        if path and Path(path).exists() and not FLAGS.overwrite:
            raise ValueError(
                f"It exists already; pass --overwrite to replace it. Received: {path!r}"
            )
    if FLAGS.config:
        config = _config_file()
    else:
        config = PTQConfig(weight_bits=FLAGS.weight_bits, activation_bits=FLAGS.activation_bits)
    samples = _samples()
    qmodel = quantize(
        FLAGS.model, samples, config=config, seed=FLAGS.seed, verbose=FLAGS.verbose,
        checkpoint_dir=FLAGS.checkpoint_dir,
    )  # fmt: skip
    qmodel.export(FLAGS.output)
    if FLAGS.saved:
        qmodel.save(FLAGS.saved, overwrite=FLAGS.overwrite)
    sys.stdout.write(
        f"{qmodel.report()}\n\n{FLAGS.output}: {Path(FLAGS.output).stat().st_size} bytes\n"
    )
    if not FLAGS.verify_samples:
        return 0
    verification = qmodel.verify(FLAGS.output, samples[: FLAGS.verify_samples])
    sys.stdout.write(f"{verification}\n")
    return 0 if verification.ok else 1


def _verify() -> int:
    _require("saved", "output", "calib")
    verification = load(FLAGS.saved).verify(FLAGS.output, _samples()[: FLAGS.verify_samples])
    sys.stdout.write(f"{verification}\n")
    return 0 if verification.ok else 1


def _inspect() -> int:
    _require("output")
    sys.stdout.write(json.dumps(read_metadata(FLAGS.output), indent=1) + "\n")
    return 0


def _config_file() -> PTQConfig:
    """The configuration of ``--config``."""
    given = [f"--{name}" for name in ("weight_bits", "activation_bits") if FLAGS[name].present]
    if given:
        raise ValueError(
            f"Bits are given twice: set {', '.join(given)} in the --config file instead."
        )
    try:
        return PTQConfig.from_json(Path(FLAGS.config).read_text())
    except OSError as error:
        raise ValueError(
            f"The configuration file cannot be read: {error.strerror}. Received: {FLAGS.config!r}"
        ) from error


def _require(*names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(FLAGS, name) is None]
    if missing:
        raise ValueError(f"This command needs {', '.join(missing)}.")


def _samples() -> np.ndarray:
    """The array of ``--calib``, (samples, ...)."""
    try:
        stored = np.load(FLAGS.calib)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The calibration file cannot be read: {error}. Expected .npy or .npz. "
            f"Received: {FLAGS.calib!r}"
        ) from error
    if isinstance(stored, np.ndarray):
        return stored
    key = FLAGS.calib_key or (stored.files[0] if len(stored.files) == 1 else None)
    if key not in stored.files:
        raise ValueError(
            f"Say with --calib_key which array of the file holds the samples, one of {stored.files}. "
            f"Received: {key!r}"
        )
    return stored[key]
