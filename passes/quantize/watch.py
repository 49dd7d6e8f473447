"""The graph that computes what calibration wants to know of the values of another: its statistics instead of its outputs.

They are computed where the values are, in native code and by all threads, so that none of the values leaves the program and memory does
not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import ops
from ...ir.graph import Graph, Value
from ...ir.ops.operators import cast
from ...ir.types import f64, i32
from .profile import BINS, LEAST_EXPONENT, channel_axis, observed

PARTS = 8  # of a value, whose histograms are counted at the same time
LOG_HALF = (BINS // 2).bit_length() - 1
BIAS = 126  # a number whose exponent bits are b is below 2**(b - BIAS)


@dataclass(frozen=True)
class Watched:
    """Where the statistics of a value stand among the outputs: positions, and None for what it has not."""

    value: Value
    low: int
    high: int
    exponent: int
    bins: int
    channel_max: int | None
    channel_sum: int | None


def watch(graph: Graph) -> tuple[Graph, list[Watched]]:
    """A graph whose outputs are statistics of the values of a prepared graph, and which is which.

    Of each value, the least and greatest element (infinite ones left out; NaN if there is one) f32[], the exponent of the histogram
    i32[] and its counts i32[BINS]; with a channel axis (`channel_axis`) the largest magnitudes f32[channels] and the sums
    f64[channels].
    """
    images = _images(graph)
    outputs: list[Value] = []
    shared: dict[Value, tuple[int, int, int, int]] = {}

    def add(*values: Value) -> list[int]:
        outputs.extend(values)
        return list(range(len(outputs) - len(values), len(outputs)))

    rows = []
    for v in observed(graph):
        source = _same_elements(v)
        if source not in shared:
            low, high, exponent, bins = add(*_distribution(_flat(source, source in images)))
            shared[source] = low, high, exponent, bins
        axis = channel_axis(graph, v)
        maxima = sums = None
        if axis is not None:
            others = tuple(k for k in range(v.type.rank) if k != axis)
            (maxima,) = add(ops.reduce_max(_without(ops.abs(v), math.inf, 0.0), axes=others))
            (sums,) = add(ops.reduce_sum(cast(v, f64), axes=others))
        rows.append(Watched(v, *shared[source], maxima, sums))
    names = tuple(f"{k}" for k in range(len(outputs)))
    return Graph(graph.name, graph.inputs, tuple(outputs), names, graph.updates), rows


def _same_elements(v: Value) -> Value:
    """The value whose elements, in another order or shape, v has."""
    while v.node.op in ("reshape", "transpose"):
        v = v.node.inputs[0]
    return v


def _images(graph: Graph) -> set[Value]:
    """Values that will be computed channels last: results of convolutions, and what is made of them in their order."""
    found: set[Value] = set()
    for n in graph.nodes:
        if n.op == "conv" or (n.op not in ("reshape", "transpose", "matmul") and any(v in found for v in n.inputs)):
            found.update(v for v in n.outputs if v.type.rank > 2)
    return found


def _flat(x: Value, image: bool) -> Value:
    """The elements of a value in one row, so that one kernel does for all sizes; those of images in the order that they will have."""
    if image:
        x = ops.transpose(x, perm=(0, *range(2, x.type.rank), 1))
    return ops.reshape(x, shape=(x.type.size,))


def _without(x: Value, infinity: float, other: float) -> Value:
    """x with a number in place of one of the infinities."""
    return ops.where(ops.eq(x, infinity), other, x)


def _distribution(x: Value) -> Sequence[Value]:
    """Least, greatest, exponent and counts of the histogram of elements in a row."""
    low = ops.reduce_min(_without(x, -math.inf, math.inf), axes=(0,))
    high = ops.reduce_max(_without(x, math.inf, -math.inf), axes=(0,))
    bits = ops.bitcast(ops.max(ops.neg(low), high), to=i32)
    exponent = ops.max(ops.shr(bits, 23) - BIAS, LEAST_EXPONENT)
    scale = ops.bitcast(ops.shl(ops.sub(127 + LOG_HALF, exponent), 23), to=x.dtype)
    counts = ops.histogram(x, scale, bins=BINS, parts=PARTS)
    return low, high, exponent, ops.reduce_sum(counts, axes=(0,))
