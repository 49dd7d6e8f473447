"""Between which two numbers each element of a quantized graph may lie, whatever correct code computes it.

Intervals go through a graph op by op: nearly all ops of quantized networks are monotone, and contractions by constants take the lower
ends where a weight is positive and the upper ends where it is negative.  A quantize whose operand may lie on either side of a step so
has both integers, and what follows from both is exactly what is allowed further on.

Two computations of *one* graph round alike: bytes, sums of bytes and correctly rounded arithmetic of them have no width, only sums of
floats in another order and functions like exp.  Two *forms* of a graph, as before and after the passes, may differ by some ulps at
every op of floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from octavo.ir.evaluate import bind_sizes, evaluate_node
from octavo.ir.graph import Graph, Node, Value, const_value
from octavo.ir.ops.registry import apply, expand, op_def
from octavo.ir.types import TensorType

from .generate import Feeds
from .numerics import EXACT

FORM_ULPS = 4  # of a result in f32, between two forms: a product of scales, rounded once, stands for two or three products
SUM_ULPS = 16  # of the sum of magnitudes, for floats summed in any order
FUNCTION_ULPS = 16  # of what is computed with exp, in several steps
FUNCTIONS = frozenset(("exp", "sigmoid", "silu", "gelu", "tanh", "erf"))
SMOOTH = frozenset(("silu", "hard_swish", "gelu"))  # not monotone, and steeper than STEEPEST nowhere
STEEPEST = 1.6
GROWING = frozenset(("add", "max", "min", "relu", "clip", "sigmoid", "tanh", "erf", "exp", "cast", "leaky_relu", "hard_sigmoid"))
FALLING = frozenset(("sub", "neg"))  # with the last operand
ROUNDED = frozenset(("add", "sub", "mul", "div", "cast", "dequantize", "leaky_relu", "hard_sigmoid", "hard_swish"))
STEP = 2.0**-23
TINY = 2.0**-126


@dataclass(frozen=True)
class Interval:
    """The least and the greatest that every element may be, in the dtype of the value."""

    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(array: np.ndarray) -> Interval:
        return Interval(array, array)

    @property
    def is_exact(self) -> bool:
        return self.low is self.high or np.array_equal(self.low, self.high)


def intervals(graph: Graph, feeds: Feeds, *, forms: bool) -> list[Interval]:
    """Those of the outputs.  forms: whether they hold for other forms of the graph too."""
    env = bind_sizes(graph, feeds, {})
    done: dict[Value, Interval] = {}
    for node in graph.nodes:
        if node.op == "input":
            done[node.outputs[0]] = Interval.of(feeds[node.attrs["name"]])
            continue
        done.update(zip(node.outputs, _through(node, [done[v] for v in node.inputs], env, forms), strict=True))
    return [done[v] for v in graph.outputs]


def outside(actual: np.ndarray, allowed: Interval) -> str:
    """Why `actual` does not lie in the interval, or ""."""
    low, high = allowed.low, allowed.high
    if actual.dtype != low.dtype or actual.shape != low.shape:
        return f"{actual.dtype}{list(actual.shape)} instead of {low.dtype}{list(low.shape)}"
    wrong = ~((actual >= low) & (actual <= high))
    if not wrong.any():
        return ""
    at = tuple(int(k) for k in np.argwhere(wrong)[0]) if wrong.ndim else ()
    place = f"{int(wrong.sum())} of {wrong.size} elements differ, first at {at}"
    return f"{place}: {actual[at]!r} instead of {low[at]!r} to {high[at]!r}"


def _through(node: Node, operands: Sequence[Interval], env: Mapping[str, int], forms: bool) -> list[Interval]:
    if node.op in ("conv", "matmul"):
        return [_contraction(node, operands, env)]
    if op_def(node.op).kind == "composite" and not all(m.is_exact for m in operands):
        return _expanded(node, operands, env, forms)
    if node.op == "quantize" and forms:
        x = operands[0]
        operands = [_widened(x, FORM_ULPS * STEP * _size(x)), *operands[1:]]
    low, high = _ends(node, operands, env)
    return [_own(node, k, operands, Interval(a, b), env, forms) for k, (a, b) in enumerate(zip(low, high, strict=True))]


def _ends(node: Node, operands: Sequence[Interval], env: Mapping[str, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The op at the ends of its operands, with no rounding of its own."""
    lows, highs = [m.low for m in operands], [m.high for m in operands]
    if all(m.is_exact for m in operands):
        results = _run(node, lows, env)
        return results, results
    kind = op_def(node.op).kind
    if node.op in FALLING:
        return _run(node, [*lows[:-1], highs[-1]], env), _run(node, [*highs[:-1], lows[-1]], env)
    if node.op in ("mul", "div"):
        if node.op == "div" and not (lows[1] > 0).all():
            raise NotImplementedError("no interval of a quotient by what may be 0 or less")
        corners = [_run(node, [a, b], env)[0] for a in (lows[0], highs[0]) for b in (lows[1], highs[1])]
        return [np.minimum.reduce(corners)], [np.maximum.reduce(corners)]
    if node.op in SMOOTH:
        a, b = _run(node, lows, env)[0], _run(node, highs, env)[0]
        reach = (STEEPEST * (highs[0] - lows[0])).astype(a.dtype)
        return [np.minimum(a, b) - reach], [np.maximum(a, b) + reach]
    if node.op in ("bitcast", "xor"):  # of bytes: as one wherever no sign changes
        a, b = _run(node, lows, env)[0], _run(node, highs, env)[0]
        kept = (lows[0] < 128) == (highs[0] < 128) if lows[0].dtype == np.uint8 else (lows[0] < 0) == (highs[0] < 0)
        limits = np.iinfo(a.dtype)
        low, high = np.minimum(a, b), np.maximum(a, b)
        return [np.where(kept, low, limits.min).astype(a.dtype)], [np.where(kept, high, limits.max).astype(a.dtype)]
    grows = node.op in GROWING or kind == "index" or node.op in ("reduce_max", "reduce_min", "reduce_sum")
    scaled = node.op in ("quantize", "dequantize") and all(m.is_exact for m in operands[1:])
    if not (grows or scaled) or node.attrs.get("alpha", 0) < 0:
        raise NotImplementedError(f"no interval of {node.op} {node.attrs}")
    return _run(node, lows, env), _run(node, highs, env)


def _own(node: Node, k: int, operands: Sequence[Interval], result: Interval, env: Mapping[str, int], forms: bool) -> Interval:
    """A result with what the op itself may round."""
    definition = op_def(node.op)
    if not node.types[k].dtype.is_float or node.op in EXACT or definition.kind in ("index", "leaf"):
        return result
    if node.op == "reduce_sum":
        with np.errstate(all="ignore"):
            magnitudes = _run(node, [_size(m).astype(m.low.dtype) for m in operands], env)[0]
        if result.is_exact and operands[0].is_exact and (magnitudes < 2**24).all() and (operands[0].low % 1 == 0).all():
            return result  # whole numbers, such as counts
        return _widened(result, SUM_ULPS * STEP * magnitudes.astype(np.float64))
    if node.op in FUNCTIONS or definition.kind == "composite":
        return _widened(result, FUNCTION_ULPS * STEP * np.maximum(_size(result), STEP))
    if definition.kind == "pointwise" and node.op in ROUNDED:
        return _widened(result, FORM_ULPS * STEP * _terms(node, operands, result)) if forms else result
    raise NotImplementedError(f"no bound of what {node.op} rounds")


def _terms(node: Node, operands: Sequence[Interval], result: Interval) -> np.ndarray:
    """What the roundings of an op in other forms are relative to: sums may cancel, their terms are rounded before."""
    if node.op in ("add", "sub"):
        return _size(operands[0]) + _size(operands[1])
    if node.op in ("hard_sigmoid", "hard_swish"):
        return _size(result) + _size(operands[0])
    if node.op == "dequantize":  # integers, zero point and corrections may be summed as floats
        q, scale, zero = operands
        return (_size(q) + _size(zero)) * _size(scale)
    return _size(result)


def _contraction(node: Node, operands: Sequence[Interval], env: Mapping[str, int]) -> Interval:
    """In f64, where sums of bytes are exact."""
    x, w = operands
    integers = node.types[0].dtype.is_int
    if integers and x.is_exact and w.is_exact:
        return Interval.of(_run(node, [x.low, w.low], env)[0])

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = [const_value(m.astype(np.float64)) for m in (a, b)]
        again = apply(node.op, *wide, **{**node.attrs, "out": None})
        return evaluate_node(again.node, [v.array for v in wide], {})[0]

    lows, highs = (x.low, w.low), (x.high, w.high)
    low = high = 0.0
    if w.is_exact or x.is_exact:
        for sign in (1, -1):
            if w.is_exact:
                part = sign * np.maximum(sign * w.low.astype(np.float64), 0)
                ends = (product(lows[0], part), product(highs[0], part))
            else:
                part = sign * np.maximum(sign * x.low.astype(np.float64), 0)
                ends = (product(part, lows[1]), product(part, highs[1]))
            low, high = low + ends[sign < 0], high + ends[sign > 0]
    else:  # about the middles of both
        middles = [(a.astype(np.float64) + b) / 2 for a, b in zip(lows, highs)]
        radii = [(b.astype(np.float64) - a) / 2 for a, b in zip(lows, highs)]
        reach = product(radii[0], _size(w)) + product(np.abs(middles[0]), radii[1])
        low, high = product(*middles) - reach, product(*middles) + reach
    dtype = node.types[0].dtype.np
    if integers:
        return Interval(np.floor(low).astype(dtype), np.ceil(high).astype(dtype))
    slack = SUM_ULPS * STEP * product(_size(x), _size(w))
    return Interval((low - slack).astype(dtype), (high + slack).astype(dtype))


def _expanded(node: Node, operands: Sequence[Interval], env: Mapping[str, int], forms: bool) -> list[Interval]:
    types = tuple(TensorType(v.dtype, m.low.shape) for v, m in zip(node.inputs, operands, strict=True))
    graph = expand(node.op, types, dict(node.attrs))
    done: dict[Value, Interval] = dict(zip(graph.inputs, operands, strict=True))
    for inner in graph.nodes:
        if inner.op != "input":
            done.update(zip(inner.outputs, _through(inner, [done[v] for v in inner.inputs], env, forms), strict=True))
    return [done[v] for v in graph.outputs]


def _run(node: Node, arrays: Sequence[np.ndarray], env: Mapping[str, int]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(a) for a in evaluate_node(node, list(arrays), dict(env))]


def _size(m: Interval) -> np.ndarray:
    """The largest magnitude that an element may have (f64)."""
    return np.maximum(np.abs(m.low.astype(np.float64)), np.abs(m.high.astype(np.float64)))


def _widened(m: Interval, slack: np.ndarray) -> Interval:
    """With so much more on each side, of finite ends."""
    dtype = m.low.dtype
    slack = np.where(np.isfinite(slack), slack + TINY, 0)
    return Interval((m.low.astype(np.float64) - slack).astype(dtype), (m.high.astype(np.float64) + slack).astype(dtype))
