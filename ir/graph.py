"""The graph IR: immutable nodes, values that name a node's results, and graphs that *are* their outputs.

Dead code cannot exist: what no output reaches is not in the graph.  Identity is the object: a pass that changes nothing returns
the same graph, and `is` tells.  A node's `loc` (a Python line or an ONNX node name) survives every rewrite.
Nothing here knows an op by name except the three leaves `input`, `const` and `variable`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .dims import Dim, substitute, symbols_of
from .errors import ModelError
from .types import DType, TensorType, dtype_of

LEAVES = ("input", "const", "variable")


class Constant:
    """A read-only array as an attribute value: equal and hashed by its contents (SHA-256, computed once when asked for)."""

    __slots__ = ("_digest", "array", "dtype")

    def __init__(self, array: np.ndarray, dtype: DType | None = None):
        array = np.asarray(array)
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        self.array = array
        self.dtype = dtype or dtype_of(array.dtype)
        self._digest: str | None = None

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.array.shape)

    @property
    def digest(self) -> str:
        """16 hex digits of SHA-256 over type and contents."""
        if self._digest is None:
            h = hashlib.sha256(repr(self.type).encode())
            if self.array.dtype == object:
                h.update(repr(self.array.tolist()).encode())
            else:
                h.update(np.ascontiguousarray(self.array).tobytes())
            self._digest = h.hexdigest()[:16]
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Constant) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"const<{self.type} #{self.digest[:8]}>"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.  `attrs` holds ints, floats, bools, strings, dims, dtypes, tuples of these, `Constant`s and sub-`Graph`s."""

    op: str
    inputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    types: tuple[TensorType, ...]
    loc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (Value(self),) if len(self.types) == 1 else tuple(Value(self, k) for k in range(len(self.types)))

    def with_inputs(self, inputs: Sequence[Value]) -> Node:
        """The same operation on other inputs of the same types."""
        return Node(self.op, tuple(inputs), self.attrs, self.types, self.loc)

    def __repr__(self) -> str:
        return f"<{self.op} : {', '.join(map(str, self.types))}{' at ' + self.loc if self.loc else ''}>"


@dataclass(frozen=True)
class Value:
    """The `index`-th result of `node`; equal when both are the same."""

    node: Node
    index: int = 0

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def is_const(self) -> bool:
        return self.node.op == "const"

    @property
    def array(self) -> np.ndarray:
        """The contents of a `const`."""
        return self.node.attrs["value"].array

    if TYPE_CHECKING:  # `ir/ops/operators.py` defines them, a floor above

        def __add__(self, other: Any) -> Value: ...
        def __radd__(self, other: Any) -> Value: ...
        def __sub__(self, other: Any) -> Value: ...
        def __rsub__(self, other: Any) -> Value: ...
        def __mul__(self, other: Any) -> Value: ...
        def __rmul__(self, other: Any) -> Value: ...
        def __truediv__(self, other: Any) -> Value: ...
        def __rtruediv__(self, other: Any) -> Value: ...
        def __pow__(self, other: Any) -> Value: ...
        def __rpow__(self, other: Any) -> Value: ...
        def __matmul__(self, other: Any) -> Value: ...
        def __rmatmul__(self, other: Any) -> Value: ...
        def __neg__(self) -> Value: ...
        def __getitem__(self, key: Any) -> Value: ...

    def __repr__(self) -> str:
        return f"{self.node!r}" + (f"#{self.index}" if self.index else "")


def input_value(name: str, type: TensorType, loc: str = "") -> Value:
    return Value(Node("input", (), {"name": name}, (type,), loc))


def const_value(array: np.ndarray | Constant, loc: str = "", dtype: DType | None = None) -> Value:
    constant = array if isinstance(array, Constant) else Constant(array, dtype)
    return Value(Node("const", (), {"value": constant}, (constant.type,), loc))


def variable_value(name: str, init: np.ndarray | Constant, loc: str = "") -> Value:
    """A leaf that keeps its value between runs; `Graph.updates` maps it to its next value."""
    constant = init if isinstance(init, Constant) else Constant(init)
    return Value(Node("variable", (), {"name": name, "init": constant}, (constant.type,), loc))


def topological(roots: Iterable[Value], after: Callable[[Node], Iterable[Node]] = lambda node: ()) -> tuple[Node, ...]:
    """All nodes that the roots reach, operands before users, in a deterministic order; never recurses.

    after: further nodes that have to come before a node.  Raises ModelError on a cycle (without `after` possible only for nodes made by
    hand).
    """
    order: list[Node] = []
    state: dict[int, int] = {}  # 1: entered, 2: done
    for root in roots:
        stack = [root.node]
        while stack:
            node = stack[-1]
            if state.get(id(node)) == 2:
                stack.pop()
                continue
            if state.get(id(node)) == 1:
                state[id(node)] = 2
                order.append(node)
                stack.pop()
                continue
            state[id(node)] = 1
            for before in (*after(node), *(v.node for v in reversed(node.inputs))):
                seen = state.get(id(before))
                if seen is None:
                    stack.append(before)
                elif seen == 1:
                    raise ModelError(f"the graph has a cycle through {node!r}")
    return tuple(order)


@dataclass(frozen=True, eq=False)
class Graph:
    """A function from named inputs to named outputs, with functional updates of variables.

    inputs: values of `input` nodes, in calling order; outputs: any values; updates: variable value -> its next value.
    Raises ModelError for names that repeat, and for an `input` that is reachable but not listed.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...] = ()
    updates: Mapping[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "updates", MappingProxyType(dict(self.updates)))
        if not self.output_names:
            object.__setattr__(self, "output_names", tuple(f"output{k}" if k else "output" for k in range(len(self.outputs))))
        if len(self.output_names) != len(self.outputs):
            raise ModelError(f"graph {self.name}: {len(self.outputs)} outputs but {len(self.output_names)} output names")
        for what, names in (("input", self.input_names), ("output", self.output_names)):
            repeated = {n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else ()
            if repeated:
                raise ModelError(f"graph {self.name}: two {what}s are named {min(repeated)!r}")

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.node.attrs["name"] for v in self.inputs)

    @property
    def roots(self) -> tuple[Value, ...]:
        """Everything that the graph computes: outputs, then next values of variables."""
        return self.outputs + tuple(self.updates.values())

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node in topological order: unused inputs too, so that the signature stays visible."""
        return topological(self.inputs + tuple(self.updates) + self.roots)

    @cached_property
    def users(self) -> Mapping[Node, tuple[Node, ...]]:
        """node -> the nodes that read any of its values (a node once for each operand that does)."""
        found: dict[Node, list[Node]] = {n: [] for n in self.nodes}
        for n in self.nodes:
            for v in n.inputs:
                found[v.node].append(n)
        return {n: tuple(us) for n, us in found.items()}

    @cached_property
    def variables(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.op == "variable")

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the input shapes, in order of first appearance."""
        found: dict[str, None] = {}
        for v in self.inputs:
            for d in v.shape:
                for s in sorted(symbols_of(d)):
                    found[s] = None
        return tuple(found)

    def with_roots(self, roots: Sequence[Value], inputs: Sequence[Value] | None = None) -> Graph:
        """The graph with its outputs and next values replaced, in the order of `roots`."""
        k = len(self.outputs)
        return Graph(
            self.name,
            tuple(inputs) if inputs is not None else self.inputs,
            tuple(roots[:k]),
            self.output_names,
            dict(zip(self.updates, roots[k:], strict=True)),
        )

    def __repr__(self) -> str:
        ins = ", ".join(f"{n}: {v.type}" for n, v in zip(self.input_names, self.inputs, strict=True))
        return f"<graph {self.name}({ins}), {len(self.nodes)} nodes>"


Rule = Callable[[Node, tuple[Value, ...]], "Value | Sequence[Value] | None"]


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Apply `rule` to every node, operands first.

    `rule(node, inputs)` gets the node as it was and its operands as they are now; it returns the replacement (a Value, or a
    sequence of one Value per result) or None to keep the operation.  Returns the same graph object when nothing changed.
    """
    new: dict[Node, tuple[Value, ...]] = {}  # a node that is not in it stands for itself
    for node in graph.nodes:
        inputs = tuple([v if (now := new.get(v.node)) is None else now[v.index] for v in node.inputs]) if new else node.inputs
        try:
            result = rule(node, inputs)
        except Exception as e:
            if not hasattr(e, "node"):
                e.node = node  # type: ignore[attr-defined]  # so that the pass manager can name it
            raise
        if result is not None:
            replacement = (result,) if isinstance(result, Value) else tuple(result)
            if replacement != node.outputs:
                new[node] = replacement
        elif inputs != node.inputs:
            new[node] = node.with_inputs(inputs).outputs
    if not new:
        return graph
    for v in (*graph.inputs, *graph.updates):
        if v.node in new and v.node.op != "variable":
            raise ModelError(f"a rewrite replaced the graph input {v!r}; substitute inputs with `inline`")
    return graph.with_roots([new[v.node][v.index] if v.node in new else v for v in graph.roots])


def inline(graph: Graph, arguments: Sequence[Value]) -> tuple[Value, ...]:
    """The outputs of `graph` computed from `arguments` instead of its inputs (types must match)."""
    new: dict[Node, tuple[Value, ...]] = {v.node: (a,) for v, a in zip(graph.inputs, arguments, strict=True)}
    for node in graph.nodes:
        if node not in new:
            inputs = tuple(new[v.node][v.index] for v in node.inputs)
            new[node] = node.outputs if inputs == node.inputs else node.with_inputs(inputs).outputs
    return tuple(new[v.node][v.index] for v in graph.outputs)


def substitute_type(type: TensorType, env: Mapping[str, Dim]) -> TensorType:
    """The type with symbols replaced by dims."""
    return type.with_shape(tuple(substitute(d, env) for d in type.shape))
