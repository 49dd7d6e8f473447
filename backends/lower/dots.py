"""Contractions of bytes in the form that `dot4` sums: u8 activations, constant i8 weights, a multiple of four products in a row.

    x: i8[m,6], w: i8[6,n]   ->   matmul(pad(bitcast(x, u8) ^ 128), pad(w)) - 128 * sum(w)

Channels that are too few are padded with zeros, or the lines of a kernel with taps, together with a convolution's own padding.
Signed activations become unsigned by their sign bit, which adds 128 to each of them; integer sums wrap, so that taking 128 times the
sum of the weights off again is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Node, Value, const_value
from ...ir.ops.registry import apply
from ...ir.types import i8, i32, u8
from ..target import Target
from .contraction import DOT, reads_lines
from .depthwise import is_depthwise
from .map import SHORT

SIGN = 128


def is_dots(node: Node, target: Target) -> bool:
    """Whether the sums of a contraction are to be packed for `dot4`."""
    return _is_of_bytes(node, target) and node.inputs[0].dtype is u8 and _in_a_row(node) % DOT == 0


def as_dots(node: Node, inputs: Sequence[Value], target: Target) -> tuple[Node, Value | None]:
    """A contraction as one for `dot4` where it can be, and what has to be subtracted from its result."""
    x, w = inputs
    node = Node(node.op, (x, w), node.attrs, node.types, node.loc)
    if not _is_of_bytes(node, target) or (_in_a_row(node) % DOT and node.attrs.get("groups", 1) > 1):
        return node, None
    loc, attrs, weights = node.loc, dict(node.attrs), w.array
    conv = node.op == "conv"
    first = conv and attrs.get("layout", "channels_first") == "channels_first"
    extra = None
    if x.dtype is i8:
        x = apply("xor", apply("bitcast", x, to=u8, loc=loc), const_value(np.array(SIGN, np.uint8), loc), loc=loc)
        sums = SIGN * weights.sum(axis=tuple(range(1, weights.ndim)) if conv else -2, dtype=np.int32, keepdims=True)
        extra = const_value(sums.reshape(-1, *[1] * (weights.ndim - 2)) if first else sums.reshape(-1) if conv else sums, loc)
    # by axis of the operands: what a convolution pads anyway, and what is missing in a row
    widths, more = [(0, 0)] * x.type.rank, [(0, 0)] * weights.ndim
    if conv:
        widths[2 - (not first) : 2 - (not first) + len(attrs["pads"])] = attrs["pads"]
        attrs["pads"] = tuple((0, 0) for _ in attrs["pads"])
    taps, channels = _missing(node)
    if channels:
        widths[1 if first else -1] = (0, channels)
        more[1 if conv else -2] = (0, channels)
    if taps:
        low, high = widths[-1 if first else -2]
        widths[-1 if first else -2] = (low, high + taps)
        more[-1] = (0, taps)
    if any(pair != (0, 0) for pair in widths):
        low, high = zip(*widths, strict=True)
        value = float(SIGN if extra is not None else 0)  # zero as a number; past the end weights of zero meet anything
        x = padded(x, low, high, value, loc)
    if taps or channels:
        w = const_value(np.pad(weights, more), loc)
    return apply(node.op, x, w, loc=loc, **attrs).node, extra


def padded(x: Value, low: Sequence[Dim], high: Sequence[Dim], value: float, loc: str) -> Value:
    """A constant around x.  A short last axis that is not padded is one with the axis before it: vectors of it would be short."""
    *outer, width, channels = x.shape
    if not (isinstance(channels, int) and 1 < channels < SHORT and low[-1] == high[-1] == 0):
        return apply("pad", x, low=tuple(low), high=tuple(high), mode="constant", value=value, loc=loc)
    lines = apply("reshape", x, shape=(*outer, width * channels), loc=loc)
    ends = {"low": (*low[:-2], low[-2] * channels), "high": (*high[:-2], high[-2] * channels)}
    around = apply("pad", lines, **ends, mode="constant", value=value, loc=loc)
    return apply("reshape", around, shape=(*around.shape[:-1], width + low[-2] + high[-2], channels), loc=loc)


def _is_of_bytes(node: Node, target: Target) -> bool:
    x, w = node.inputs
    bytes_ = x.dtype in (u8, i8) and w.dtype is i8 and node.types[0].dtype is i32
    return target.kind == "cpu" and bytes_ and w.is_const and w.array.size > 0 and not is_depthwise(node)


def _in_a_row(node: Node) -> int:
    """How many products stand in a row, of those that one result sums."""
    shape = node.inputs[1].array.shape
    if node.op != "conv":
        return shape[-2]
    return shape[1] * shape[-1] if reads_lines(node) else shape[1]


def _missing(node: Node) -> tuple[int, int]:
    """How many taps of zero at the end of a line, or channels of zero, make the products in a row a multiple of four; the fewest."""
    shape = node.inputs[1].array.shape
    if _in_a_row(node) % DOT == 0:
        return 0, 0
    channels = -(shape[1] if node.op == "conv" else shape[-2]) % DOT
    if node.op != "conv" or not reads_lines(node):
        return 0, channels
    taps = next(t for t in range(1, DOT) if shape[1] * (shape[-1] + t) % DOT == 0)
    return (taps, 0) if shape[1] * (shape[-1] + taps) <= (shape[1] + channels) * shape[-1] else (0, channels)
