"""How an ONNX operator is imported: the table of importers, and `Site`, the node that an importer works on.

An importer is one function per operator, `f(n, *operands)`; operands are `Tensor`s, None where an optional one is absent.  It
returns what the node's outputs are: a Value or Tensor, or a tuple of them (None for outputs that nobody asked for).

>>> @onnx_op("Relu")
... def relu(n, x):
...     return n.apply("relu", x)

`since` is the opset from which an importer holds; the newest one not above the model's opset is taken.  `tracked` importers
come first: they compute shapes symbolically (see symbolic.py) and raise `Untracked` to leave the node to the ordinary importer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...ir.dims import Dim, DimExpr
from ...ir.errors import ModelError, ShapeError, UnsupportedOp
from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node, Value, const_value, topological
from ...ir.ops.registry import apply, apply_node, normal_axis
from ...ir.types import DType, TensorType, i64
from .symbolic import Ratio, as_contents, is_static, is_symbolic

if TYPE_CHECKING:
    from .importer import Scope

FOLD_BYTES = 1 << 26  # what folding one shape computation may allocate
_UNEVALUATED = frozenset(("input", "variable", "sizes", "if_", "loop", "scan"))  # control flow may run for any time


class Tensor:
    """An ONNX value while importing: its type, and its contents where they are known as sizes.

    The node that computes it is made only when somebody asks for `value`, so shape arithmetic leaves no trace in the graph.
    """

    __slots__ = ("_value", "contents", "type")

    def __init__(self, value: Value | None = None, contents: np.ndarray | None = None, dtype: DType = i64):
        assert value is not None or contents is not None
        self._value = value
        self.contents = contents
        if value is not None:
            self.type = value.type
            if contents is None and value.is_const:
                self.contents = as_contents(value.array)
        else:
            assert contents is not None
            self.type = TensorType(dtype, contents.shape)

    @property
    def value(self) -> Value:
        if self._value is None:
            assert self.contents is not None
            self._value = materialize(self.contents, self.type.dtype)
        return self._value

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank


@dataclass(frozen=True)
class Sequence_:
    """An ONNX sequence while importing: a list known at import, which never exists at run time."""

    items: tuple[Tensor, ...]
    dtype: DType | None = None


@dataclass(frozen=True)
class Optional_:
    """An ONNX optional while importing: what it holds, or None."""

    item: Any = None


Operand: TypeAlias = Tensor | None


def materialize(contents: np.ndarray, dtype: DType) -> Value:
    """The value with these contents: a constant, or a computation over the sizes known at run time."""
    if is_static(contents):
        return const_value(np.array(contents.tolist(), dtype.np).reshape(contents.shape), dtype=dtype)
    flat = list(contents.flat)
    if any(isinstance(x, Ratio | float) for x in flat):
        sizes = tuple(x.size if isinstance(x, Ratio) else 1 for x in flat)
        factors = [float(x.factor) if isinstance(x, Ratio) else float(x) for x in flat]
        value = apply("mul", apply("cast", apply("sizes", dims=sizes), to=dtype), const_value(np.array(factors, dtype.np)))
    else:
        value = apply("sizes", dims=tuple(flat))
        if dtype is not i64:
            value = apply("cast", value, to=dtype)
    return value if contents.ndim == 1 else apply("reshape", value, shape=tuple(contents.shape))


@dataclass
class Site:
    """One ONNX node being imported: its attributes, and what an importer needs to build from it."""

    op: str
    domain: str
    version: int
    name: str
    loc: str
    attrs: Mapping[str, Any]
    outputs: tuple[str, ...]
    scope: Scope
    symbols: Callable[[], DimExpr]  # a fresh run-time symbol
    constant_nodes: dict[Node, bool] = field(default_factory=dict)

    # attributes
    def attr(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)

    def integer(self, name: str, default: int = 0) -> int:
        return self._checked(name, default, int)

    def number(self, name: str, default: float = 0.0) -> float:
        return self._checked(name, default, float)

    def text(self, name: str, default: str = "") -> str:
        return self._checked(name, default, str)

    def integers(self, name: str) -> tuple[int, ...] | None:
        return self._checked(name, None, tuple)

    def _checked(self, name: str, default: Any, kind: type) -> Any:
        value = self.attrs.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise ModelError(f"attribute {name} must be of type {kind.__name__}, not {type(value).__name__}")
        return value

    def wants(self, index: int) -> bool:
        """Does anybody name this output?"""
        return index < len(self.outputs) and self.outputs[index] != ""

    # building
    def apply(self, name: str, *operands: Tensor | Value, **attrs: Any) -> Value:
        return apply(name, *map(value_of, operands), loc=self.loc, **attrs)

    def apply_all(self, name: str, *operands: Tensor | Value, **attrs: Any) -> tuple[Value, ...]:
        """All results of an op of several."""
        return apply_node(name, tuple(map(value_of, operands)), attrs, self.loc).outputs

    def const(self, array: Any, dtype: DType | None = None) -> Value:
        return const_value(np.asarray(array, dtype.np if dtype else None), self.loc, dtype)

    def scalar(self, number: float, like: Tensor | Value) -> Value:
        """A constant of rank 0 in the dtype of `like`."""
        return self.const(number, value_of(like).dtype)

    def cast(self, x: Tensor | Value, dtype: DType) -> Value:
        value = value_of(x)
        return value if value.dtype is dtype else self.apply("cast", value, to=dtype)

    def reshape(self, x: Tensor | Value, shape: Sequence[Dim]) -> Value:
        value = value_of(x)
        return value if value.shape == tuple(shape) else self.apply("reshape", value, shape=tuple(shape))

    def transpose(self, x: Tensor | Value, perm: Sequence[int]) -> Value:
        value = value_of(x)
        return value if tuple(perm) == tuple(range(len(perm))) else self.apply("transpose", value, perm=tuple(perm))

    def slice_axis(self, x: Tensor | Value, axis: int, start: Dim, stop: Dim) -> Value:
        """Elements start to stop along one axis."""
        value = value_of(x)
        starts = tuple(start if k == axis else 0 for k in range(value.type.rank))
        stops = tuple(stop if k == axis else d for k, d in enumerate(value.shape))
        return self.apply("slice", value, starts=starts, stops=stops, steps=(1,) * value.type.rank)

    def broadcast(self, x: Tensor | Value, shape: Sequence[Dim]) -> Value:
        value = value_of(x)
        return value if value.shape == tuple(shape) else self.apply("broadcast_to", value, shape=tuple(shape))

    def full(self, number: float, shape: Sequence[Dim], dtype: DType) -> Value:
        return self.broadcast(self.const(number, dtype), shape)

    def concat(self, parts: Sequence[Tensor | Value], axis: int) -> Value:
        return value_of(parts[0]) if len(parts) == 1 else self.apply("concat", *parts, axis=axis)

    # what must be known while compiling
    def constant(self, x: Tensor) -> np.ndarray | None:
        """The contents, if no input of the model can change them; None otherwise.

        Raises UnsupportedOp when computing them would take too much memory.
        """
        if x.contents is not None:
            if not is_static(x.contents):
                return None
            return np.array(x.contents.tolist(), x.dtype.np).reshape(x.contents.shape)
        if x.value.is_const:
            return x.value.array
        if not self._is_constant(x.value.node):
            return None
        total = sum(t.nbytes for n in topological([x.value]) for t in n.types)
        if not isinstance(total, int) or total > FOLD_BYTES:
            return None
        return evaluate(Graph("fold", (), (x.value,)), {})[0]

    def _is_constant(self, root: Node) -> bool:
        """Is the node computed from constants alone?  Remembers every answer, so all questions together are linear."""
        known, stack = self.constant_nodes, [root]
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            unknown = [v.node for v in node.inputs if v.node not in known]
            if unknown:
                stack.extend(unknown)
                continue
            known[node] = node.op not in _UNEVALUATED and all(known[v.node] for v in node.inputs)
            known[node] = known[node] and all(t.is_static for t in node.types)
            stack.pop()
        return known[root]

    def known(self, x: Tensor, what: str) -> np.ndarray:
        """The constant contents.  Raises UnsupportedOp naming `what` when they depend on run-time data."""
        array = self.constant(x)
        if array is None:
            raise UnsupportedOp(f"{what} must be constant, but depends on {self.origin(x)}")
        return array

    def origin(self, x: Tensor) -> str:
        """What run-time data the contents depend on; remembers the inputs among it."""
        inputs = sorted({v.attrs["name"] for v in topological([x.value]) if v.op == "input"})
        self.scope.importer.wanted.update(inputs)
        return "the contents of " + ", ".join(map(repr, inputs[:5])) if inputs else "sizes known only at run time"

    def known_ints(self, x: Tensor, what: str) -> tuple[int, ...]:
        return tuple(int(v) for v in self.known(x, what).ravel())

    def dims(self, x: Tensor, what: str) -> tuple[Dim, ...]:
        """The contents as sizes.  Raises UnsupportedOp when they depend on run-time data."""
        if x.contents is not None and all(isinstance(v, int | DimExpr) for v in x.contents.flat):
            return tuple(x.contents.flat)
        array = self.constant(x)
        if array is None:
            raise UnsupportedOp(f"{what} depends on {self.origin(x)}, so a shape would too")
        return tuple(int(v) for v in array.ravel())

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        return normal_axis(self.integer(name, default), rank)

    def axes(self, given: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes made non-negative; an axis given twice raises ShapeError."""
        axes = tuple(normal_axis(int(a), rank) for a in given)
        if len(set(axes)) != len(axes):
            raise ShapeError(f"an axis is given twice in {list(given)}")
        return axes


def value_of(x: Tensor | Value) -> Value:
    return x.value if isinstance(x, Tensor) else x


Importer: TypeAlias = Callable[..., Any]
IMPORTERS: dict[tuple[str, str], list[tuple[int, Importer]]] = {}
TRACKED: dict[str, Importer] = {}


def onnx_op(*names: str, since: int = 1, domain: str = "") -> Callable[[Importer], Importer]:
    """Register an importer for operators of a domain, from opset `since` on.

    It gives values, or NotImplemented where the operator's function body in the standard is to be imported instead.
    """

    def register(f: Importer) -> Importer:
        for name in names:
            found = IMPORTERS.setdefault((domain, name), [])
            found.append((since, f))
            found.sort(key=lambda entry: entry[0])
        return f

    return register


def tracked(*names: str) -> Callable[[Importer], Importer]:
    """Register how operators of the default domain act on tracked contents."""

    def register(f: Importer) -> Importer:
        TRACKED.update(dict.fromkeys(names, f))
        return f

    return register


def importer_of(domain: str, name: str, version: int) -> Importer | None:
    """The importer that holds at this opset, or None."""
    best = None
    for since, f in IMPORTERS.get((domain, name), ()):
        if since <= version:
            best = f
    return best


def symbolic_contents(x: Tensor | None) -> bool:
    return x is not None and x.contents is not None and any(is_symbolic(v) for v in x.contents.flat)
