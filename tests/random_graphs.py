"""Random networks as graphs: what may come out of the reader, without building Keras models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from keras_lowbit.export.integer_kernels import output_size
from keras_lowbit.graph import Graph, Node
from keras_lowbit.layer_table import FIXED_RANGE, LAYERS, has_kernel

Draw = Callable[[st.SearchStrategy[Any]], Any]
KINDS = {1: "vector", 2: "1D", 3: "2D"}  # by rank of the shape


class Growth:
    """A graph in the making; methods add nodes and return the name of the last."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.nodes: dict[str, Node] = {}
        self.fixed: set[str] = set()  # on the grid of a softmax or sigmoid, which cannot be joined
        self.normed: set[str] = set()  # only their batch norm may read them

    def add(
        self,
        kind: str,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *weights: Any,
        **config: Any,
    ) -> str:
        """A node; ``weights`` are its kernel and bias."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        roles = dict(zip(("kernel", "bias"), weights, strict=False))
        self.nodes[name] = Node(name, kind, inputs, shape, config, roles)
        info = LAYERS[kind]
        if kind in FIXED_RANGE or ((info.keeps_grid or info.averages) and inputs[0] in self.fixed):
            self.fixed.add(name)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.nodes[name].shape

    def chance(self, of: int) -> bool:
        return self.draw(st.integers(1, of)) == of

    def kernel(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
        """Of every size; now and then all zero, with dead channels, or channels far apart."""
        taps = math.prod(n for i, n in enumerate(shape) if i not in axes)
        kernel = self.random.normal(0, taps**-0.5, shape)
        kind = self.draw(st.sampled_from(["plain"] * 5 + ["zero", "dead", "apart"]))
        by_channel = [n if i in axes else 1 for i, n in enumerate(shape)]
        if kind == "dead":
            kernel *= self.random.integers(0, 2, by_channel)
        elif kind == "apart":
            kernel *= 10.0 ** self.random.uniform(-6, 3, by_channel)
        return np.float32(kernel * (kind != "zero"))

    def bias(self, channels: int) -> list[np.ndarray]:
        """One or none."""
        return [self.random.normal(0, 0.3, channels).astype(np.float32)] * (not self.chance(4))

    def windowed(self, name: str, dilates: bool, largest: int = 4) -> tuple[tuple[int, ...], dict]:
        """The spatial shape behind a random window over ``name``, and the window."""
        draw, sizes = self.draw, self.shape(name)[:-1]
        padding = draw(
            st.sampled_from(["same", "valid"] + ["causal"] * (dilates and len(sizes) == 1))
        )
        window, strides, dilation = [], [], []
        for size in sizes:
            most = min(size, largest) if padding == "valid" else largest
            window.append(draw(st.integers(1, most)))
            reach = max(1, (size - 1) // max(1, window[-1] - 1)) if padding == "valid" else 3
            dilation.append(
                draw(st.integers(1, min(3, reach))) if dilates and self.chance(3) else 1
            )
            strides.append(draw(st.integers(1, 3)) if self.chance(2) else 1)
        counted = "SAME" if padding in ("same", "causal") else "VALID"
        shape = [
            output_size(*axis, counted)
            for axis in zip(sizes, window, strides, dilation, strict=True)
        ]
        found = {"padding": padding, "strides": tuple(strides)}
        if dilates:
            found |= {"kernel_size": tuple(window), "dilation_rate": tuple(dilation)}
        else:
            found |= {"pool_size": tuple(window)}
        return tuple(shape), found

    # ---- layers

    def convolution(self, name: str, channels: int | None = None, **fixed: Any) -> str:
        kind = f"Conv{KINDS[len(self.shape(name))]}"
        channels = channels or self.draw(st.integers(1, 6))
        shape, config = self.windowed(name, dilates=True)
        if fixed:
            shape, config = self.shape(name)[:-1], config | fixed
        axes = (len(shape) + 1,)
        kernel = self.kernel((*config["kernel_size"], self.shape(name)[-1], channels), axes)
        bias = self.bias(channels)
        config |= {"filters": channels, "use_bias": bool(bias)}
        return self.add(kind, (name,), (*shape, channels), kernel, *bias, **config)

    def depthwise(self, name: str) -> str:
        shape, config = self.windowed(name, dilates=True)
        channels, multiplier = self.shape(name)[-1], self.draw(st.integers(1, 3))
        multiplier = 1 if channels > 8 else multiplier
        kernel = self.kernel((*config["kernel_size"], channels, multiplier), (2, 3))
        bias = self.bias(channels * multiplier)
        config |= {"depth_multiplier": multiplier, "use_bias": bool(bias)}
        return self.add("DepthwiseConv2D", (name,), (*shape, channels * multiplier), kernel, *bias,
                        **config)  # fmt: skip

    def separable(self, name: str) -> str:
        """As the reader gives it."""
        return self.convolution(self.depthwise(name), kernel_size=(1, 1), strides=(1, 1),
                                dilation_rate=(1, 1), padding="valid")  # fmt: skip

    def dense(self, name: str) -> str:
        units = self.draw(st.integers(1, 7))
        bias = self.bias(units)
        kernel = self.kernel((*self.shape(name), units), (1,))
        return self.add("Dense", (name,), (units,), kernel, *bias, units=units, use_bias=bool(bias))

    def norm(self, name: str) -> str:
        self.normed.add(name)
        channels = self.shape(name)[-1]
        out = self.add("BatchNormalization", (name,), self.shape(name), axis=-1, epsilon=1e-3,
                       center=True, scale=True)  # fmt: skip
        roles = {"gamma": (0.5, 2), "beta": (-1, 1), "mean": (-1, 1), "variance": (0.5, 2)}
        weights = {
            role: self.random.uniform(*ends, channels).astype(np.float32)
            for role, ends in roles.items()
        }
        self.nodes[out] = self.nodes[out].replace(weights=weights)
        return out

    def relu(self, name: str) -> str:
        largest = self.draw(st.sampled_from([6.0, None, 6.0]))
        return self.add("ReLU", (name,), self.shape(name), max_value=largest)

    def probability(self, name: str) -> str:
        return self.add(self.draw(st.sampled_from(FIXED_RANGE)), (name,), self.shape(name))

    def pool(self, name: str) -> str:
        kind = self.draw(st.sampled_from(["Max", "Average"]))
        shape, config = self.windowed(name, dilates=False)
        kind = f"{kind}Pooling{len(shape)}D"
        return self.add(kind, (name,), (*shape, self.shape(name)[-1]), **config)

    def global_pool(self, name: str) -> str:
        shape, keep = self.shape(name), self.draw(st.booleans())
        out = (*[1] * (len(shape) - 1), shape[-1]) if keep else shape[-1:]
        return self.add(f"GlobalAveragePooling{len(shape) - 1}D", (name,), out, keepdims=keep)

    def padded(self, name: str) -> str:
        *sizes, channels = self.shape(name)
        amounts = tuple((self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))) for _ in sizes)
        shape = tuple(size + sum(pair) for size, pair in zip(sizes, amounts, strict=True))
        padding = amounts if len(sizes) == 2 else amounts[0]
        return self.add(f"ZeroPadding{len(sizes)}D", (name,), (*shape, channels), padding=padding)

    def reshaped(self, name: str) -> str:
        count = math.prod(self.shape(name))
        divisors = [n for n in range(1, count + 1) if count % n == 0 and n <= 16]
        shapes = [
            (count,),
            *((count // n, n) for n in divisors),
            *((n, count // n, 1) for n in divisors),
        ]
        shape = self.draw(st.sampled_from(shapes))
        if len(shape) == 1:
            return self.add("Flatten", (name,), shape)
        return self.add("Reshape", (name,), shape, target_shape=shape)

    def joined(self, name: str) -> str:
        """With any tensor of fitting shape, itself among them, or with a convolution of it."""
        shape = self.shape(name)
        axis = self.draw(st.integers(1, len(shape)))
        kind = self.draw(st.sampled_from(["Add", "Concatenate"]))
        if name in self.fixed:
            kind = "Add"

        def fits(other: str) -> bool:
            theirs = list(self.shape(other))
            if kind == "Concatenate" and len(theirs) == len(shape):
                theirs[axis - 1] = shape[axis - 1]
            return tuple(theirs) == shape and (kind == "Add" or other not in self.fixed)

        others = [other for other in self.nodes if other not in self.normed and fits(other)]
        other = self.draw(st.sampled_from(others[-4:]))
        if len(shape) > 1 and self.chance(2):
            other = self.convolution(
                name, shape[-1], padding="same", strides=(1,) * (len(shape) - 1)
            )
        pair = (name, other) if self.chance(2) else (other, name)
        if kind == "Add":
            return self.add("Add", pair, shape)
        sizes = list(shape)
        sizes[axis - 1] += self.shape(other)[axis - 1]
        axis = self.draw(st.sampled_from([axis, axis - 1 - len(shape)]))
        return self.add("Concatenate", pair, tuple(sizes), axis=axis)

    def layer(self, name: str) -> str:
        """A random layer behind ``name``, often with a batch norm or a ReLU."""
        rank = len(self.shape(name))
        anywhere = [self.joined, self.joined, self.relu, self.reshaped, self.probability]
        spatial = [self.convolution, self.convolution, self.pool, self.padded, self.global_pool]
        choices = {
            1: [self.dense, self.dense, self.dense, *anywhere],
            2: [*spatial, *anywhere],
            3: [*spatial, self.depthwise, self.depthwise, self.separable, *anywhere],
        }[rank]
        out = self.draw(st.sampled_from(choices))(name)
        if has_kernel(self.nodes[out].kind) and self.chance(3):
            out = self.norm(out)
        may_fuse = has_kernel(self.nodes[out].kind) or self.nodes[out].kind in (
            "Add",
            "BatchNormalization",
        )
        return self.relu(out) if may_fuse and self.chance(2) else out

    def graph(self) -> Graph:
        """One or two inputs, one to six layers, and every loose end an output."""
        inputs = [self._input() for _ in range(1 + self.chance(4))]
        tips = list(inputs)
        for _ in range(self.draw(st.integers(1, 6))):
            tips.append(self.layer(self.draw(st.sampled_from(tips[-3:]))))
        read = {name for node in self.nodes.values() for name in node.inputs}
        for name in inputs:
            if name not in read:
                self.layer(name)
        read = {name for node in self.nodes.values() for name in node.inputs}
        ends = [name for name in self.nodes if name not in read]
        inside = [name for name in self.nodes if name in read - self.normed and name not in inputs]
        if inside and self.chance(4):
            ends.append(self.draw(st.sampled_from(inside)))
        return Graph(self.nodes.values(), inputs, ends)

    def _input(self) -> str:
        rank = self.draw(st.sampled_from([1, 3, 2, 3, 3]))
        sizes = [self.draw(st.integers(1, 8)) for _ in range(rank - 1)]
        shape = (*sizes, self.draw(st.integers(1, 12 if rank == 1 else 5)))
        return self.add("Input", (), shape)
