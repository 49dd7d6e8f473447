"""Simplification: local identities, the comment beside each being the identity.

Arithmetic is rewritten only where the result is the same for every input, up to the sign of a zero (x + 0 is x); sums and
products are not reassociated here (`absorb.py` does so, into the weights of a contraction).  Views merge and cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.dims import Dim
from ..ir.errors import ShapeError
from ..ir.graph import Graph, Node, Value, const_value, rewrite
from ..ir.ops.registry import OPS, apply, apply_node, broadcast_shape
from ..ir.types import DType
from .values import is_power_of_two, is_uniform, uniform

_STEPS = 20  # identities applied to one node in a row; each makes it smaller, so that this is never the limit


def simplify(graph: Graph) -> Graph:
    """The graph after one sweep of all identities, operands before users."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if len(node.types) != 1 or node.op in ("input", "const", "variable"):
            return None
        current = node if inputs == node.inputs else node.with_inputs(inputs)
        for _ in range(_STEPS):
            better = next((b for b in (identity(current) for identity in _IDENTITIES) if b is not None), None)
            if better is None or better.type != node.types[0]:  # another form of a symbolic size would have to be inferred anew
                break
            if better.index or len(better.node.types) != 1:
                return (better,)
            current = better.node
        return None if current is node else current.outputs

    return rewrite(graph, rule)


def _like(v: Value, node: Node) -> Value | None:
    """v in place of node's result: broadcast to its shape, or None where the dtype differs."""
    (t,) = node.types
    if v.dtype is not t.dtype:
        return None
    return v if v.shape == t.shape else apply("broadcast_to", v, loc=node.loc, shape=t.shape)


def _arithmetic(n: Node) -> Value | None:
    match n.op, n.inputs:
        case (("add" | "mul" | "or" | "and" | "max" | "min" | "xor"), (a, b)) if a.is_const and not b.is_const:
            return apply(n.op, b, a, loc=n.loc)  # constants stand on the right, so that what follows need look there only
        case (("add" | "sub" | "or" | "xor" | "shl" | "shr"), (x, c)) if is_uniform(c, 0):
            return _like(x, n)  # x + 0
        case (("mul" | "div"), (x, c)) if is_uniform(c, 1) and c.dtype.kind != "b":
            return _like(x, n)  # x * 1
        case ("and", (x, c)) if c.dtype.kind == "b" and is_uniform(c, True):
            return _like(x, n)  # x and true
        case "sub", (x, c) if c.is_const and c.dtype.kind in "fi":
            return apply("add", x, const_value(np.negative(c.array), c.node.loc, c.dtype), loc=n.loc)  # x - c = x + (-c)
        case "div", (x, c) if c.dtype.is_float and is_power_of_two(uniform(c) or 0):
            reciprocal = (1 / c.array.astype(np.float64)).astype(c.array.dtype)
            return apply("mul", x, const_value(reciprocal, c.node.loc, c.dtype), loc=n.loc)  # x / 2^k = x * 2^-k
        case "pow", (x, c) if x.dtype.is_float:
            return _power(n, x, uniform(c))
        case ("max", (x, c)) if is_uniform(c, 0) and c.dtype.kind in "fi":
            return _like(apply("relu", x, loc=n.loc), n)
        case (("neg" | "not"), (x,)) if x.node.op == n.op:
            return x.node.inputs[0]  # -(-x)
        case (("relu" | "abs" | "floor" | "ceil" | "round" | "trunc" | "sign"), (x,)) if x.node.op == n.op:
            return x  # f(f(x))
        case "add", (a, b) if b.node.op == "neg":
            return apply("sub", a, b.node.inputs[0], loc=n.loc)  # a + (-b)
        case "sub", (a, b) if b.node.op == "neg":
            return apply("add", a, b.node.inputs[0], loc=n.loc)  # a - (-b)
        case "where", (_, a, b) if a == b:
            return _like(a, n)
        case "where", (c, a, b) if (held := uniform(c)) is not None:
            return _like(a if held else b, n)
        case (("add" | "mul" | "and" | "or" | "xor"), (x, c)) if c.is_const and x.node.op == n.op and x.dtype.kind in "iub":
            return _reassociated(n, x, c)  # (x + c1) + c2 = x + (c1 + c2), exact on integers, which wrap
    return None


def _power(n: Node, x: Value, exponent: float | None) -> Value | None:
    match exponent:
        case 1:
            return _like(x, n)
        case 2:
            return _like(apply("mul", x, x, loc=n.loc), n)
        case -1:
            return _like(apply("reciprocal", x, loc=n.loc), n)
        case _:
            return None


def _reassociated(n: Node, inner: Value, c: Value) -> Value | None:
    x, d = inner.node.inputs
    if not d.is_const:
        return None
    with np.errstate(over="ignore"):
        f = {"add": np.add, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[n.op]
        joined = f(d.array, c.array).astype(c.array.dtype)
    if joined.size > max(c.array.size, d.array.size):
        return None
    return _like(apply(n.op, x, const_value(joined, c.node.loc, c.dtype), loc=n.loc), n)


# --- casts and broadcasts ---


def _conversion(n: Node) -> Value | None:
    match n.op, n.inputs:
        case "cast", (x,) if n.attrs["to"] is x.dtype:
            return x
        case "cast", (x,) if x.node.op == "cast" and _is_detour(x.node.inputs[0].dtype, x.dtype, n.attrs["to"]):
            return apply("cast", x.node.inputs[0], loc=n.loc, to=n.attrs["to"])  # the inner cast loses nothing
        case "bitcast", (x,) if n.attrs["to"] is x.dtype:
            return x
        case "broadcast_to", (x,) if n.types[0].shape == x.shape:
            return x
        case "broadcast_to", (x,) if x.node.op == "broadcast_to":
            return apply("broadcast_to", x.node.inputs[0], loc=n.loc, shape=n.attrs["shape"])
    if OPS[n.op].kind == "pointwise" and any(v.node.op == "broadcast_to" for v in n.inputs):
        return _without_broadcasts(n)
    return None


def _is_detour(source: DType, middle: DType, target: DType) -> bool:
    """Whether casting by way of `middle` is casting directly: integers wrap among themselves, but floats saturate."""
    return represents(middle, source) and not (middle.is_float and not source.is_float and target.is_int)


def represents(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    mantissa = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8, "f8e4m3": 4, "f8e5m2": 3}
    if narrow.kind == "b":
        return wide.kind in "biuf"
    if narrow.is_int and wide.is_int:
        return wide.min <= narrow.min and wide.max >= narrow.max
    if narrow.is_int and wide.is_float:
        return narrow.bits - (narrow.kind == "i") <= mantissa[wide.name]
    if narrow.is_float and wide.is_float:
        exact = {"f64": {"f32", "f16", "bf16", "f8e4m3", "f8e5m2"}, "f32": {"f16", "bf16", "f8e4m3", "f8e5m2"}}
        return wide is narrow or narrow.name in exact.get(wide.name, set())
    return False


def _without_broadcasts(n: Node) -> Value | None:
    """Pointwise ops broadcast by themselves: an operand's own broadcast goes where the other operands give the shape."""
    bare = tuple(v.node.inputs[0] if v.node.op == "broadcast_to" else v for v in n.inputs)
    for candidate in (bare, *(tuple(bare[j] if j != k else v for j, v in enumerate(n.inputs)) for k in range(len(bare)))):
        if candidate == n.inputs:
            continue
        try:
            if broadcast_shape(*(v.shape for v in candidate)) == n.types[0].shape:
                return apply_node(n.op, candidate, n.attrs, n.loc).outputs[0]
        except ShapeError:  # symbolic sizes that only the explicit broadcast made fit
            continue
    return None


# --- views ---


def _view(n: Node) -> Value | None:
    match n.op, n.inputs:
        case "reshape", (x,) if n.types[0].shape == x.shape:
            return x
        case "reshape", (x,) if x.node.op == "reshape":
            return apply("reshape", x.node.inputs[0], loc=n.loc, shape=n.attrs["shape"])
        case "transpose", (x,) if n.attrs["perm"] == tuple(range(x.type.rank)):
            return x
        case "transpose", (x,) if x.node.op == "transpose":
            inner = x.node.attrs["perm"]
            return apply("transpose", x.node.inputs[0], loc=n.loc, perm=tuple(inner[k] for k in n.attrs["perm"]))
        case ("tile" | "repeat", (x,)) if all(r == 1 for r in n.attrs["repeats"]):
            return x
        case (("reduce_sum" | "reduce_prod" | "reduce_max" | "reduce_min" | "reduce_and" | "reduce_or"), (x,)):
            if all(x.shape[a] == 1 for a in n.attrs["axes"]):
                return apply("reshape", x, loc=n.loc, shape=n.types[0].shape)  # folding one element
    return None


# --- slices, pads, concatenations ---


def _part(n: Node) -> Value | None:
    match n.op, n.inputs:
        case "slice", (x,) if n.types[0].shape == x.shape and all(s == 0 for s in n.attrs["starts"]):
            return x if all(s == 1 or d == 1 for s, d in zip(n.attrs["steps"], x.shape, strict=True)) else None
        case "slice", (x,) if x.node.op == "slice":
            return _slice_of_slice(n, x.node)
        case "slice", (x,) if x.node.op == "concat":
            return _slice_of_concat(n, x.node)
        case "pad", (x,) if not _any_nonzero(n.attrs["low"]) and not _any_nonzero(n.attrs["high"]):
            return x
        case "concat", (x,):
            return x
        case "concat", xs if any(v.shape[n.attrs["axis"]] == 0 for v in xs):
            kept = [v for v in xs if v.shape[n.attrs["axis"]] != 0]
            return apply("concat", *(kept or xs[:1]), loc=n.loc, axis=n.attrs["axis"])
        case "concat", xs if any(v.node.op == "concat" and v.node.attrs["axis"] == n.attrs["axis"] for v in xs):
            parts: list[Value] = []
            for v in xs:
                parts += v.node.inputs if v.node.op == "concat" and v.node.attrs["axis"] == n.attrs["axis"] else (v,)
            return apply("concat", *parts, loc=n.loc, axis=n.attrs["axis"])
        case "gather", (x, at):
            return _gather_one(n, x, uniform(at))
    return None


def _any_nonzero(dims: Sequence[Dim]) -> bool:
    return any(d != 0 for d in dims)


def _slice_of_slice(n: Node, inner: Node) -> Value | None:
    starts, stops, steps = [], [], []
    for k, size in enumerate(n.types[0].shape):
        step = inner.attrs["steps"][k] * n.attrs["steps"][k]
        start = inner.attrs["starts"][k] + n.attrs["starts"][k] * inner.attrs["steps"][k]
        if size == 0:
            return None
        starts.append(start)
        steps.append(step)
        stops.append(start + (size - 1) * step + (1 if step > 0 else -1))
    return apply("slice", inner.inputs[0], loc=n.loc, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def _slice_of_concat(n: Node, inner: Node) -> Value | None:
    """A range that lies within one part of a concatenation is a range of that part."""
    axis = inner.attrs["axis"]
    start, stop, step = (n.attrs[name][axis] for name in ("starts", "stops", "steps"))
    if step != 1:
        return None
    begin: Dim = 0
    for part in inner.inputs:
        end = begin + part.shape[axis]
        before, after = start - begin, end - stop
        if isinstance(before, int) and isinstance(after, int) and before >= 0 and after >= 0:
            starts = tuple(d - begin if k == axis else d for k, d in enumerate(n.attrs["starts"]))
            stops = tuple(d - begin if k == axis else d for k, d in enumerate(n.attrs["stops"]))
            try:
                better = apply("slice", part, loc=n.loc, starts=starts, stops=stops, steps=n.attrs["steps"])
            except ShapeError:
                return None
            return better if better.type == n.types[0] else None
        begin = end
    return None


def _gather_one(n: Node, x: Value, at: float | None) -> Value | None:
    """Gathering one known position is a slice."""
    axis, size = n.attrs["axis"], x.shape[n.attrs["axis"]]
    if at is None or n.inputs[1].array.size != 1:
        return None
    if not isinstance(size, int) or not -size <= at < size:
        return None
    at = int(at) % size
    starts = tuple(at if k == axis else 0 for k in range(x.type.rank))
    stops = tuple(at + 1 if k == axis else d for k, d in enumerate(x.shape))
    part = apply("slice", x, loc=n.loc, starts=starts, stops=stops, steps=(1,) * x.type.rank)
    return apply("reshape", part, loc=n.loc, shape=n.types[0].shape)


# --- pads into windows and convolutions ---


def _window(n: Node) -> Value | None:
    """A constant pad before a convolution or a window becomes part of its own padding, where both pad with the same value."""
    if n.op not in ("conv", "window") or n.inputs[0].node.op != "pad":
        return None
    pad = n.inputs[0].node
    if pad.attrs.get("mode", "constant") != "constant":
        return None
    x = pad.inputs[0]
    low, high = pad.attrs["low"], pad.attrs["high"]
    if n.op == "window":
        axes, before, after, fill = n.attrs["axes"], n.attrs["low"], n.attrs["high"], n.attrs["fill"]
    else:
        last = n.attrs.get("layout", "channels_first") == "channels_last"
        axes = tuple(range(1, x.type.rank - 1)) if last else tuple(range(2, x.type.rank))
        before, after, fill = *zip(*n.attrs["pads"], strict=True), 0
    outside = [k for k in range(x.type.rank) if k not in axes]
    if pad.attrs.get("value", 0) != fill or any(low[k] != 0 or high[k] != 0 for k in outside):
        return None
    before = tuple(b + low[a] for a, b in zip(axes, before, strict=True))
    after = tuple(b + high[a] for a, b in zip(axes, after, strict=True))
    own = {"low": before, "high": after} if n.op == "window" else {"pads": tuple(zip(before, after, strict=True))}
    return apply_node(n.op, (x, *n.inputs[1:]), {**n.attrs, **own}, n.loc).outputs[0]


_IDENTITIES = (_arithmetic, _conversion, _view, _part, _window)
