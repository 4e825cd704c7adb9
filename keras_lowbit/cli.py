"""Command line.

python -m keras_lowbit quantize --model m.keras --calib x.npy --weight_bits 4 --output m.tflite
python -m keras_lowbit quantize --model m.keras --calib x.npy --output m.tflite --budget_flash 40kB --packing auto --strip micro
python -m keras_lowbit verify --saved m.lowbit --output m.tflite --calib x.npy
python -m keras_lowbit inspect --output m.tflite
python -m keras_lowbit report --saved m.lowbit --target tflm
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from absl import flags

from keras_lowbit import RECIPES, Budget, PTQConfig, inspect, load, quantize, read_metadata
from keras_lowbit._keras import load_float_model
from keras_lowbit.export.c_source import check_tflm
from keras_lowbit.export.containers import PACKINGS, STRIPS, TARGETS, check_options
from keras_lowbit.export.output_files import FORMATS, folder_to_write, output_paths
from keras_lowbit.reader import read
from keras_lowbit.search.file_sizes import check_is_for_that_file

Samples = np.ndarray | dict[str, np.ndarray]  # of the only input, or by input name


def run() -> None:
    """Entry point of ``python -m keras_lowbit``."""
    sys.exit(main(sys.argv))


def main(arguments: list[str]) -> int:
    """Run one command; the exit status.

    Args:
      arguments: program name, command and flags, as in ``sys.argv``.
    """
    commands = {"quantize": _quantize, "verify": _verify, "inspect": _inspect, "report": _report}
    options = _flags()
    try:
        given = options(arguments)
        if options.help:
            sys.stdout.write(f"{__doc__}\n{options.get_help()}\n")
            return 0
        if len(given) != 2 or given[1] not in commands:
            sys.stderr.write(
                f"Usage: python -m keras_lowbit {{{'|'.join(commands)}}} --flags; --help lists them. "
                f"Received: {' '.join(given[1:]) or 'no command'}\n"
            )
            return 2
        return commands[given[1]](options)
    except flags.Error as error:
        sys.stderr.write(f"{error}. --help lists the flags.\n")
        return 2
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _flags() -> flags.FlagValues:
    """Fresh flags with their defaults; nothing is registered globally."""
    options = flags.FlagValues()
    bits: dict[str, Any] = {"lower_bound": 2, "upper_bound": 8, "flag_values": options}
    for name, text in {
        "model": "The float model: .keras, .h5 or a SavedModel folder.",
        "calib": "Samples: .npy, or .npz (see --calib_key); rows are samples. Of a model of several inputs, "
        ".npz with an array per input under the inputs' names.",
        "calib_key": "Array of the .npz file; its only one by default.",
        "output": "The .tflite file to write (quantize) or read.",
        "config": "A JSON file with PTQConfig fields, instead of bit flags.",
        "checkpoint_dir": "Resume from here after a kill.",
        "accelerator": "report: of --target ethos-u, as Vela names it.",
        "vela": "report: Vela's executable where it is not in this environment.",
        "budget_flash": "Choose weight bits within it: bytes of the file, e.g. 40kB.",
        "budget_arena": "Likewise: bytes of TFLM's arena.",
        "saved": "Folder for (quantize) or of (verify, report) the saved simulation.",
    }.items():
        flags.DEFINE_string(name, None, text, flag_values=options)
    flags.DEFINE_integer("weight_bits", 4, "Bits of the kernels, 2..8.", **bits)
    flags.DEFINE_integer("activation_bits", 8, "Bits of what feeds kernels, 2..8.", **bits)
    for name, text in (
        ("budget_bops", "Likewise: bit operations."),
        ("budget_average_weight_bits", "Likewise: bits of a weight on average."),
    ):
        flags.DEFINE_float(name, None, text, flag_values=options)
    for name, known, text in (
        ("recipe", ("default", *sorted({*RECIPES} - {"default"})), "How much work goes into it."),
        ("packing", PACKINGS, "How weights are stored."),
        ("strip", STRIPS, "What is left out of the file."),
        ("target", TARGETS, "The runtime that must run it."),
        ("format", FORMATS, "A .tflite file, or C source for a TFLM project (.h and .cc)."),
    ):
        flags.DEFINE_enum(name, known[0], known, text, flag_values=options)
    flags.DEFINE_list(
        "candidate_bits", None, "With a budget: the widths to choose from, e.g. 2,3,4.",
        flag_values=options,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Same seed, same bits.", flag_values=options)
    flags.DEFINE_integer("verbose", 1, "0 silent, 1 bars, 2 a line per unit.", flag_values=options)
    flags.DEFINE_integer(
        "verify_samples", 16, "Samples to prove it on; 0 for no proof.", 0, flag_values=options
    )
    flags.DEFINE_boolean("overwrite", False, "Replace existing outputs.", flag_values=options)
    flags.DEFINE_boolean("json", False, "inspect, report: as JSON.", flag_values=options)
    flags.DEFINE_boolean("help", False, "Show this.", flag_values=options)
    return options


def _quantize(options: flags.FlagValues) -> int:
    _require(options, "model", "calib", "output")
    check_options(options.packing, options.strip, options.target)
    budget = _budget(options)
    outputs = output_paths(options.output, options.strip, options.format, options.target)
    if options.format == "c":
        check_tflm()
    for path in (*map(str, outputs), options.saved):
        if path and Path(path).exists() and not options.overwrite:
            raise ValueError(
                f"It exists already; pass --overwrite to replace it. Received: {path!r}"
            )
    _check_places(options, outputs)
    if options.config:
        config = _config_file(options)
    else:
        bits = {name: options[name].value for name in ("weight_bits", "activation_bits")}
        config = PTQConfig(**RECIPES[options.recipe], **bits)
    model = load_float_model(options.model)
    samples = _samples(options, read(model).inputs)
    qmodel = quantize(
        model, samples, config=config, budget=budget,
        candidate_bits=_candidate_bits(options, budget), seed=options.seed,
        verbose=options.verbose, checkpoint_dir=options.checkpoint_dir,
    )  # fmt: skip
    if options.saved:  # first: an export can fail
        qmodel.save(options.saved, overwrite=options.overwrite)
    qmodel.export(
        options.output, options.overwrite, options.packing, options.strip, options.target,
        options.format,
    )  # fmt: skip
    sizes = "\n".join(f"{path}: {path.stat().st_size} bytes" for path in outputs)
    sys.stdout.write(f"{qmodel.report()}\n\n{sizes}\n")
    if not options.verify_samples:
        return 0
    verification = qmodel.verify(outputs[0], _first(samples, options.verify_samples))
    sys.stdout.write(f"{verification}\n")
    return 0 if verification.ok else 1


def _check_places(options: flags.FlagValues, outputs: tuple[Path, ...]) -> None:
    """Refuse now, not after the work, what cannot be written beside each other."""
    if options.saved:
        folder_to_write(options.saved, options.overwrite)
    flagged = {"--saved": options.saved, "--checkpoint_dir": options.checkpoint_dir}
    folders = {flag: Path(path).resolve() for flag, path in flagged.items() if path}
    for flag, folder in folders.items():
        for other, path in [*folders.items(), *(("--output", path.resolve()) for path in outputs)]:
            lies_in_saved = flag == "--saved" and folder in path.parents
            if other != flag and (path == folder or lies_in_saved):
                raise ValueError(
                    f"{flag} must be a folder of its own: give another. Received: {flag}={folder}, {other}={path}"
                )


def _budget(options: flags.FlagValues) -> Budget | None:
    """The limits that were given; None for a choice of bits by hand."""
    names = [field.name for field in dataclasses.fields(Budget)]
    limits = {n: options[f"budget_{n}"].value for n in names if options[f"budget_{n}"].present}
    if not limits:
        return None
    if options["weight_bits"].present:
        raise ValueError("A budget chooses the weight bits: leave --weight_bits out.")
    budget = Budget(**limits)
    check_is_for_that_file(budget, options.packing, options.strip, options.target)
    return budget


def _candidate_bits(options: flags.FlagValues, budget: Budget | None) -> tuple[int, ...] | None:
    given = options.candidate_bits
    if given is None:
        return None
    if budget is None:
        raise ValueError(
            "--candidate_bits are what a budget is spent on: give one of the flags --budget_* too, e.g. "
            f"--budget_flash. Received: --candidate_bits={','.join(given)}"
        )
    if not all(text.strip().isdecimal() for text in given):
        raise ValueError(f"--candidate_bits must be whole numbers. Received: {','.join(given)!r}")
    return tuple(map(int, given))


def _verify(options: flags.FlagValues) -> int:
    _require(options, "saved", "output", "calib")
    qmodel = load(options.saved)
    samples = _samples(options, qmodel.student.graph.inputs)
    verification = qmodel.verify(options.output, _first(samples, options.verify_samples))
    sys.stdout.write(f"{verification}\n")
    return 0 if verification.ok else 1


def _inspect(options: flags.FlagValues) -> int:
    _require(options, "output")
    if options.json:
        sys.stdout.write(json.dumps(read_metadata(options.output), indent=1) + "\n")
    else:
        sys.stdout.write(f"{inspect(options.output)}\n")
    return 0


def _report(options: flags.FlagValues) -> int:
    """The deployment report; packing and strip are its own defaults unless given."""
    _require(options, "saved")
    given = {name: options[name].value for name in ("packing", "strip") if options[name].present}
    given |= {name: options[name].value for name in ("accelerator", "vela")}
    report = load(options.saved).deployment_report(options.target, **given)
    sys.stdout.write(json.dumps(report.to_dict(), indent=1) if options.json else str(report))
    sys.stdout.write("\n")
    return 0


def _config_file(options: flags.FlagValues) -> PTQConfig:
    """The configuration of ``--config``."""
    names = ("weight_bits", "activation_bits", "recipe")
    given = [f"--{name}" for name in names if options[name].present]
    if given:
        raise ValueError(
            f"{', '.join(given)} and --config say the same thing twice: set it in the --config file "
            f"alone. Received: {', '.join(given)}, --config={options.config}"
        )
    try:
        text = Path(options.config).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The configuration file cannot be read: {error}. Received: {options.config!r}"
        ) from error
    return PTQConfig.from_json(text)


def _require(options: flags.FlagValues, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(options, name) is None]
    if missing:
        raise ValueError(f"This command needs {', '.join(missing)}.")


def _samples(options: flags.FlagValues, inputs: Sequence[str]) -> Samples:
    """The array of ``--calib``, (samples, ...), or one per input of a model of several."""

    def loaded(load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"The calibration file cannot be read: {error}. Expected .npy or .npz of numbers. "
                f"Received: {options.calib!r}"
            ) from error

    stored = loaded(lambda: np.load(options.calib))
    names = [] if isinstance(stored, np.ndarray) else stored.files
    if len(inputs) > 1:
        if options.calib_key or not {*inputs} <= {*names}:
            raise ValueError(
                "A model of several inputs takes an .npz file with an array per input, under the names "
                f"{list(inputs)}, and no --calib_key. Received: {options.calib!r} with the arrays {names}, "
                f"--calib_key={options.calib_key!r}"
            )
        return {name: loaded(functools.partial(stored.__getitem__, name)) for name in inputs}
    if isinstance(stored, np.ndarray):
        if options.calib_key:
            raise ValueError(
                "A .npy file holds one array, without a name: leave --calib_key out. "
                f"Received: {options.calib!r}, --calib_key={options.calib_key!r}"
            )
        return stored
    key = options.calib_key or (names[0] if len(names) == 1 else None)
    if key not in names:
        raise ValueError(
            f"Say with --calib_key which array of the file holds the samples, one of {names}. "
            f"Received: {key!r}"
        )
    return loaded(lambda: stored[key])


def _first(samples: Samples, count: int) -> Samples:
    if isinstance(samples, dict):
        return {name: array[:count] for name, array in samples.items()}
    return samples[:count]
