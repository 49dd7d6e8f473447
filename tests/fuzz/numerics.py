"""How far two correct computations of one graph may lie apart, element by element.

Every value is carried with an error bound.  A node's bound is measured, not guessed: its reference is evaluated again with
operands moved by their own bounds in several directions, and the largest change is joined by what the op itself may round, a
composite within its expansion too.  Cancellation, `log` near 0 and steep functions so get the tolerance that they need and no more.

A result that may jump (a float comparison close to equality, a rounding to an integer, a NaN that comes and goes) has no bound:
such a node is *unstable*, and the generator leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from octavo.ir.evaluate import concrete, evaluate_node
from octavo.ir.graph import Node, Value
from octavo.ir.ops.registry import expand, op_def
from octavo.ir.scalar import NUMPY, NumpyScalars, compute_dtype
from octavo.ir.types import DType, TensorType

# The result is one of the operands' values, or exactly representable: no rounding of its own.
EXACT = frozenset(
    (
        *(
            "neg",
            "abs",
            "max",
            "min",
            "and",
            "or",
            "xor",
            "not",
            "shl",
            "shr",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "sign",
            "rem",
        ),
        *("floor", "ceil", "round", "trunc", "relu", "where", "clip", "is_nan", "is_inf", "bitcast"),
        *("reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin", "argmax_last", "argmin_last"),
        *("max_pool", "global_max_pool"),
    )
)
TRANSCENDENTAL = frozenset(
    ("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "gelu", "pow")
)
FLOOR = {"gelu": 0.5}  # results below this count as so large: its digits below 0 are fewer
DIVISIONS = frozenset(("div", "quantize"))  # by their second operand
STEPPED = frozenset(("floor", "ceil", "round", "trunc", "sign"))  # they jump or stay
# dtype -> (distance from 1 to the next number, smallest normal number)
STEPS = {
    "f64": (2.0**-52, 2.0**-1022),
    "f32": (2.0**-23, 2.0**-126),
    "f16": (2.0**-10, 2.0**-14),
    "bf16": (2.0**-7, 2.0**-126),
    "f8e4m3": (2.0**-3, 2.0**-6),
    "f8e5m2": (2.0**-2, 2.0**-14),
}
LEAST = {name: least for name, (_, least) in STEPS.items()} | {"f64": 1e-200, "f32": 1e-25}  # smaller floats soon vanish
ULPS = 4  # of a pointwise result: NumPy's functions and ours each promise two
BACKWARD_ULPS = 8  # of operands, for sums in another order: measured at 3 for 4096 terms
MARGIN = 1.25  # the directions tried are few
LIMIT = 1e6  # larger floats only lead to overflow
NARROW_LIMIT = 1e3  # the same for f16 and f8


@dataclass(frozen=True)
class Measured:
    """An array and a bound for the distance of any correct result from it; error None: exact."""

    array: np.ndarray
    error: np.ndarray | None = None


def epsilon(dtype: DType) -> float:
    """The distance from 1 to the next number."""
    return STEPS[dtype.name][0]


def measure(node: Node, operands: Sequence[Measured], env: Mapping[str, int], rng: np.random.Generator) -> list[Measured] | None:
    """The node's results with their bounds, or None where it is unstable or leaves the range that is worth testing."""
    if node.op in DIVISIONS and _may_be_zero(operands[1]):
        return None
    base = _run(node, [m.array for m in operands], env)
    if not _in_range(node, [m.array for m in operands], base):
        return None
    errors = [np.zeros(a.shape, np.float64) for a in base]
    if node.op in ("rem", "mod") and node.types[0].dtype.is_float:
        errors = [_remainder_error(*operands, base[0])]
        if not np.isfinite(errors[0]).all():
            return None
    others = [_run(node, moved, env) for moved in _moved(node, operands, rng)]
    if op_def(node.op).kind == "pointwise" and not _is_exact(node):
        others += [_run_noisy(node, [m.array for m in operands], env, noise) for noise in _noises(rng)]
    for results in others:
        for result, array, error in zip(results, base, errors):
            change = _change(result, array)
            if change is None or (node.op in STEPPED and change.any()):
                return None
            np.maximum(error, change, out=error)
    if op_def(node.op).kind == "composite":
        for inner, error in zip(_expanded(node, operands, env, rng), errors):
            np.maximum(error, inner / MARGIN, out=error)
    return [_bounded(node, k, array, error) for k, (array, error) in enumerate(zip(base, errors))]


def _may_be_zero(m: Measured) -> bool:
    """Whether a correct result may be 0 where this one is not."""
    return m.error is not None and bool(((np.abs(m.array) <= m.error) & (m.array != 0)).any())


def _remainder_error(x: Measured, y: Measured, result: np.ndarray) -> np.ndarray:
    """How far a remainder may lie from `result`: the divisor's error counts once for every time that it was taken away; infinite
    where one time more or less is possible.  A sawtooth is not to be measured by a few samples of it.
    """
    dividend, divisor = (np.abs(m.array.astype(np.float64)) for m in (x, y))
    with np.errstate(all="ignore"):
        times = np.ceil(dividend / divisor)
        spread = (0.0 if x.error is None else x.error) + times * (0.0 if y.error is None else y.error)
    far = np.minimum(np.abs(result.astype(np.float64)), divisor - np.abs(result.astype(np.float64)))
    return np.where((spread > 0) & (far <= 2 * spread), np.inf, np.broadcast_to(spread, result.shape))


def _expanded(node: Node, operands: Sequence[Measured], env: Mapping[str, int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The bounds of a composite's results, carried through the ops it stands for; nothing where one of these is unstable."""
    types = tuple(TensorType(v.dtype, m.array.shape) for v, m in zip(node.inputs, operands))
    graph = expand(node.op, types, {k: concrete(v, env) for k, v in node.attrs.items()})
    done: dict[Value, Measured] = dict(zip(graph.inputs, operands))
    for inner in graph.nodes:
        if inner.op == "input":
            continue
        results = measure(inner, [done[v] for v in inner.inputs], env, rng)
        if results is None:
            return
        done.update(zip(inner.outputs, results))
    for v in graph.outputs:
        error = done[v].error
        yield np.zeros(done[v].array.shape) if error is None else error


def _run(node: Node, arrays: Sequence[np.ndarray], env: Mapping[str, int]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(a) for a in evaluate_node(node, list(arrays), dict(env))]


class NoisyScalars(NumpyScalars):
    """NumPy scalars whose transcendental functions are off by what ours may differ: `noise()` ulps, in -2..2.

    What follows a function inside an op (the `- 1` of elu's `exp(x) - 1`) may make much of it.
    """

    def __init__(self, noise: Callable[[tuple[int, ...]], float | np.ndarray]):
        self.noise = noise

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._call, found, FLOOR.get(name, 0.0)) if name in TRANSCENDENTAL else found

    def _call(self, function: Callable[..., np.ndarray], floor: float, *args: Any) -> np.ndarray:
        exact = np.asarray(function(*args))
        if exact.dtype.kind != "f":
            return exact
        size = np.copysign(np.maximum(np.abs(exact), floor), exact)
        return (exact + size * self.noise(exact.shape) * float(np.finfo(exact.dtype).eps)).astype(exact.dtype)


def _noises(rng: np.random.Generator) -> list[Callable[[tuple[int, ...]], float | np.ndarray]]:
    return [lambda shape: 2.0, lambda shape: -2.0, lambda shape: rng.uniform(-2, 2, shape)]


def _run_noisy(node: Node, arrays: Sequence[np.ndarray], env: Mapping[str, int], noise: Any) -> list[np.ndarray]:
    """A pointwise node by its own meaning over noisy functions."""
    definition = op_def(node.op)
    assert definition.fn is not None
    scalars = [a.astype(compute_dtype(v.dtype).np, copy=False) for a, v in zip(arrays, node.inputs)]
    with np.errstate(all="ignore"):
        value = definition.fn(NoisyScalars(noise), *scalars, **{k: concrete(v, env) for k, v in node.attrs.items()})
        return [np.broadcast_to(NUMPY.cast(value, node.types[0].dtype), np.broadcast_shapes(*(a.shape for a in arrays)))]


def _bounded(node: Node, index: int, array: np.ndarray, error: np.ndarray) -> Measured:
    dtype = node.types[index].dtype
    if not dtype.is_float or (not error.any() and _is_exact(node)):
        return Measured(array)
    own = np.zeros_like(error)
    if not _is_exact(node):
        with np.errstate(all="ignore"):
            size = np.abs(array.astype(np.float64))
            if node.op == "log_softmax":  # log of a sum that is near 1 where one element outweighs the rest
                size = np.maximum(size, 1)
            own = ULPS * epsilon(dtype) * size + STEPS[dtype.name][1] * ULPS
    return Measured(array, np.nan_to_num(MARGIN * error + own, nan=0.0, posinf=0.0))


def _is_exact(node: Node) -> bool:
    return node.op in EXACT or op_def(node.op).kind in ("index", "leaf")


def _in_range(node: Node, operands: list[np.ndarray], results: list[np.ndarray]) -> bool:
    """False where results are undefined, overflow nearly or vanish: compiled code flushes subnormals."""
    if node.op == "pow" and node.inputs[1].dtype.is_int and (operands[1] < 0).any():
        return False
    if node.op in ("shl", "shr"):
        bits = node.inputs[1].dtype.bits
        if ((operands[1] < 0) | (operands[1] >= bits)).any():
            return False
    for array, type_ in zip(results, node.types):
        if type_.dtype.is_float:
            values = array.astype(np.float64)
            limit = LIMIT if type_.dtype.bits >= 32 else NARROW_LIMIT
            if not np.isfinite(values).all() or (np.abs(values) > limit).any():
                return False
            if ((values != 0) & (np.abs(values) < LEAST[type_.dtype.name])).any():
                return False
    return True


def _moved(node: Node, operands: Sequence[Measured], rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Operands moved by their bounds: all up or down by operand, then every element on its own."""
    backward = not _is_exact(node) and op_def(node.op).kind != "pointwise"
    reach = [_reach(m, v.dtype, backward) for m, v in zip(operands, node.inputs)]
    movable = [k for k, r in enumerate(reach) if r is not None]
    if not movable:
        return []
    signs: list[Mapping[int, float | np.ndarray]] = [dict.fromkeys(movable, 1.0), dict.fromkeys(movable, -1.0)]
    if len(movable) > 1:
        alternating = {k: 1.0 if position % 2 else -1.0 for position, k in enumerate(movable)}
        signs += [alternating, {k: -v for k, v in alternating.items()}]
    for _ in range(2):
        signs.append({k: rng.choice((-1.0, 1.0), operands[k].array.shape) for k in movable})
    return [[_move(m.array, r, sign.get(k)) for k, (m, r) in enumerate(zip(operands, reach))] for sign in signs]


def _reach(m: Measured, dtype: DType, backward: bool) -> np.ndarray | None:
    """How far an operand is moved; None: not at all."""
    if not dtype.is_float or (m.error is None and not backward):
        return None
    reach = np.zeros(m.array.shape) if m.error is None else m.error
    if backward:
        reach = reach + BACKWARD_ULPS * epsilon(compute_dtype(dtype)) * np.abs(m.array.astype(np.float64))
    return reach


def _move(array: np.ndarray, reach: np.ndarray | None, sign: float | np.ndarray | None) -> np.ndarray:
    if reach is None or sign is None:
        return array
    wide = array.astype(np.float64)
    moved = (wide + reach * sign).astype(array.dtype)
    # a bound below half an ulp would vanish: step to the neighbour instead
    toward = np.where(np.broadcast_to(sign, array.shape) > 0, np.inf, -np.inf).astype(array.dtype)
    stuck = (moved == array) & (reach > 0)
    return np.where(stuck, np.nextafter(array, toward), moved).astype(array.dtype)


def _change(result: np.ndarray, base: np.ndarray) -> np.ndarray | None:
    """The distance of two results; None where a discrete one differs."""
    if base.dtype.kind in "iub" or base.dtype.kind not in "fV":
        return np.zeros(base.shape) if np.array_equal(result, base) else None
    change = np.abs(result.astype(np.float64) - base.astype(np.float64))
    return change if np.isfinite(change).all() else None


def mismatch(actual: np.ndarray, expected: Measured) -> str:
    """Why `actual` is not a correct result, or ""."""
    want = expected.array
    if actual.dtype != want.dtype or actual.shape != want.shape:
        return f"{actual.dtype}{list(actual.shape)} instead of {want.dtype}{list(want.shape)}"
    if expected.error is None and want.dtype.kind in "iub":
        wrong = actual != want
    else:
        error = expected.error if expected.error is not None else np.zeros(want.shape)
        with np.errstate(all="ignore"):
            a, w = actual.astype(np.float64), want.astype(np.float64)
            wrong = ~((np.abs(a - w) <= error) | (a == w) | (np.isnan(a) & np.isnan(w)))
    if not wrong.any():
        return ""
    at = tuple(int(k) for k in np.argwhere(wrong)[0]) if wrong.ndim else ()
    allowed = "" if expected.error is None else f" +- {expected.error[at]:.3g}"
    return f"{int(wrong.sum())} of {wrong.size} elements differ, first at {at}: {actual[at]!r} instead of {want[at]!r}{allowed}"
