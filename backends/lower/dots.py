"""Contractions of bytes in the form that `dot4` sums: u8 activations, constant i8 weights, a multiple of four products in a row.

    x: i8[m,6], w: i8[6,n]   ->   matmul(pad(bitcast(x, u8) ^ 128), pad(w)) - 128 * sum(w)

Channels that are too few are padded with zeros, together with a convolution's own padding.  Signed activations become unsigned by
their sign bit, which adds 128 to each of them; integer sums wrap, so that taking 128 times the sum of the weights off again is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.graph import Node, Value, const_value
from ...ir.ops.registry import apply
from ...ir.types import i8, i32, u8
from ..target import Target
from .contraction import DOT
from .depthwise import is_depthwise

SIGN = 128


def is_dots(node: Node, target: Target) -> bool:
    """Whether the sums of a contraction are to be packed for `dot4`."""
    return _is_of_bytes(node, target) and node.inputs[0].dtype is u8 and _channels(node.inputs[1], node.op) % DOT == 0


def as_dots(node: Node, inputs: Sequence[Value], target: Target) -> tuple[Node, Value | None]:
    """A contraction as one for `dot4` where it can be, and what has to be subtracted from its result."""
    x, w = inputs
    channels = _channels(w, node.op) if _is_of_bytes(node, target) else 0
    missing = -channels % DOT
    if not channels or (missing and node.attrs.get("groups", 1) > 1):
        return Node(node.op, (x, w), node.attrs, node.types, node.loc), None
    loc, attrs, weights = node.loc, dict(node.attrs), w.array
    extra = None
    if x.dtype is i8:
        x = apply("xor", apply("bitcast", x, to=u8, loc=loc), const_value(np.array(SIGN, np.uint8), loc), loc=loc)
        sums = SIGN * weights.astype(np.int32).sum(axis=_summed(weights.ndim, node.op), dtype=np.int32)
        first = node.op == "conv" and attrs.get("layout", "channels_first") == "channels_first"
        if first or weights.ndim > 2 and node.op == "matmul":
            sums = sums.reshape(-1, *[1] * (weights.ndim - 2)) if first else sums[..., None, :]
        extra = const_value(sums, loc)
    # what pads is zero as a number: channels past the end meet weights of zero anyway
    low, high = [0] * x.type.rank, [0] * x.type.rank
    axis = x.type.rank - 1
    if node.op == "conv":
        first = attrs.get("layout", "channels_first") == "channels_first"
        axis = 1 if first else axis
        for k, (before, after) in enumerate(attrs["pads"]):
            low[k + 2 - (not first)], high[k + 2 - (not first)] = before, after
        attrs["pads"] = tuple((0, 0) for _ in attrs["pads"])
    high[axis] = missing
    if any(d != 0 for d in (*low, *high)):
        value = float(SIGN if extra is not None else 0)
        x = apply("pad", x, low=tuple(low), high=tuple(high), mode="constant", value=value, loc=loc)
    if missing:
        widths = [(0, 0)] * weights.ndim
        widths[1 if node.op == "conv" else -2] = (0, missing)
        w = const_value(np.pad(weights, widths), loc)
    return apply(node.op, x, w, loc=loc, **attrs).node, extra


def _is_of_bytes(node: Node, target: Target) -> bool:
    x, w = node.inputs
    bytes_ = x.dtype in (u8, i8) and w.dtype is i8 and node.types[0].dtype is i32
    return target.kind == "cpu" and bytes_ and w.is_const and not is_depthwise(node)


def _channels(w: Value, op: str) -> int:
    """How many products stand in a row, of those that one result sums."""
    channels = w.shape[1] if op == "conv" else w.shape[-2]
    assert isinstance(channels, int)  # of a constant
    return channels


def _summed(rank: int, op: str) -> tuple[int, ...]:
    return tuple(range(1, rank)) if op == "conv" else (rank - 2,)
