"""Cross-layer equalization: the channels of a value between two layers get ranges alike, at the cost of the second layer's weights.

    V relu(W x + b)   ->   (V s) relu((W / s) x + b / s)            s = (r / r_max)^a / w^(1 - a), by channel, as a power of two

One scale for a whole value wastes its steps on channels that are small beside the largest, as depthwise convolutions make them.  What
stands between the layers commutes with a positive factor for each channel (relu(x / s) = relu(x) / s), so that the model computes the
same.  M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-free quantization through weight equalization and bias correction",
ICCV 2019, section 4.1, balance the weights of both layers, of which each has a single scale there.  Here each output channel has its
own, so that no s makes the first layer's weights better or worse; what has one scale is the value between.  So r is the range of a
channel of that, as calibration saw it (as SmoothQuant has it, `smooth.py`; with a = 1/2 it is their formula), and w the most that the
channel's weights take up of the range of an output of the second layer.  Neither depends on the factors of other values: nothing has to
be iterated along a chain of layers.

The strength a is the one by which the error that rounding adds to the second layer's results is expected to be least: 1 for a depthwise
layer, whose scales take up the whole factor.  Where that is not half of what it was, all stays as it is, as the estimate is rough.
Powers of two scale every product and sum exactly, so that the model in f32 gives the same bits as before.

Of the tasks of `benchmarks/accuracy`, this changes those of PP-OCR: of the characters in hard lines 3.3 % are read wrong instead of
4.0 (3.1 in f32), and maps of text agree with those in f32 to 0.962 instead of 0.935.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.types import f32, u8
from .profile import BINS, Stats, channel_axis
from .weights import LARGEST

Range = tuple[float, float]

HOMOGENEOUS = frozenset(("relu", "leaky_relu", "prelu", "abs", "neg", "mul", "div"))  # f(x / s, c) = f(x, c) / s for constants c
DIVIDED = frozenset(("add", "sub", "max", "min", "clip"))  # f(x / s, c / s) = f(x, c) / s
COMMUTATIVE = frozenset(("add", "sub", "max", "min", "mul"))  # in which the constant may come first, as in 1 - x
POOLS = frozenset(("reduce_max", "reduce_min", "reduce_sum"))
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
# Of the error before: the largest of 0.5, 0.7 and 0.9 by which no task of `benchmarks/accuracy` lost anything; by the others, tones and
# speech lost a little.  So that table does not test this choice.
WORTH = 0.5
LEAST = 2.0**-8  # of the largest: channels that calibration hardly saw may be larger one day
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Divided:
    """What the channels of a value, along an axis, are divided by: f64[channels]."""

    axis: int
    factors: np.ndarray

    def range(self, whole: Range, largest: np.ndarray) -> Range:
        """The range of the divided value, which cuts off nothing of what was seen that the range of the whole value does not.

        largest: the magnitudes that its channels were seen to have.
        """
        return float((np.maximum(whole[0], -largest) / self.factors).min()), float((np.minimum(whole[1], largest) / self.factors).max())

    def shaped(self, rank: int) -> np.ndarray:
        """The factors as an operand for values of this rank."""
        return self.factors.reshape(-1, *(1,) * (rank - 1 - self.axis))


def equalizing(
    graph: Graph, chosen: Collection[Node], ranges: Mapping[Value, Range], stats: Callable[[Value], Stats | None]
) -> dict[Value, Divided]:
    """The values of a prepared graph to divide: of what lies between a layer and all that read it, everything or nothing.

    chosen: the contractions that will multiply bytes; ranges: of all values that will be bytes; stats: what calibration saw of a value.
    """
    divided: dict[Value, Divided] = {}
    roots = set(graph.roots)
    for node in graph.nodes:
        axes, readers = _between(graph, node, roots)
        readers = [r for r in readers if r in chosen]
        stored = {v: stats(v) for v in axes if v in ranges and channel_axis(graph, v) == axes[v]}
        seen = {v: s for v, s in stored.items() if s is not None and s.channel_max}
        if not readers or any(v in ranges and v not in seen for v in axes):
            continue
        factors = _factors([_Reader.of(r, ranges[r.inputs[0]], seen[r.inputs[0]]) for r in readers])
        if factors is not None:
            divided.update((v, Divided(axis, factors)) for v, axis in axes.items())
    return divided


def equalized(graph: Graph, divided: Mapping[Value, Divided]) -> tuple[Graph, dict[Value, Value]]:
    """The graph with these values divided, and what each of its values is there."""
    images: dict[Value, Value] = {}

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        images.update(zip(node.inputs, inputs, strict=True))
        after = divided.get(node.outputs[0])
        if _is_layer(node):
            before = divided.get(node.inputs[0])
            if before is None and after is None:
                return None
            w = node.inputs[1].array.astype(np.float64)
            if before is not None:
                w = w * _by_weight(node, before.factors)
            if after is not None:
                w = w / (after.factors if node.op == "matmul" else after.factors.reshape(-1, *(1,) * (w.ndim - 1)))
            return node.with_inputs((inputs[0], _constant(w, inputs[1]))).outputs
        if node.op in DIVIDED and after is not None:
            s = after.shaped(node.types[0].rank)
            operands = [_constant(v.array / s, v) if v.is_const and v.array.any() else v for v in inputs]
            return node.with_inputs(operands).outputs
        return None

    result = rewrite(graph, rule)
    images.update(zip(graph.roots, result.roots, strict=True))
    return result, images


def _constant(array: np.ndarray, like: Value) -> Value:
    return const_value(array.astype(np.float32), like.node.loc)


# --- which values ---


def _between(graph: Graph, first: Node, roots: Collection[Value]) -> tuple[dict[Value, int], list[Node]]:
    """The values behind a layer up to others that read them, each with the axis of its channels, and those others.

    Nothing where something else reads one of them, or a factor for each channel does not pass through.
    """
    if not _is_layer(first):
        return {}, []
    axes = {first.outputs[0]: _channel_axis(first)}
    readers: list[Node] = []
    pending = list(axes)
    while pending:
        v = pending.pop()
        if v in roots:
            return {}, []
        for reader in graph.users[v.node]:
            if _is_layer(reader) and reader.inputs[0] == v and axes[v] == _channel_axis(reader):
                readers.append(reader)
                continue
            axis = _axis_behind(reader, v, axes[v])
            if axis is None:
                return {}, []
            axes[reader.outputs[0]] = axis
            pending.append(reader.outputs[0])
    return axes, readers


def _is_layer(n: Node) -> bool:
    """Whether it is a convolution, or a product with a matrix, by finite constant weights."""
    if n.op not in ("conv", "matmul") or n.types[0].dtype is not f32 or n.inputs[0].is_const:
        return False
    w = n.inputs[1]
    return w.is_const and w.array.size > 0 and bool(np.isfinite(w.array).all()) and (n.op == "conv" or w.type.rank == 2)


def _channel_axis(layer: Node) -> int:
    return 1 if layer.op == "conv" else layer.inputs[0].type.rank - 1


def _axis_behind(node: Node, v: Value, axis: int) -> int | None:
    """The axis of v's channels in what a node makes of it, or None where a factor for each channel does not pass through."""
    others = [x for x in node.inputs if x != v]
    if len(others) != len(node.inputs) - 1 or not all(x.is_const for x in others) or [t.dtype for t in node.types] != [f32]:
        return None
    attrs, shape, result = node.attrs, v.shape, node.types[0].shape
    if node.op in HOMOGENEOUS or node.op in DIVIDED:
        return axis if result == shape and (node.inputs[0] == v or node.op in COMMUTATIVE) else None
    if node.op == "window":
        return axis if axis not in attrs["axes"] and (attrs["fill"] == 0 or math.isinf(attrs["fill"])) else None
    if node.op in POOLS and axis not in attrs["axes"]:
        return axis if attrs["keepdims"] else axis - sum(a < axis for a in attrs["axes"])
    if node.op == "pad" and attrs["mode"] == "constant" and attrs["value"] == 0:
        return axis if attrs["low"][axis] == attrs["high"][axis] == 0 else None
    if node.op == "transpose":
        return attrs["perm"].index(axis)
    if node.op == "reshape":  # the same axis, if there is as much before it as there was
        before = _size(shape[:axis])
        return next((k for k, d in enumerate(result) if d == shape[axis] and _size(result[:k]) == before), None)
    return None


def _size(shape: tuple[Any, ...]) -> Any:
    return math.prod(shape)


# --- which factors ---


@dataclass(frozen=True)
class _Reader:
    """A layer that multiplies the value as bytes.

    largest, squares: f64[outputs, inputs of one], the magnitude and the sum of squares of a kernel's weights, as shares of the output's
    largest weight; taps: weights in a kernel; channels: which of the value each input is; low, high: what is kept of each channel;
    power: the mean square of each.
    """

    largest: np.ndarray
    squares: np.ndarray
    taps: int
    channels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    power: np.ndarray

    @staticmethod
    def of(layer: Node, whole: Range, seen: Stats) -> _Reader:
        w = layer.inputs[1].array.astype(np.float64)
        kernels = w.T[:, :, None] if layer.op == "matmul" else w.reshape(*w.shape[:2], -1)
        largest = np.abs(kernels).max(axis=2)
        unit = np.maximum(largest.max(axis=1, keepdims=True), TINY)
        squares = np.square(kernels / unit[:, :, None]).sum(axis=2)
        reach = np.array(seen.channel_max)
        power = np.square(reach)  # channels are taken to be distributed alike
        power *= _mean_square(seen) / max(power.mean(), TINY)
        low, high = np.maximum(whole[0], -reach), np.minimum(whole[1], reach)
        return _Reader(largest / unit, squares, kernels.shape[2], _channels(layer), low, high, power)

    def share(self) -> np.ndarray:
        """The most that the weights of each channel take up of the range of an output's."""
        result = np.full(len(self.low), LEAST)
        np.maximum.at(result, self.channels, self.largest)
        return result

    def error(self, s: np.ndarray) -> float:
        """The square that rounding is expected to add to the results, each relative to its largest weight, with a divided operand."""
        step = ((self.high / s).max() - (self.low / s).min()) / u8.max
        each = s[self.channels]
        steps = (self.largest * each).max(axis=1) / LARGEST
        power = (self.power / np.square(s))[self.channels].sum(axis=1) * self.taps
        return float(step**2 * (self.squares * np.square(each)).sum() + np.square(steps) @ power)


def _factors(readers: list[_Reader]) -> np.ndarray | None:
    """The factors by which the readers' results are expected to have the least error, or None where that is little less than now."""
    reach = np.max([np.maximum(-r.low, r.high) for r in readers], axis=0)
    if not reach.max() > 0:
        return None
    reach = np.maximum(reach / reach.max(), LEAST)
    share = np.max([r.share() for r in readers], axis=0)

    def error(s: np.ndarray) -> float:
        return sum(r.error(s) for r in readers)

    trials = [np.exp2(np.ceil(np.log2(reach**a / share ** (1 - a)))) for a in STRENGTHS]
    best = min(trials, key=error)
    return best if error(best) < WORTH * error(np.ones_like(reach)) else None


def _channels(layer: Node) -> np.ndarray:
    """Which channel of the operand each input of each output is: int[outputs, inputs of one]."""
    w = layer.inputs[1]
    if layer.op == "matmul":
        return np.broadcast_to(np.arange(w.array.shape[0]), w.array.T.shape)
    outputs, inputs = w.array.shape[:2]
    group = np.arange(outputs) // (outputs // layer.attrs.get("groups", 1))
    return group[:, None] * inputs + np.arange(inputs)


def _by_weight(layer: Node, factors: np.ndarray) -> np.ndarray:
    """The factor of the channel that each weight multiplies, as an operand for the weights."""
    each = factors[_channels(layer)]
    return each.T if layer.op == "matmul" else each.reshape(*each.shape, *(1,) * (layer.inputs[1].type.rank - 2))


def _mean_square(seen: Stats) -> float:
    """Of the elements of a value, as far as its histogram tells."""
    centres = (np.arange(BINS) - BINS // 2 + 0.5) * (2.0**seen.exponent / (BINS // 2))
    return float(np.array(seen.bins) @ np.square(centres)) / max(seen.count, 1)
