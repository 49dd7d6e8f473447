"""Random well-typed graphs: any op of the registry, symbolic sizes, shared values, several outputs; one seed, one case.

A graph grows node by node and is evaluated on the way, at two choices of its sizes: a node whose result is undefined, overflows
or is unstable (see `numerics`) is not taken.  Ops are applied to values that exist by a *recipe* for their kind; an op that has
none is applied as one of its conformance samples says, to inputs made for it, and what it returns joins the other values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from octavo.ir.dims import Dim, evaluate_dim, symbol, symbols_of
from octavo.ir.errors import ShapeError, UnsupportedOp
from octavo.ir.graph import Graph, Value, const_value, input_value, topological
from octavo.ir.ops.registry import OPS, OpDef, Sample, apply_node, broadcast_shape
from octavo.ir.types import DType, TensorType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8

from .numerics import Measured, measure

SYMBOLS = ("m", "n")
SIZES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33)
DTYPES = (f32, f32, f32, f32, f64, f16, bf16, i32, i64, i8, u8, bool_)
MAX_ELEMENTS = 4096  # of a value: the reference evaluates each node several times
MAX_RANK = 5
# No computation of their own, or sizes that only the run tells: the runner binds no symbols from them.
SKIPPED = frozenset({"input", "const", "variable", "kernel", "bind_size"})

Env = Mapping[str, int]
Feeds = dict[str, np.ndarray]
Plan = tuple[str, tuple[Value, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A graph and inputs for it, one set for each choice of sizes."""

    seed: int
    graph: Graph
    feeds: tuple[Feeds, ...]


def generate(seed: int, nodes: int = 12) -> Case:
    """The case of that seed, of about `nodes` operations."""
    builder = Builder(np.random.default_rng(seed))
    for _ in range(4 * nodes):
        if builder.grow() and builder.count >= nodes:
            break
    return builder.case(seed)


@cache
def _samples(op: str) -> tuple[Sample, ...]:
    samples = OPS[op].samples
    return tuple(samples(np.random.default_rng(0))) if samples else ()


@dataclass
class Builder:
    """The graph while it grows: every value with its arrays, one for each choice of sizes."""

    rng: np.random.Generator
    envs: tuple[Env, ...] = ()
    inputs: list[Value] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    known: dict[Value, list[Measured]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.envs = tuple({s: int(self.rng.choice(SIZES)) for s in SYMBOLS} for _ in range(2))
        for _ in range(int(self.rng.integers(1, 4))):
            self.fresh(self.pick(DTYPES), self.shape())

    # --- choices ---

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def dim(self) -> Dim:
        return symbol(self.pick(SYMBOLS)) if self.chance(0.35) else self.pick(SIZES)

    def shape(self) -> tuple[Dim, ...]:
        shape: tuple[Dim, ...] = ()
        for _ in range(int(self.rng.integers(0, 5))):
            if self.fits((*shape, d := self.dim())):
                shape = (*shape, d)
        return shape

    def fits(self, shape: tuple[Dim, ...]) -> bool:
        return len(shape) <= MAX_RANK and all(np.prod(self.concrete(shape, env)) <= MAX_ELEMENTS for env in self.envs)

    def concrete(self, shape: tuple[Dim, ...], env: Env) -> tuple[int, ...]:
        return tuple(evaluate_dim(d, env) for d in shape)

    def array(self, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        if dtype is bool_:
            return self.rng.random(shape) < 0.5
        if dtype.is_float:
            return (self.rng.standard_normal(shape) * 2).astype(dtype.np)
        low, high = (0, 20) if dtype.kind == "u" else (-10, 20)
        return self.rng.integers(low, high, shape).astype(dtype.np)

    # --- values ---

    def fresh(self, dtype: DType, shape: tuple[Dim, ...], arrays: list[np.ndarray] | None = None) -> Value:
        """A new input, or sometimes a constant where the shape is static."""
        static = all(isinstance(d, int) for d in shape)
        if static and self.chance(0.4):
            value = const_value(arrays[0] if arrays else self.array(dtype, self.concrete(shape, {})), dtype=dtype)
            self.known[value] = [Measured(value.array)] * len(self.envs)
        else:
            value = input_value(f"x{len(self.inputs)}", TensorType(dtype, shape))
            self.inputs.append(value)
            made = arrays or [self.array(dtype, self.concrete(shape, env)) for env in self.envs]
            self.known[value] = [Measured(a) for a in made]
        self.pool.append(value)
        return value

    def recent(self) -> Value:
        """Any value, the newer the likelier."""
        found = self.of(lambda v: True)
        return self.pool[-1] if found is None else found

    def of(self, accept: Callable[[Value], bool]) -> Value | None:
        """Some value that is accepted: mostly a computed one, the newer the likelier, so that graphs grow deep."""
        found = [v for v in self.pool if accept(v)]
        computed = [v for v in found if v.node.inputs]
        if computed and self.chance(0.85):
            found = computed
        return found[-1 - min(int(self.rng.exponential(2)), len(found) - 1)] if found else None

    def add(self, op: str, operands: tuple[Value, ...], attrs: Mapping[str, Any]) -> bool:
        """Apply an op; False where it does not fit or its result is not worth having."""
        try:
            node = apply_node(op, operands, attrs)
        except (ShapeError, UnsupportedOp):
            return False
        if not all(self._bound(t) and self.fits(t.shape) for t in node.types):
            return False
        try:
            results = [measure(node, [self.known[v][k] for v in operands], env, self.rng) for k, env in enumerate(self.envs)]
        except ShapeError:  # it fits for some sizes only
            return False
        measured = [r for r in results if r is not None]
        if len(measured) < len(results):
            return False
        for k, value in enumerate(node.outputs):
            self.known[value] = [r[k] for r in measured]
            self.pool.append(value)
        self.count += 1
        return True

    def _bound(self, type: TensorType) -> bool:
        return all(symbols_of(d) <= set(SYMBOLS) for d in type.shape)

    def grow(self) -> bool:
        """Try one operation: half of the time a pointwise one, else any of the registry."""
        names = _names("pointwise") if self.chance(0.5) else _names()
        op = OPS[self.pick(names)]
        inputs, values = len(self.inputs), len(self.pool)
        plan = (self.chance(0.9) and _recipe(op, self)) or _sampled(op, self)
        if plan and self.add(*plan):
            return True
        del self.inputs[inputs:], self.pool[values:]  # what was made for it
        return False

    # --- the result ---

    def case(self, seed: int) -> Case:
        used = {operand for v in self.pool for operand in v.node.inputs}
        sinks = [v for v in self.pool if v not in used and v.node.inputs]
        inner = [v for v in self.pool if v in used and v.node.inputs]
        outputs = (*sinks[-6:], *inner[-1:]) or (self.pool[-1],)
        reached = set(topological(outputs))
        inputs = [v for v in self.inputs if v.node in reached]
        inputs += self._binders(inputs, outputs)
        feeds = tuple({v.node.attrs["name"]: self.known[v][k].array for v in inputs} for k in range(len(self.envs)))
        return Case(seed, Graph(f"seed{seed}", tuple(inputs), outputs), feeds)

    def _binders(self, inputs: list[Value], outputs: tuple[Value, ...]) -> Iterator[Value]:
        """An input of shape [s] for each symbol that no kept input has, so that the run can tell its size."""
        has = {s for v in inputs for d in v.shape for s in symbols_of(d)}
        for s in SYMBOLS:
            if s not in has:
                value = input_value(f"size_{s}", TensorType(i8, (symbol(s),)))
                self.known[value] = [Measured(np.zeros(env[s], np.int8)) for env in self.envs]
                yield value


@cache
def _names(kind: str = "") -> tuple[str, ...]:
    return tuple(sorted(n for n, d in OPS.items() if n not in SKIPPED and (not kind or d.kind == kind)))


# --- recipes: an op on values that exist --------------------------------------------------------------------------------------


def _recipe(op: OpDef, b: Builder) -> Plan | None:
    if op.kind == "pointwise":
        return _pointwise(op, b)
    if op.kind == "reduction":
        return _reduction(op, b)
    make = RECIPES.get(op.name)
    return make(b) if make else None


def _sampled(op: OpDef, b: Builder) -> Plan | None:
    """One of the op's own samples, on values of the same types where there are some."""
    samples = [s for s in _samples(op.name) if all(a.size <= MAX_ELEMENTS and a.dtype != object for a in s.inputs)]
    if not samples:
        return None
    sample = b.pick(samples)
    operands = []
    for array in sample.inputs:
        constant = const_value(array)
        known = b.of(lambda v, t=constant.type: v.type == t) if constant.dtype.is_float and b.chance(0.5) else None
        operands.append(b.fresh(constant.dtype, constant.shape, [array] * len(b.envs)) if known is None else known)
    return op.name, tuple(operands), dict(sample.attrs)


def _pointwise(op: OpDef, b: Builder) -> Plan | None:
    """Operands of a sample's dtypes: a value, and others that broadcast with it."""
    samples = _samples(op.name)
    if not samples:
        return None
    sample = b.pick(samples)
    types = [const_value(a).dtype for a in sample.inputs]
    if len(set(types)) == 1 and b.chance(0.7):  # any dtype of the values there are, if some sample has it
        dtypes = {const_value(s.inputs[0]).dtype for s in samples}
        first = b.of(lambda v: v.dtype in dtypes)
        if first is not None:
            types = [first.dtype] * len(types)
    operands: list[Value] = []
    for dtype in types:
        shape = broadcast_shape(*(v.shape for v in operands)) if operands else None
        found = b.of(lambda v, d=dtype, s=shape: v.dtype is d and (s is None or _broadcasts(v.shape, s)))
        if found is None or (operands and b.chance(0.2)):
            made = b.shape() if shape is None else _part(b, shape)
            found = b.fresh(dtype, made)
        operands.append(found)
    return op.name, tuple(operands), dict(sample.attrs)


def _broadcasts(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    """Surely, whatever the symbols are."""
    return all(x == y or x == 1 or y == 1 for x, y in zip(reversed(a), reversed(b)))


def _part(b: Builder, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A shape that broadcasts to `shape`: fewer axes, some of size 1.  Only plain sizes, which an input can have."""
    kept = shape[int(b.rng.integers(0, len(shape) + 1)) :] if shape else ()
    return tuple(1 if b.chance(0.3) or not _plain(d) else d for d in kept)


def _plain(d: Dim) -> bool:
    return isinstance(d, int) or str(d) in SYMBOLS


def _reduction(op: OpDef, b: Builder) -> Plan | None:
    dtypes = {const_value(s.inputs[0]).dtype for s in _samples(op.name)}
    x = b.of(lambda v: v.type.rank > 0 and v.dtype in dtypes)
    if x is None:
        return None
    axes = tuple(k for k in range(x.type.rank) if b.chance(0.5)) or (int(b.rng.integers(x.type.rank)),)
    return op.name, (x,), {"axes": axes[:1] if "arg" in op.name else axes, "keepdims": b.chance(0.5)}


def _reshape(b: Builder) -> Plan | None:
    """Merge two neighbouring axes, split one, add or remove a 1."""
    x = b.recent()
    shape = list(x.shape)
    k = int(b.rng.integers(len(shape))) if shape else 0
    choice = int(b.rng.integers(3))
    if choice == 0 and k + 1 < len(shape):
        shape[k : k + 2] = [shape[k] * shape[k + 1]]
    elif choice == 1 and shape and isinstance(d := shape[k], int) and d % 2 == 0 and d > 0:
        shape[k : k + 1] = [2, d // 2] if b.chance(0.5) else [d // 2, 2]
    elif 1 in shape and b.chance(0.5):
        shape.remove(1)
    else:
        shape.insert(k, 1)
    return "reshape", (x,), {"shape": tuple(shape)}


def _transpose(b: Builder) -> Plan | None:
    x = b.recent()
    return "transpose", (x,), {"perm": tuple(int(k) for k in b.rng.permutation(x.type.rank))}


def _broadcast_to(b: Builder) -> Plan | None:
    x = b.recent()
    shape = tuple(b.dim() if d == 1 else d for d in x.shape)
    return "broadcast_to", (x,), {"shape": (b.dim(), *shape) if b.chance(0.4) else shape}


def _slice(b: Builder) -> Plan | None:
    x = b.recent()
    starts: list[Dim] = []
    stops: list[Dim] = []
    steps: list[int] = []
    for d in x.shape:
        if isinstance(d, int) and d > 0 and b.chance(0.6):
            low, high = sorted(int(k) for k in b.rng.integers(0, d + 1, 2))
            step = b.pick((1, 1, 2, 3, -1, -2))
            start, stop = (low, high) if step > 0 else (high - 1, low - 1)
            if high == low:
                start, stop, step = 0, d, 1
        elif b.chance(0.2):
            start, stop, step = d - 1, -1, -1
        else:
            start, stop, step = 0, d, 1
        starts.append(start)
        stops.append(stop)
        steps.append(step)
    return "slice", (x,), {"starts": tuple(starts), "stops": tuple(stops), "steps": tuple(steps)}


def _pad(b: Builder) -> Plan | None:
    x = b.recent()
    low, high = (tuple(int(k) for k in b.rng.integers(0, 3, x.type.rank)) for _ in range(2))
    mode = b.pick(("constant", "constant", "reflect", "edge", "wrap"))
    return "pad", (x,), {"low": low, "high": high, "mode": mode, "value": float(b.pick((0, 1, 3)))}


def _concat(b: Builder) -> Plan | None:
    first = b.of(lambda v: v.type.rank > 0)
    if first is None:
        return None
    axis = int(b.rng.integers(first.type.rank))

    def joins(v: Value) -> bool:
        same = v.dtype is first.dtype and v.type.rank == first.type.rank
        return same and all(p == q or k == axis for k, (p, q) in enumerate(zip(v.shape, first.shape)))

    others = [v for v in (b.of(joins) for _ in range(int(b.rng.integers(1, 3)))) if v is not None]
    return "concat", (first, *others), {"axis": axis}


def _gather(b: Builder) -> Plan | None:
    """Indices may be negative or out of range: they wrap, then clamp."""
    x = b.of(lambda v: v.type.rank > 0)
    indices = b.of(lambda v: v.dtype in (i32, i64) and v.type.rank < 3)
    if indices is None:
        indices = b.fresh(b.pick((i32, i64)), (b.dim(),))
    return ("gather", (x, indices), {"axis": int(b.rng.integers(x.type.rank))}) if x is not None else None


def _matmul(b: Builder) -> Plan | None:
    x = b.of(lambda v: v.type.rank >= 2 and v.dtype in (f32, f64, f16, bf16) and _plain(v.shape[-1]))
    if x is None:
        return None
    partner = b.of(lambda v: v.dtype is x.dtype and v.type.rank >= 2 and v.shape[-2] == x.shape[-1])
    if partner is None or not _broadcasts(partner.shape[:-2], x.shape[:-2]) or b.chance(0.5):
        partner = b.fresh(x.dtype, (x.shape[-1], b.dim()))
    return "matmul", (x, partner), {"out": None}


def _conv(b: Builder) -> Plan | None:
    """One or two spatial axes, any stride, pads, dilation and groups, over a value or a new input."""
    spatial = b.pick((1, 2))
    dtype = b.pick((f32, f32, f64, f16))
    x = b.of(lambda v: v.dtype is dtype and v.type.rank == spatial + 2 and all(isinstance(d, int) for d in v.shape[1:]))
    if x is None:
        x = b.fresh(dtype, (b.pick((1, 2, symbol("m"))), b.pick((1, 2, 3, 4)), *(b.pick((5, 7, 8)) for _ in range(spatial))))
    c = x.shape[1]
    if not isinstance(c, int) or c == 0:
        return None
    groups = b.pick([g for g in range(1, c + 1) if c % g == 0])
    kernel = tuple(b.pick((1, 2, 3)) for _ in range(spatial))
    w = b.fresh(dtype, (groups * b.pick((1, 2, 3)), c // groups, *kernel))
    attrs = {
        "strides": tuple(b.pick((1, 1, 2)) for _ in range(spatial)),
        "pads": tuple((b.pick((0, 1)), b.pick((0, 1, 2))) for _ in range(spatial)),
        "dilations": tuple(b.pick((1, 1, 2)) for _ in range(spatial)),
        "groups": groups,
        "layout": "channels_first",
        "out": None,
    }
    return "conv", (x, w), attrs


def _float_axis(op: str) -> Callable[[Builder], Plan | None]:
    def make(b: Builder) -> Plan | None:
        x = b.of(lambda v: v.dtype.is_float and v.type.rank > 0)
        return (op, (x,), {"axis": int(b.rng.integers(x.type.rank))}) if x is not None else None

    return make


def _layer_norm(b: Builder) -> Plan | None:
    x = b.of(lambda v: v.dtype in (f32, f64, f16) and v.type.rank > 0 and _plain(v.shape[-1]))
    if x is None:
        return None
    scale, bias = (b.fresh(x.dtype, x.shape[-1:]) for _ in range(2))
    return "layer_norm", (x, scale, bias), {"axis": x.type.rank - 1, "epsilon": 1e-5}


RECIPES: dict[str, Callable[[Builder], Plan | None]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "gather": _gather,
    "matmul": _matmul,
    "conv": _conv,
    "softmax": _float_axis("softmax"),
    "log_softmax": _float_axis("log_softmax"),
    "cumsum": lambda b: _cumsum(b),
    "layer_norm": _layer_norm,
}


def _cumsum(b: Builder) -> Plan | None:
    x = b.of(lambda v: v.type.rank > 0 and v.dtype in (f32, f64, i32, i64))
    attrs = {"exclusive": b.chance(0.5), "reverse": b.chance(0.5)}
    return ("cumsum", (x,), {"axis": int(b.rng.integers(x.type.rank)), **attrs}) if x is not None else None
