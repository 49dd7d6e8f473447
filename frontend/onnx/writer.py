"""Writing one ONNX graph: names, constants, run-time sizes and bodies; and the table of rules, one for each op, that fill it.

Sizes known only at run time are computed from the shapes of the inputs that define their symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...ir.dims import Atom, Dim, DimExpr, substitute, symbols_of
from ...ir.errors import UnsupportedOp
from ...ir.graph import Graph, Node, Value, inline, rewrite
from ...ir.ops.registry import apply, expand, op_def
from ...ir.types import TensorType, f16, f32, f64, i8, u8
from .files import ONNX_TYPES

Rule = Callable[["Writer", Node, list[str]], "str | list[str]"]
RULES: dict[str, Rule] = {}
EXPORTABLE: dict[str, Callable[[Node], bool]] = {}  # composites that have an operator only in some forms
POOLED = frozenset((f16, f32, f64, i8, u8))  # what MaxPool takes


def exports(*names: str, only: Callable[[Node], bool] | None = None) -> Callable[[Rule], Rule]:
    """Register the rule that writes these ops: `f(w, node, operand names) -> result name(s)`.

    `only` says for which nodes of a composite the rule holds; the others are expanded.
    """

    def register(f: Rule) -> Rule:
        for name in names:
            RULES[name] = f
            if only is not None:
                EXPORTABLE[name] = only
        return f

    return register


class Names:
    """Names of values and nodes that are unique throughout the model."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.next: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        name = wanted or "value"
        while name in self.taken:
            self.next[wanted] = self.next.get(wanted, 0) + 1
            name = f"{wanted}_{self.next[wanted]}"
        self.taken.add(name)
        return name


class Writer:
    """The nodes of one ONNX graph being written; a body's writer knows its parent's names."""

    def __init__(self, parent: Writer | None = None):
        self.parent = parent
        self.root: Writer = parent.root if parent else self
        self.names: Names = parent.names if parent else Names()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.values: dict[Value, str] = {}
        self.constants: dict[tuple[str, bytes], str] = {}
        self.symbols: dict[str, tuple[str, int, Dim]] = {}  # symbol -> value, axis, and the dim found there
        self.sizes: dict[Dim, str] = {}
        self.loc = ""

    # building
    def emit(self, op: str, *inputs: str, results: int = 1, names: Sequence[str] = (), **attrs: Any) -> list[str]:
        """One ONNX node; its result names."""
        base = self.loc.removeprefix("onnx:") or op.lower()
        outputs = list(names) or [self.names.fresh(base) for _ in range(results)]
        kept = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=self.names.fresh(f"{base}/{op}"), **kept))
        return outputs

    def one(self, op: str, *inputs: str, **attrs: Any) -> str:
        return self.emit(op, *inputs, **attrs)[0]

    def const(self, array: np.ndarray, name: str = "") -> str:
        """An initializer in the main graph; equal small ones are shared."""
        root = self.root
        array = np.asarray(array)
        key = (f"{array.dtype}{array.shape}", array.tobytes()) if array.nbytes <= 1024 and not name else None
        if key is not None and key in root.constants:
            return root.constants[key]
        unique = self.names.fresh(name or "const")
        root.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), unique))
        if key is not None:
            root.constants[key] = unique
        return unique

    def ints(self, numbers: Iterable[int]) -> str:
        return self.const(np.array(list(numbers), np.int64))

    def cast(self, name: str, type: TensorType) -> str:
        return self.one("Cast", name, to=ONNX_TYPES[type.dtype])

    # sizes
    def dims(self, dims: Sequence[Dim]) -> str:
        """An i64 vector of sizes."""
        if all(isinstance(d, int) for d in dims):
            return self.ints(dims)  # type: ignore[arg-type]
        return self.one("Concat", *(self.dim(d) for d in dims), axis=0)

    def dim(self, d: Dim) -> str:
        """An i64[1] of one size, computed in the main graph."""
        if isinstance(d, int):
            return self.ints([d])
        if d in self.root.sizes:
            return self.root.sizes[d]
        writer = self.root
        loc, writer.loc = writer.loc, ""
        total = None
        for monomial, coefficient in d.terms:
            term = None if coefficient != 1 or not monomial else writer._atom(monomial[0])
            for atom in monomial[0 if term is None else 1 :]:
                part = writer._atom(atom)
                term = part if term is None else writer.one("Mul", term, part)
            if term is None:
                term = self.ints([coefficient])
            elif coefficient != 1:
                term = writer.one("Mul", term, self.ints([coefficient]))
            total = term if total is None else writer.one("Add", total, term)
        assert total is not None
        writer.sizes[d] = total
        writer.loc = loc
        return total

    def _atom(self, atom: Atom) -> str:
        if atom.op == "symbol":
            return self._symbol(atom.args[0])
        a, b = (self.dim(x) for x in atom.args)
        if atom.op in ("max", "min"):
            return self.one(atom.op.capitalize(), a, b)
        rest = self.one("Mod", a, b)  # of the divisor's sign, so that (a - rest) / b is exact
        return rest if atom.op == "mod" else self.one("Div", self.one("Sub", a, rest), b)

    def _symbol(self, name: str) -> str:
        if name not in self.symbols:
            raise UnsupportedOp(f"no input's shape gives the size {name!r}, so it cannot be exported")
        value, axis, d = self.symbols[name]
        size = self.one("Shape", value, start=axis, end=axis + 1)
        offset = substitute(d, {name: 0})
        slope = substitute(d, {name: 1}) - offset
        if offset != 0:
            size = self.one("Sub", size, self.dim(offset))
        return size if slope == 1 else self.one("Div", size, self.dim(slope))

    def define(self, name: str, type: TensorType) -> None:
        """Remember which symbols the shape of this value defines: dims a*s + b in one symbol."""
        for axis, d in enumerate(type.shape):
            if isinstance(d, DimExpr) and len(names := symbols_of(d)) == 1:
                (s,) = names
                offset = substitute(d, {s: 0})
                slope = substitute(d, {s: 1}) - offset
                linear = isinstance(offset, int) and isinstance(slope, int) and substitute(d, {s: 2}) == slope * 2 + offset
                if linear and slope != 0 and s not in self.root.symbols:
                    self.root.symbols[s] = (name, axis, d)

    # graphs
    def name_of(self, v: Value) -> str:
        writer: Writer | None = self
        while writer is not None:
            if v in writer.values:
                return writer.values[v]
            writer = writer.parent
        raise UnsupportedOp(f"{v!r} is used outside the graph that computes it")

    def run(self, graph: Graph) -> None:
        """Write every node that computes something."""
        for node in graph.nodes:
            if node.outputs and node.outputs[0] in self.values:
                continue
            self.loc = node.loc
            if node.op == "const":
                names: str | list[str] = self.const(node.attrs["value"].array)
            else:
                if node.op not in RULES:
                    raise UnsupportedOp(f"{node!r}: there is no ONNX operator for {node.op}, and it does not expand")
                names = RULES[node.op](self, node, [self.name_of(v) for v in node.inputs])
            for value, name in zip(node.outputs, [names] if isinstance(names, str) else names, strict=False):
                self.values[value] = name

    def body(self, graph: Graph, inputs: Sequence[str], captures: Sequence[str], name: str) -> onnx.GraphProto:
        """A sub-graph: its first inputs by fresh names, the others standing for values of this graph."""
        inner = Writer(self)
        infos = []
        for value, wanted in zip(graph.inputs, (*inputs, *captures), strict=True):
            if len(infos) < len(inputs):
                wanted = self.names.fresh(wanted)
                infos.append(value_info(wanted, value.type))
            inner.values[value] = wanted
        graph = exportable(graph)
        inner.run(graph)
        return inner.finish(graph, name, infos, [self.names.fresh(f"{name}_out") for _ in graph.outputs])

    def finish(self, graph: Graph, name: str, infos: list[onnx.ValueInfoProto], outputs: Sequence[str]) -> onnx.GraphProto:
        results = []
        self.loc = ""
        for value, wanted in zip(graph.outputs, outputs, strict=True):
            self.emit("Identity", self.name_of(value), names=[wanted])
            results.append(value_info(wanted, value.type))
        initializers = self.initializers if self.parent is None else []
        return helper.make_graph(self.nodes, name, infos, results, initializers)


def value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[type.dtype], shape)


def _expand(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if node.op == "kernel":
        return inline(node.attrs["body"], inputs)
    if op_def(node.op).kind != "composite" or (node.op in RULES and EXPORTABLE.get(node.op, lambda _: True)(node)):
        return None
    return inline(expand(node.op, tuple(v.type for v in inputs), node.attrs), inputs)


def exportable(graph: Graph) -> Graph:
    """The graph with every op expanded that no rule writes."""
    while (expanded := rewrite(graph, _expand)) is not graph:
        graph = expanded
    return rewrite(graph, _pool)


def _pool(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """The largest of windows is a max pool again, as whoever reads the file knows it: passes expand those."""
    if node.op != "reduce_max" or inputs[0].node.op != "window" or inputs[0].dtype not in POOLED:
        return None
    windows = inputs[0].node
    a, x = windows.attrs, windows.inputs[0]
    rank = x.type.rank
    within = a["axes"] == tuple(range(2, rank)) and node.attrs["axes"] == tuple(range(rank, 2 * rank - 2))
    if rank < 3 or not within or node.attrs["keepdims"] or a["fill"] != -math.inf:
        return None
    pads = tuple(zip(a["low"], a["high"], strict=True))
    pooled = apply("max_pool", x, kernel=a["kernel"], strides=a["strides"], pads=pads, dilations=a["dilations"], loc=node.loc)
    return pooled if EXPORTABLE["max_pool"](pooled.node) else None
