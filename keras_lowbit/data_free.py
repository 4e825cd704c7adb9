"""Calibration samples without data: what the batch norms of a network remember of its training set.

A batch norm stores mean and variance of each channel of its input. Random inputs are changed by
gradient descent until the float network shows the same statistics at every batch norm (Haroush et
al. 2020, "The knowledge within"; Cai et al. 2020, "ZeroQ"). They look like nothing, but they excite
every tensor as real samples do, which is what ranges need. Rounding and tuning fit them too, so real
samples, however few, are better.

The distance of a channel is the divergence of two normal distributions (Haroush et al. 2020, eq. 2),
which has no unit. What inputs start as is searched first: noise of the centre, width and smoothness
of least distance. Pixels and sound change slowly along their axes; in white noise, first layers see
nothing but edges, and it would have to be much fainter than real images.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from keras_lowbit._keras import keras
from keras_lowbit.calibration_data import collect
from keras_lowbit.checkpoint import Checkpoint, digest
from keras_lowbit.config import PTQConfig
from keras_lowbit.graph import Graph, Node, build

SOURCE = "synthetic: random inputs matched to batch-norm statistics, no data"
SAMPLES = 256  # more take long to make, and are much alike
BATCH = 128
STEPS = 200
LEARNING_RATE = 0.1  # in units of the input's width
WIDTHS = tuple(2.0**k for k in range(-10, 11))
CENTRES = (0.0, -2.0, 2.0)  # in widths
SLOPES = (0.0, 1.0, 1.5)  # of the amplitude over the frequency; 0 is white noise

Divergence = Callable[[list[tf.Tensor]], tf.Tensor]


class _Start(NamedTuple):
    """What the samples of an input start as."""

    centre: float = 0.0
    width: float = 1.0
    slope: float = 0.0


def samples_for(
    calib_ds: Any,
    graph: Graph,
    config: PTQConfig,
    seed: int,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> list[np.ndarray]:
    """The samples that were given, or made up where there are none, one array per network input.

    Raises:
      ValueError: as of :func:`keras_lowbit.calibration_data.collect` or :func:`made_up`.
    """
    if calib_ds is None:
        return made_up(graph, config.calibration_samples, seed, checkpoint_dir)
    return collect(calib_ds, graph, config.calibration_samples, config.batch_size)


def made_up(
    graph: Graph, most: int, seed: int, checkpoint_dir: str | os.PathLike[str] | None
) -> list[np.ndarray]:
    """At most 256 samples as of :func:`synthesize`, with a warning; a run that is resumed has them.

    Raises:
      ValueError: as of :func:`synthesize`; the checkpoint belongs to another run.
    """
    trained_norms(graph)  # refused before anything is written
    count = min(most, SAMPLES)
    logging.warning("keras_lowbit: no calibration data: %d samples are made up (%s)", count, SOURCE)
    if checkpoint_dir is None:
        return synthesize(graph, count, seed)
    weights = [w for node in graph.nodes for _, w in sorted(node.weights.items())]
    fingerprint = {"weights": digest(weights), "count": str(count), "seed": str(seed)}
    checkpoint = Checkpoint(Path(checkpoint_dir, "synthetic_samples"), fingerprint)
    saved = checkpoint.load("samples")
    if saved is not None:
        return [saved[0][f"{name}/samples"] for name in graph.inputs]
    samples = synthesize(graph, count, seed)
    values = {f"{name}/samples": x for name, x in zip(graph.inputs, samples, strict=True)}
    checkpoint.save("samples", values, {"source": SOURCE})
    return samples


def synthesize(graph: Graph, count: int, seed: int = 0) -> list[np.ndarray]:
    """Samples on which the batch norms of a network see the statistics they have stored.

    Args:
      graph: as read, with its batch norms.
      count: how many samples.
      seed: of the random numbers they start as; same seed, same samples.

    Returns:
      One float32 array (count, ...) per input, in the order of ``graph.inputs``.

    Raises:
      ValueError: an input that no trained batch norm depends on; the message names it.

    Example:
      >>> synthesize(read(model), 256)[0].shape
      (256, 32, 32, 3)
    """
    norms = trained_norms(graph)
    divergence = _divergence(graph, norms)
    generator = np.random.default_rng(seed)
    shapes = [(BATCH, *graph[name].shape) for name in graph.inputs]
    starts = _starts([generator.normal(size=shape) for shape in shapes], divergence)
    matcher = _Matcher(shapes, starts, divergence)
    batches = [
        matcher.match([
            _smoothed(generator.normal(size=shape), start.slope)
            for shape, start in zip(shapes, starts, strict=True)
        ])
        for _ in range(0, count, BATCH)
    ]  # fmt: skip
    samples = [np.concatenate(column)[:count] for column in zip(*batches, strict=True)]
    logging.info(
        "keras_lowbit: %d synthetic samples, %.4g nats a channel from the statistics of %d batch norms",
        count, float(divergence([tf.constant(x[:BATCH]) for x in samples])), len(norms),
    )  # fmt: skip
    return samples


def trained_norms(graph: Graph) -> list[Node]:
    """The batch norms that have seen data.

    Raises:
      ValueError: an input that leads to none of them; the message names it.
    """
    norms = [node for node in graph.nodes if node.kind == "BatchNormalization"]
    norms = [n for n in norms if n.weights["mean"].any() or (n.weights["variance"] != 1.0).any()]
    seen: set[str] = set()
    waiting = [node.name for node in norms]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name].inputs
    unknown = [name for name in graph.inputs if name not in seen]
    if unknown:
        raise ValueError(
            "Without calibration data, samples are made up from the statistics that batch norms store, "
            "and no trained batch norm depends on some input. Pass `calib_ds`, a few hundred samples, "
            f"or the model as it was before its batch norms were folded. Received: the inputs {unknown}, "
            f"and {len(norms)} trained batch norms"
        )
    return norms


def _divergence(graph: Graph, norms: list[Node]) -> Divergence:
    """Mean over batch norms and channels of the divergence from what is stored, in nats."""
    model = build(graph)
    part = keras.Model(model.inputs, [model.get_layer(node.name).input for node in norms])
    means = [tf.constant(node.weights["mean"]) for node in norms]
    variances = [tf.constant(n.weights["variance"] + n.config["epsilon"]) for n in norms]
    epsilons = [float(node.config["epsilon"]) for node in norms]

    def divergence(inputs: list[tf.Tensor]) -> tf.Tensor:
        tensors = part(inputs if len(inputs) > 1 else inputs[0], training=False)
        tensors = tensors if isinstance(tensors, list) else [tensors]
        terms = []
        for tensor, mean, variance, epsilon in zip(
            tensors, means, variances, epsilons, strict=True
        ):
            seen_mean, seen = tf.nn.moments(tensor, list(range(len(tensor.shape) - 1)))
            ratio = (seen + epsilon) / variance
            distance = ratio + tf.square(seen_mean - mean) / variance - 1.0 - tf.math.log(ratio)
            terms.append(0.5 * tf.reduce_mean(distance))
        return tf.add_n(terms) / len(terms)

    return divergence


def _starts(white: list[np.ndarray], divergence: Divergence) -> list[_Start]:
    """What each input starts as, for the least divergence; one input after the other."""
    starts = [_Start()] * len(white)
    for index, noise in enumerate(white):
        least = np.inf
        inputs = [
            _placed(tf.constant(x, tf.float32), s) for x, s in zip(white, starts, strict=True)
        ]
        for slope in SLOPES if noise.ndim > 2 else SLOPES[:1]:
            smooth = tf.constant(_smoothed(noise, slope))
            for centre, width in itertools.product(CENTRES, WIDTHS):
                trial = _Start(centre, width, slope)
                inputs[index] = _placed(smooth, trial)
                distance = float(divergence(inputs))
                if distance < least:
                    least, starts[index] = distance, trial
    return starts


def _placed(noise: tf.Tensor, start: _Start) -> tf.Tensor:
    return start.width * (start.centre + noise)


def _smoothed(white: np.ndarray, slope: float) -> np.ndarray:
    """Noise (samples, axes..., channels) of unit variance whose waves along its axes are as much
    weaker as they are shorter."""
    axes = tuple(range(1, white.ndim - 1))
    if not axes or not slope:
        return white.astype(np.float32)
    grids = np.meshgrid(*[np.fft.fftfreq(white.shape[a]) for a in axes], indexing="ij")
    longest = 1.0 / max(white.shape[a] for a in axes)
    frequency = np.maximum(np.sqrt(sum(grid**2 for grid in grids)), longest)
    waves = np.fft.fftn(white, axes=axes) / frequency[..., np.newaxis] ** slope
    smooth = np.fft.ifftn(waves, axes=axes).real
    return (smooth / smooth.std()).astype(np.float32)


class _Matcher:
    """Changes one batch after another; the gradient step is traced once."""

    def __init__(
        self, shapes: list[tuple[int, ...]], starts: list[_Start], divergence: Divergence
    ) -> None:
        self._starts = starts
        self._moving = [tf.Variable(tf.zeros(shape)) for shape in shapes]
        rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, STEPS)
        self._adam = keras.optimizers.Adam(rate, jit_compile=False)
        self._adam.build(self._moving)

        @tf.function(autograph=False)
        def step() -> None:
            with tf.GradientTape() as tape:
                loss = divergence(self._inputs())
            gradients = tape.gradient(loss, self._moving)
            self._adam.apply_gradients(zip(gradients, self._moving, strict=True))

        self._step = step

    def match(self, noise: list[np.ndarray]) -> list[np.ndarray]:
        """Samples that started as this noise."""
        for variable in self._adam.variables:
            variable.assign(tf.zeros_like(variable))
        for variable, values in zip(self._moving, noise, strict=True):
            variable.assign(values)
        for _ in range(STEPS):
            self._step()
        return [x.numpy() for x in self._inputs()]

    def _inputs(self) -> list[tf.Tensor]:
        return [_placed(x, start) for x, start in zip(self._moving, self._starts, strict=True)]
