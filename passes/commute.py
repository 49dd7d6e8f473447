"""Bytes instead of floats: quantize moves up and dequantize down through what only moves or chooses elements, until they meet.

    quantize(f(x), s, z)                 ->  f(quantize(x, s, z))      f: reshape, slice, pad, concat, gather, maximum of a window, ...
    f(dequantize(q, s, z))               ->  dequantize(f(q), s, z)
    quantize(dequantize(q, s, z), s, z)  ->  q
    quantize(relu(x), s, 0, to=u8)       ->  quantize(x, s, 0)         the range of the integers limits as much
    quantize(x, s, z, to=i8)             ->  flip_sign(quantize(x, s, z + 128, to=u8))      contractions want unsigned activations

Scale and zero point are one number each, the scale positive: both functions are monotone then, NaN being the greatest of all, and
every rewrite is exact.  One sweep moves an op by one place.
"""

from __future__ import annotations

import numpy as np

from ..ir.evaluate import run_op
from ..ir.graph import Graph, Node, Value, const_value, rewrite
from ..ir.ops.registry import apply, op_def
from ..ir.types import f32, i8, u8
from .values import scalar, uniform, use_counts

MOVES = frozenset(("reshape", "transpose", "slice", "broadcast_to", "tile", "repeat", "gather", "gather_elements", "gather_nd"))
SIGN = 0x80
LARGEST = 2.0**110  # of a scale by which any difference of two 16-bit integers can be multiplied in f32


def commute(graph: Graph) -> Graph:
    """The graph with every quantize and dequantize one place nearer to the other."""
    uses = use_counts(graph)

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op == "quantize":
            return _quantize(node, inputs, alone=uses[node.inputs[0].node] == 1)
        if node.op == "dequantize":
            return _dequantize(node, inputs)
        if len(node.types) == 1 and any(v.node.op == "dequantize" for v in inputs):
            return _after(node, inputs)
        return None

    return rewrite(graph, rule)


def per_tensor(scale: Value, zero: Value) -> bool:
    """Whether scale and zero point are constants of rank 0 and the scale a positive f32 that can be divided by."""
    if not (scale.is_const and zero.is_const and scale.type.rank == zero.type.rank == 0 and scale.dtype is f32):
        return False
    return bool(np.finfo(np.float32).tiny <= scale.array < np.inf)


def flip_sign(q: Value, loc: str = "") -> Value:
    """Bytes of one sign as bytes of the other, 128 more or less: i8 as u8, or u8 as i8."""
    if q.is_const:
        return const_value((q.array.view(np.uint8) ^ np.uint8(SIGN)).view(np.uint8 if q.dtype is i8 else np.int8), loc)
    bits = q if q.dtype is u8 else apply("bitcast", q, to=u8, loc=loc)
    flipped = apply("xor", bits, scalar(SIGN, u8), loc=loc)
    return flipped if q.dtype is i8 else apply("bitcast", flipped, to=i8, loc=loc)


def as_unsigned(q: Value) -> Value | None:
    """The u8 value that i8 bytes were flipped from."""
    match q.node.op, q.node.inputs:
        case "bitcast", (flipped,) if q.dtype is i8 and flipped.node.op == "xor":
            bits, sign = flipped.node.inputs
            return bits if bits.dtype is u8 and uniform(sign) == SIGN else None
    return None


# --- quantize, upwards ---


def _quantize(node: Node, inputs: tuple[Value, ...], alone: bool) -> Value | None:
    """alone: whether nothing else reads the operand."""
    x, scale, zero = inputs
    to = node.attrs["to"]
    if not per_tensor(scale, zero) or not to.is_int:
        return None
    if to is i8:
        return flip_sign(apply("quantize", x, scale, flip_sign(zero), to=u8, loc=node.loc), node.loc)
    above = x.node
    if above.op == "dequantize" and all(_same(a, b) for a, b in zip(above.inputs[1:], (scale, zero), strict=True)):
        return above.inputs[0] if to.bits <= 16 and scale.array <= LARGEST else None
    if not alone or len(above.types) != 1:
        return None

    def quantized(v: Value) -> Value:
        return apply("quantize", v, scale, zero, to=to, loc=node.loc)

    def number(real: float) -> float:
        operand = np.asarray(real, x.dtype.np)
        return float(run_op(op_def("quantize"), (operand, scale.array, zero.array), {"to": to})[0])

    attrs = dict(above.attrs)
    match above.op:
        case "concat":
            return apply("concat", *map(quantized, above.inputs), loc=above.loc, **attrs)
        case "relu":
            return quantized(above.inputs[0]) if number(0) == to.min else None
        case "clip":
            low, high = map(uniform, above.inputs[1:])
            limits = low is not None and high is not None and number(low) == to.min and number(high) == to.max
            return quantized(above.inputs[0]) if limits and above.inputs[0].type == x.type else None
        case "pad":
            attrs["value"] = number(attrs.get("value", 0))
        case "window":
            attrs["fill"] = number(attrs["fill"])
        case op if op not in MOVES and op != "reduce_max":  # of some numbers and NaN, reduce_min is NaN but not the greatest
            return None
    return apply(above.op, quantized(above.inputs[0]), *above.inputs[1:], loc=above.loc, **attrs)


def _same(a: Value, b: Value) -> bool:
    return a.dtype is b.dtype and a.is_const and a.type == b.type and uniform(a) == uniform(b)


# --- dequantize, downwards ---


def _dequantize(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    q, scale, zero = inputs
    unsigned = as_unsigned(q)
    return None if unsigned is None or not zero.is_const else apply("dequantize", unsigned, scale, flip_sign(zero), loc=node.loc)


def _after(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """What only moves elements, of the integers."""
    many = node.op == "concat"
    sources = inputs if many else inputs[:1]
    if any(v.node.op != "dequantize" or v.node.inputs[0].is_const for v in sources):
        return None
    _, scale, zero = sources[0].node.inputs
    same = all(_same(a, b) for v in sources for a, b in zip(v.node.inputs[1:], (scale, zero), strict=True))
    if not per_tensor(scale, zero) or not same:
        return None
    attrs = dict(node.attrs)
    fill = {"pad": "value", "window": "fill"}.get(node.op)
    if fill and attrs.get(fill, 0) == 0:
        attrs[fill] = float(zero.array)
    elif node.op not in MOVES and node.op != "concat" and not _chooses(node):
        return None
    integers = [v.node.inputs[0] for v in sources]
    return apply("dequantize", apply(node.op, *integers, *inputs[len(sources) :], loc=node.loc, **attrs), scale, zero, loc=node.loc)


def _chooses(node: Node) -> bool:
    """Whether a node finds the greatest or least of some elements; that of none is an infinity, which no integer is."""
    if node.op not in ("reduce_max", "reduce_min"):
        return False
    shape = node.inputs[0].shape
    return all(isinstance(d, int) and d > 0 for d in (shape[k] for k in node.attrs["axes"]))
