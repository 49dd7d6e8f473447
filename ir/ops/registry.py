"""The op registry: what an op definition is, the decorators that make one, and `apply`, which builds a node.

An op is one decorated function in one place, its index-level meaning.  Everything else hangs on it:

* `@pointwise`: `f(s, *scalars, **attrs)`, run over NumPy (reference), loop expressions (code) and fused at will.  Operands
  broadcast as in NumPy.
* `@index`: `f(s, i, *reads, types, out, **attrs)` says which operand element the result has at index `i`; `reads[k][j]` is
  operand k at index tuple j, `reads[k].at(j, where=cond, other=value)` reads only where cond holds, `reads[k].shape` are its
  sizes; `types` and `out` are the operand types and the result type; dims in attrs arrive as scalars.  Never reads outside.
* `@reduction`: the monoid (`init`, `step`, `merge`, `finish`) folded over `axes`.
* `contraction`: matmul and convolution, sums of products that only the `contract` template computes.
* `@composite`: `f(*values, **attrs) -> Value`, an expansion over other ops.
* `opaque`: `infer`, `reference` and `loops(names, ins, outs, **attrs)`, its loop IR written by hand.

>>> @pointwise()
... def relu(s, x):
...     return s.max(x, 0)
"""

from __future__ import annotations

import enum
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dims import Dim, dim_max
from ..errors import OctavoError, ShapeError, UnsupportedOp
from ..graph import Graph, Node, Value, input_value
from ..types import DType, TensorType, bool_

Types = tuple[TensorType, ...]


class Quant(enum.Enum):
    """How an op behaves under quantization."""

    FLOAT = "stays in floating point"
    EXACT = "commutes with quantization: the same op on the integers"
    POINTWISE = "computed in f32 registers between dequantize and quantize"
    INTEGER = "has an integer form"


@dataclass(frozen=True)
class Sample:
    """One conformance case: operand arrays and attributes; the reference gives the expected result."""

    inputs: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduction:
    """A monoid over a tuple of scalars.

    init(dtype) -> state; step(s, state, x, k) -> state folds element x whose position along the (single) axis is k;
    merge(s, a, b) -> state joins two partial states (a's positions come first where that matters); finish(s, state) -> scalar.
    state_dtypes(dtype) gives the dtype of each part of the state.
    """

    init: Callable[[DType], tuple]
    step: Callable[..., tuple]
    merge: Callable[..., tuple]
    finish: Callable[..., Any]
    state_dtypes: Callable[[DType], tuple[DType, ...]]


@dataclass(frozen=True)
class OpDef:
    """One op.  `fn` is the decorated meaning; its form depends on `kind` (see the module docstring)."""

    name: str
    kind: str  # "leaf", "pointwise", "index", "reduction", "contraction", "composite", "opaque", "control", "kernel"
    infer: Callable[..., Types]  # infer(types: Types, **attrs) -> Types; raises ShapeError
    fn: Callable[..., Any] | None = None
    reference: Callable[..., Any] | None = None  # reference(*arrays, **attrs) -> array or tuple; derived where None
    reduction: Reduction | None = None
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None
    quant: Quant = Quant.FLOAT
    vjp: Callable[..., Any] | None = None
    loops: Callable[..., Any] | None = None  # opaque ops: loops(names, ins, outs, **attrs) -> list[Stmt], over `loops.Tensor`s
    doc: str = ""


OPS: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Add an op.  Raises OctavoError if the name is taken."""
    if op.name in OPS:
        raise OctavoError(f"an op named {op.name!r} is registered already; choose another name")
    OPS[op.name] = op
    return op


def op_def(name: str) -> OpDef:
    """The definition of an op.  Raises UnsupportedOp if there is none."""
    try:
        return OPS[name]
    except KeyError:
        raise UnsupportedOp(f"there is no op {name!r}; octavo.ops lists those that exist") from None


def apply(name: str, *inputs: Value, loc: str = "", **attrs: Any) -> Value:
    """A node of a registered op, types inferred; its first value (others through `.node.outputs`).

    Raises ShapeError (with op, operand types and loc) when the operands do not fit.
    """
    return apply_node(name, inputs, attrs, loc).outputs[0]


def apply_node(name: str, inputs: Sequence[Value], attrs: Mapping[str, Any], loc: str = "") -> Node:
    definition = op_def(name)
    types = tuple(v.type for v in inputs)
    try:
        results = definition.infer(types, **attrs)
        if any(isinstance(d, int) and d < 0 for t in results for d in t.shape):
            raise ShapeError(f"the result {', '.join(map(str, results))} would have a negative size")
    except ShapeError as e:
        operands = ", ".join(map(str, types))
        raise ShapeError(f"{name}({operands}){' at ' + loc if loc else ''}: {e}") from None
    except TypeError as e:  # wrong attribute names or operand count
        operands = ", ".join(map(str, types))
        raise ShapeError(f"{name}({operands}) with {sorted(attrs)}{' at ' + loc if loc else ''}: {e}") from None
    return Node(name, tuple(inputs), attrs, results, loc)


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """The size of two dims broadcast together; a size that only the run will tell is taken to fit.  Raises ShapeError."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise ShapeError(f"sizes {a} and {b} do not broadcast")
    if isinstance(a, int):
        return a
    if isinstance(b, int):
        return b
    return dim_max(a, b)


def broadcast_shape(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """NumPy broadcasting over symbolic shapes.  Raises ShapeError."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for k, d in enumerate(shape, rank - len(shape)):
            try:
                result[k] = broadcast_dim(result[k], d)
            except ShapeError:
                raise ShapeError(f"shapes {' and '.join(_shape(s) for s in shapes)} do not broadcast") from None
    return tuple(result)


def _shape(shape: tuple[Dim, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


ResultDType = Callable[..., DType]  # (types, **attrs) -> DType


def same_dtype(types: Types, **attrs: Any) -> DType:
    """The common dtype of all operands.  Raises ShapeError when they differ."""
    dtypes = {t.dtype for t in types}
    if len(dtypes) != 1:
        raise ShapeError(f"operands have different dtypes ({', '.join(t.dtype.name for t in types)}); cast one of them")
    return types[0].dtype


def predicate(types: Types, **attrs: Any) -> DType:
    same_dtype(types)
    return bool_


def pointwise(
    *,
    name: str | None = None,
    dtype: ResultDType = same_dtype,
    dtypes: str = "f",
    reference: Callable[..., Any] | None = None,
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None,
    quant: Quant = Quant.POINTWISE,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define a pointwise op.  `dtypes`: kinds that default samples cover, of "f" float, "i" signed, "u" unsigned, "b" bool.

    `reference` replaces running `f` over NumPy, where NumPy has the op whole.
    """

    def define(f: Callable[..., Any]) -> OpDef:
        op_name = name or f.__name__.rstrip("_")
        parameters = inspect.signature(f).parameters.values()
        arity = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) - 1
        known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        needed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}

        def infer(types: Types, **attrs: Any) -> Types:
            if len(types) != arity:
                raise ShapeError(f"takes {arity} operands, got {len(types)}")
            if not needed <= attrs.keys() <= known:
                raise ShapeError(f"takes the attributes {sorted(known)}, got {sorted(attrs)}")
            return (TensorType(dtype(types, **attrs), broadcast_shape(*(t.shape for t in types))),)

        cases = samples or _pointwise_samples(arity, dtypes)
        return register(OpDef(op_name, "pointwise", infer, f, reference, None, cases, quant, doc=f.__doc__ or ""))

    return define


def contraction(
    *,
    infer: Callable[..., Types],
    samples: Callable[[np.random.Generator], Iterable[Sample]],
    quant: Quant = Quant.INTEGER,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define a contraction by its NumPy reference, `f(*arrays, **attrs)`; its loops come from the `contract` template."""

    def define(f: Callable[..., Any]) -> OpDef:
        return register(OpDef(f.__name__, "contraction", infer, None, f, None, samples, quant, doc=f.__doc__ or ""))

    return define


def opaque(
    *,
    infer: Callable[..., Types],
    loops: Callable[..., Any],
    samples: Callable[[np.random.Generator], Iterable[Sample]],
    name: str | None = None,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define an opaque op by its NumPy reference, `f(*arrays, **attrs)`, and its loops (see `OpDef.loops`)."""

    def define(f: Callable[..., Any]) -> OpDef:
        op_name = name or f.__name__.rstrip("_")
        return register(OpDef(op_name, "opaque", infer, None, f, samples=samples, loops=loops, doc=f.__doc__ or ""))

    return define


_SAMPLE_DTYPES = {
    "f": ("float32", "float64", "float16"),
    "i": ("int32", "int8", "int64"),
    "u": ("uint8", "uint32"),
    "b": ("bool",),
}


def _pointwise_samples(arity: int, kinds: str) -> Callable[[np.random.Generator], Iterable[Sample]]:
    shapes = [(5, 37), (37,), (5, 1)]

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for kind in kinds:
            for dtype in _SAMPLE_DTYPES[kind]:
                arrays = []
                for k in range(arity):
                    shape = shapes[k % 3]
                    if kind == "f":
                        arrays.append((rng.standard_normal(shape) * 2).astype(dtype))
                    elif kind == "b":
                        arrays.append(rng.random(shape) < 0.5)
                    else:
                        arrays.append(rng.integers(1, 100, shape).astype(dtype))
                yield Sample(tuple(arrays))

    return samples


def index(
    *,
    infer: Callable[..., Types],
    name: str | None = None,
    reference: Callable[..., Any] | None = None,
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None,
    quant: Quant = Quant.EXACT,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define an index op: see the module docstring.  `infer(types, **attrs)` gives the one result type."""

    def define(f: Callable[..., Any]) -> OpDef:
        op_name = name or f.__name__.rstrip("_")
        return register(OpDef(op_name, "index", infer, f, reference, None, samples, quant, doc=f.__doc__ or ""))

    return define


def reduction(
    name: str,
    monoid: Reduction,
    *,
    dtype: ResultDType = same_dtype,
    reference: Callable[..., Any],
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None,
    quant: Quant = Quant.FLOAT,
    one_axis: bool = False,
    doc: str = "",
) -> OpDef:
    """Define a reduction over `axes` (sorted, non-negative); the reduced axes vanish unless `keepdims`."""

    def infer(types: Types, *, axes: tuple[int, ...], keepdims: bool = False) -> Types:
        (t,) = types
        if list(axes) != sorted(set(axes)) or (axes and not 0 <= axes[0] <= axes[-1] < t.rank):
            raise ShapeError(f"axes {axes} are not sorted, distinct and below the rank {t.rank}")
        if one_axis and len(axes) != 1:
            raise ShapeError(f"takes exactly one axis, got {axes}")
        shape = tuple(1 if k in axes else d for k, d in enumerate(t.shape) if keepdims or k not in axes)
        return (TensorType(dtype(types), shape),)

    return register(OpDef(name, "reduction", infer, None, reference, monoid, samples, quant, doc=doc))


def composite(
    *,
    name: str | None = None,
    reference: Callable[..., Any] | None = None,
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None,
    quant: Quant = Quant.FLOAT,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define a composite: `f(*values, **attrs) -> Value | tuple[Value, ...]` builds it from other ops.

    Its types are those of the expansion, which is built once to infer them.
    """

    def define(f: Callable[..., Any]) -> OpDef:
        op_name = name or f.__name__.rstrip("_")

        def infer(types: Types, **attrs: Any) -> Types:
            return tuple(v.type for v in expand(op_name, types, attrs).outputs)

        return register(OpDef(op_name, "composite", infer, f, reference, None, samples, quant, doc=f.__doc__ or ""))

    return define


def expand(name: str, types: Types, attrs: Mapping[str, Any]) -> Graph:
    """The expansion of a composite over operands of these types, as a graph of one level."""
    f = op_def(name).fn
    assert f is not None
    operands = tuple(input_value(f"x{k}", t) for k, t in enumerate(types))
    result = f(*operands, **attrs)
    return Graph(name, operands, (result,) if isinstance(result, Value) else tuple(result))


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis.  Raises ShapeError when it is out of range."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def prod(values: Iterable[int]) -> int:
    return math.prod(values)
