"""More samples from few, without labels: the float model says what each of them should give.

So nothing has to keep a label, only to stay near what the network will see. What views of one image should
give is said by :mod:`keras_lowbit.finetune.views`, where they all show the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from keras_lowbit.graph import Graph

LARGEST_SHIFT = 0.1  # of the axis
SHORTEST = 10  # axis of a series; there a tenth is one place
MIXED = 0.5  # share of the samples that are mixed
COLOURS = 3
SEEDS_APART = 7  # of what is done in turn; one step uses up to three seeds in a row

Inputs = list[tf.Tensor]
Step = Callable[[Inputs, tf.Tensor], Inputs]


def mixed(inputs: Inputs, seed: tf.Tensor) -> Inputs:
    """Some samples blended with another one of the batch (Zhang et al. 2018, "mixup").

    Args:
      inputs: one batch, float32 (samples, ...) per network input; samples stay together.
      seed: two integers, which decide the outcome.
    """
    count = tf.shape(inputs[0])[0]
    chosen, share = tf.unstack(tf.random.stateless_uniform((2, count), seed))
    own = tf.where(chosen < MIXED, 0.5 + 0.5 * share, 1.0)
    partner = tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    def blended(x: tf.Tensor) -> tf.Tensor:
        weight = tf.reshape(own, (-1, *[1] * (len(x.shape) - 1)))
        return weight * x + (1.0 - weight) * tf.gather(x, partner)

    return [blended(x) for x in inputs]


def shifted_and_mirrored(inputs: Inputs, seed: tf.Tensor) -> Inputs:
    """Images (samples, height, width, channels), shifted both ways, every second one mirrored."""
    count = tf.shape(inputs[0])[0]
    mirror = tf.random.stateless_uniform((count, 1, 1, 1), seed) < 0.5
    moved = [_shifted(_shifted(x, 1, seed + 1), 2, seed + 2) for x in inputs]
    return [tf.where(mirror, tf.reverse(x, axis=[2]), x) for x in moved]


def shifted_in_time(inputs: Inputs, seed: tf.Tensor) -> Inputs:
    """Series (samples, time, ...), shifted along the time."""
    return [_shifted(x, 1, seed) for x in inputs]


_BY_NAME: dict[str, tuple[Step, int]] = {  # and the fewest axes of a sample
    "mixup": (mixed, 1), "images": (shifted_and_mirrored, 3), "series": (shifted_in_time, 2),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What ``PTQConfig.augment`` means for one network: names of steps, done in turn."""

    names: tuple[str, ...]

    def __call__(self, inputs: Inputs, seed: tf.Tensor) -> Inputs:
        """Other samples from those of a batch."""
        for number, name in enumerate(self.names):
            inputs = _BY_NAME[name][0](inputs, seed + SEEDS_APART * number)
        return inputs

    def views_of_images(self) -> Augmentation | None:
        """The part of it that shows images in other ways and does not blend them; None for other samples."""
        views = tuple(name for name in self.names if name != "mixup")
        return Augmentation(views) if "images" in views else None


def augmentation_for(name: str, graph: Graph) -> Augmentation | None:
    """What ``PTQConfig.augment`` means for the inputs of a network; None for nothing.

    Raises:
      ValueError: an input has too few axes for it; the message names the input.
    """
    names = tuple(_resolved(part, graph) for part in name.split("+"))
    names = tuple(part for part in names if part != "none")
    return Augmentation(names) if names else None


def _resolved(name: str, graph: Graph) -> str:
    nodes = [graph[name] for name in graph.inputs]
    if name == "auto":
        suited = {_suited(node.shape) for node in nodes}
        name = suited.pop() if len(suited) == 1 else "mixup"
        name = name if all(node.shape for node in nodes) else "none"
    axes = 0 if name == "none" else _BY_NAME[name][1]
    for node in nodes:
        if len(node.shape) < axes:
            raise ValueError(
                f"`augment` does not fit the input {node.name!r}: {name!r} needs samples of at least "
                f"{axes} axes. Use 'auto', which fits all, or 'none'. "
                f"Received: augment={name!r}, samples of shape {node.shape}"
            )
        if name == "series" and node.shape[0] < SHORTEST:
            raise ValueError(
                f"`augment` does nothing to the input {node.name!r}: series are shifted by up to a tenth, and "
                f"need at least {SHORTEST} places along their first axis. Use 'auto', 'mixup' or 'none'. "
                f"Received: augment={name!r}, samples of shape {node.shape}"
            )
    return name


def _suited(shape: tuple[int, ...]) -> str:
    """Colour images, something along an axis (of time, or a spectrogram's) that is long enough, or neither.

    An image of one channel may be a spectrogram or a digit, which must not be mirrored.
    """
    if len(shape) == 3 and shape[-1] == COLOURS:
        return "images"
    return "series" if len(shape) > 1 and shape[0] >= SHORTEST else "mixup"


def _shifted(x: tf.Tensor, axis: int, seed: tf.Tensor) -> tf.Tensor:
    """Every sample moved by a whole number of places; values at the edge move in."""
    size = x.shape[axis]
    largest = int(size * LARGEST_SHIFT)
    offsets = tf.random.stateless_uniform(
        (tf.shape(x)[0], 1), seed, -largest, largest + 1, dtype=tf.int32
    )
    places = tf.clip_by_value(tf.range(size) + offsets, 0, size - 1)
    return tf.gather(x, places, axis=axis, batch_dims=1)
