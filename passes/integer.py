"""Integer arithmetic: contractions of dequantized operands multiply the bytes, and what follows requantizes their i32 sums.

    conv(dequantize(x, sx, zx), dequantize(w, sw, 0)) + dequantize(b, sx * sw, 0)
        ->  dequantize(conv(pad(x, zx), w) + c, sx * sw, 0)                            c = b - zx * the sum of w, for each channel
    quantize(relu(dequantize(a, sa, za) + dequantize(r, sr, zr)), sy, zy)
        ->  quantize(relu(dequantize(a, sa / sy, za) + dequantize(r, sr / sy, zr)), 1, zy)

x is u8 with one scale and w constant with one scale for each output channel, or in all.  Sums are exact: a contraction whose i32 sums
could overflow is left alone, as is one the product of whose scales f32 cannot hold.  Scales are multiplied and divided in f64 and
rounded once, so that an element costs one product and no division.  A bias that is not quantized is added to the float that the sum
becomes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import QuantWarning
from ..ir.evaluate import evaluate_node
from ..ir.graph import Graph, Node, Value, const_value, rewrite
from ..ir.ops.registry import apply, apply_node
from ..ir.types import f32, i8, i32, u8
from .commute import MOVES, flip_sign, per_tensor
from .leftover import warn_of_leftovers
from .values import is_uniform, scalar, swapped, use_counts

BIAS_ERROR = 1e-5  # how far the scale of a quantized bias may be from that of the sums: files hold both rounded to f32
HOMOGENEOUS = frozenset(("add", "sub", "max", "min", "clip", "relu", "abs", "neg", "leaky_relu"))  # f(k x, k y) = k f(x, y) for k > 0
DEPTH = 16  # ops between sums and quantize that a scale is moved through
BYTES = frozenset((i8, u8))


def integer(graph: Graph) -> Graph:
    """The graph with integer contractions and requantization.

    Warns with a QuantWarning that names each contraction of a dequantized value that has to stay one of floats, and with one that
    names all pairs of quantize and dequantize that are left over.
    """
    if not any(n.op in ("quantize", "dequantize") for n in graph.nodes):
        return graph
    exact: dict[Node, np.ndarray] = {}
    result = _with_integer_contractions(graph, exact)
    _warn_of_floats(result)
    warn_of_leftovers(result)
    return _requantized(result, exact)


# --- contractions ---


@dataclass(frozen=True)
class _Integers:
    """A constant that is dequantized: its integers less their zero point (i64), and their scales (f64) of the same shape."""

    values: np.ndarray
    scales: np.ndarray


def _integers(v: Value) -> _Integers | None:
    """What a dequantized constant holds, through whatever only moves its elements."""
    moves: list[Node] = []
    while v.node.op in MOVES and all(x.is_const for x in v.node.inputs[1:]):
        moves.append(v.node)
        v = v.node.inputs[0]
    if v.node.op != "dequantize" or v.dtype is not f32 or not all(x.is_const for x in v.node.inputs):
        return None
    if not v.node.inputs[0].dtype.is_int:
        return None
    q, scale, zero = (x.array for x in v.node.inputs)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    values = np.broadcast_to(q.astype(np.int64) - zero.astype(np.int64), v.shape)  # type: ignore[arg-type]
    scales = np.broadcast_to(scale.astype(np.float64), v.shape)  # type: ignore[arg-type]
    for node in reversed(moves):
        others = [x.array for x in node.inputs[1:]]
        values, scales = (_moved(node, [a, *others]) for a in (values, scales))
    return _Integers(values, scales)


def _moved(node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """What a node that moves elements makes of an array of any dtype."""
    operand = const_value(arrays[0])
    again = apply(node.op, operand, *node.inputs[1:], **node.attrs)
    return evaluate_node(again.node, arrays, {})[0]


def _by_channel(scales: np.ndarray, axis: int) -> np.ndarray | None:
    """Scales that vary along one axis only, one for each index of it."""
    first = scales[tuple(slice(None) if k == axis else slice(1) for k in range(scales.ndim))]
    return first.reshape(-1) if (scales == first).all() else None


def _with_integer_contractions(graph: Graph, exact: dict[Node, np.ndarray]) -> Graph:
    """exact: gets the scale of each constant that holds the scale of sums, before it was rounded."""
    uses = use_counts(graph)
    limits: dict[Node, int] = {}  # dequantize of sums -> the largest magnitude that these and their corrections can have

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op in ("conv", "matmul"):
            return contraction(node, inputs)
        if node.op == "add":
            for (v, b), (old, _) in zip(swapped(inputs), swapped(node.inputs), strict=True):
                if v.node in limits and uses[old.node] == 1:
                    return biased(node, v, b)
        return None

    def contraction(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        x, w = inputs
        if x.node.op != "dequantize" or x.node.inputs[0].is_const or not per_tensor(*x.node.inputs[1:]):
            return None
        q, scale, zero = x.node.inputs
        weights = _integers(w)
        if q.dtype not in BYTES or weights is None or weights.values.size == 0:
            return None
        rank = node.types[0].rank
        if node.op == "conv":
            channel = rank - 1 if node.attrs.get("layout") == "channels_last" else 1
            out, summed = 0, tuple(range(1, w.type.rank))
        else:
            channel = rank - 1
            out, summed = w.type.rank - 1, (w.type.rank - 2,)
        by_channel = _by_channel(weights.scales, out)
        narrow = weights.values.min() >= i8.min and weights.values.max() <= i8.max
        most = u8.max * int(np.abs(weights.values).sum(axis=summed).max())
        if by_channel is None or not narrow or most > i32.max:
            return None
        offset = int(zero.array) + (0 if q.dtype is u8 else 128)
        attrs = dict(node.attrs)
        bytes_ = q if q.dtype is u8 else flip_sign(q, node.loc)
        if node.op == "conv" and offset and any(p != (0, 0) for p in attrs["pads"]):
            bytes_ = _padded(bytes_, attrs["pads"], channel, offset, node.loc)
            attrs["pads"] = ((0, 0),) * len(attrs["pads"])
        sums = apply_node(node.op, (bytes_, const_value(weights.values.astype(np.int8), w.node.loc)), attrs, node.loc).outputs[0]
        corrections = -offset * weights.values.sum(axis=summed)
        if node.op == "conv":
            corrections = corrections.reshape(-1, *(1,) * (rank - 1 - channel))
        elif corrections.ndim > 1:  # weights of several batches
            corrections = corrections[..., None, :]
        total = apply("add", sums, const_value(corrections.astype(np.int32), node.loc), loc=node.loc)
        product = float(scale.array) * (by_channel if by_channel.size == 1 else by_channel.reshape(-1, *(1,) * (rank - 1 - channel)))
        m = _rounded(product.reshape(()) if product.size == 1 else product, w)
        if m is None:
            return None
        exact[m.node] = product.reshape(m.array.shape)
        result = apply("dequantize", total, m, scalar(0, i32), loc=node.loc)
        limits[result.node] = most
        return result

    def biased(node: Node, v: Value, b: Value) -> Value | None:
        """A quantized bias joins the correction."""
        bias = _integers(b)
        total, m, zero = v.node.inputs
        sums, corrections = total.node.inputs
        if bias is None or bias.values.ndim > v.type.rank or v.type != node.types[0]:
            return None
        shape = np.broadcast_shapes(bias.values.shape, corrections.array.shape)
        if not np.allclose(bias.scales, np.broadcast_to(exact[m.node], shape).reshape(shape), rtol=BIAS_ERROR, atol=0):
            return None
        most = limits[v.node] + int(np.abs(bias.values).max(initial=0))
        if most > i32.max:
            return None
        c = const_value((corrections.array + bias.values).astype(np.int32), node.loc)
        result = apply("dequantize", apply("add", sums, c, loc=total.node.loc), m, zero, loc=node.loc)
        limits[result.node] = most
        return result if result.type == node.types[0] else None

    return rewrite(graph, rule)


def _padded(x: Value, pads: Sequence[tuple], channel: int, value: int, loc: str) -> Value:
    """x with the padding of a convolution written out."""
    sides = [(0, 0)] * x.type.rank
    spatial = [k for k in range(1, x.type.rank) if k != channel]
    for axis, pair in zip(spatial, pads, strict=True):
        sides[axis] = pair
    low, high = zip(*sides, strict=True)
    return apply("pad", x, low=low, high=high, mode="constant", value=float(value), loc=loc)


# --- requantization ---


def _requantized(graph: Graph, exact: dict[Node, np.ndarray]) -> Graph:
    uses = use_counts(graph)

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op != "quantize" or not per_tensor(*inputs[1:]) or is_uniform(inputs[1], 1):
            return None
        x, scale, zero = inputs
        scaled = _divided(node.inputs[0], x, float(scale.array), DEPTH)
        if scaled is None:
            return None
        return apply("quantize", scaled, scalar(1, f32), zero, to=node.attrs["to"], loc=node.loc)

    def _divided(old: Value, new: Value, s: float, depth: int) -> Value | None:
        """A value divided by s, where that costs nothing.  old: what `uses` counts, of the same structure as new."""
        node = new.node
        if new.is_const and new.dtype is f32:
            return _rounded(new.array.astype(np.float64) / s, new)
        if node.op == "dequantize":
            q, scale, zero = node.inputs
            if not scale.is_const or scale.dtype is not f32 or (q.dtype is i32 and uses[old.node] > 1):
                return None
            factor = _rounded(exact.get(scale.node, scale.array.astype(np.float64)) / s, scale)
            return None if factor is None else apply("dequantize", q, factor, zero, loc=node.loc)
        if uses[old.node] > 1 or depth == 0 or old.node.op != node.op:
            return None
        if node.op == "mul":  # (x * c) / s = x * (c / s)
            for x, c in swapped(node.inputs):
                if c.is_const and c.dtype is f32:
                    factor = _rounded(c.array.astype(np.float64) / s, c)
                    return None if factor is None else apply("mul", x, factor, loc=node.loc)
        if node.op not in HOMOGENEOUS:
            return None
        parts = [_divided(a, b, s, depth - 1) for a, b in zip(old.node.inputs, node.inputs, strict=True)]
        if not any(p is not None and not p.is_const for p in parts):
            return None
        if any(p is None and b.is_const for p, b in zip(parts, node.inputs, strict=True)):
            return None
        factor = scalar(1 / s, f32)
        whole = [apply("mul", b, factor, loc=node.loc) if p is None else p for p, b in zip(parts, node.inputs, strict=True)]
        return apply_node(node.op, whole, node.attrs, node.loc).outputs[0]

    return rewrite(graph, rule)


def _rounded(array: np.ndarray, like: Value) -> Value | None:
    """The array as f32, or None where it is too large or small for that."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(array, np.float32)
    tiny = np.finfo(np.float32).tiny
    if not (np.isfinite(rounded) & ((np.abs(rounded) >= tiny) | (array == 0))).all():
        return None
    return const_value(rounded, like.node.loc)


# --- warnings ---


def _warn_of_floats(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op not in ("conv", "matmul") or not node.types[0].dtype.is_float:
            continue
        if not any(v.node.op == "dequantize" and not v.node.inputs[0].is_const for v in node.inputs):
            continue
        place = f" at {node.loc}" if node.loc else ""
        text = f"the quantized operand of {node.op}{place} is turned back into floats, because {_reason(node)}"
        warnings.warn(text, QuantWarning, stacklevel=2)


def _reason(node: Node) -> str:
    x, w = node.inputs
    if x.node.op != "dequantize" or not per_tensor(*x.node.inputs[1:]):
        return "the first operand is not quantized with one constant scale"
    if _integers(w) is None:
        return "the second operand is not a quantized constant"
    return (
        "the weights have several scales for an output channel, do not fit i8 around their zero point, their sums could overflow, "
        "or the product of its scales is too large or small for f32"
    )
