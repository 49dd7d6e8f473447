"""The text form of a graph: `to_text` prints it, `parse` reads it back exactly, `digest` names a graph by its meaning.

    graph mlp(%x: f32[batch,784]) -> (%3) {
      %1 = matmul(%x, const<f32[784,128] #a1b25d0c9e8f7a61>) : f32[batch,128]  ; onnx:/fc1/MatMul
      %2 = add(%1, const<f32[1] [0.5]>) : f32[batch,128]
      %3 = relu(%2) : f32[batch,128]
    }

A statement is `%name = op(operands, attributes) : types ; loc`; types may be left out by hand (they are inferred), and a line
that starts with `;` is a comment.  `%3#1` is the second result of `%3`.  Attribute values: `7` int, `7.0` `inf` `nan` float,
`true`, `"text"`, `none`, `f32` dtype, `2*batch+1` dim (`dim(f32)` where a symbol has the name of something else), `[a,b]`
tuple, `const<type values>` or `const<type #digest>`, `graph name(...) -> (...) {...}`.  A constant of up to `INLINE` elements
carries its values; larger ones carry a digest, and `parse` looks those up in the mapping that `large_constants` made. The
last lines of a graph may be `update %variable = %next`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from .dims import DimExpr
from .errors import ModelError
from .graph import Constant, Graph, Node, Value
from .parse import IDENTIFIER, parse
from .types import DTYPES, DType, TensorType

INLINE = 64  # elements of the largest constant whose values are written out

__all__ = ["INLINE", "canonical_text", "digest", "excerpt", "large_constants", "parse", "to_text", "value_names"]

_RESERVED = frozenset((*DTYPES, "true", "false", "none", "inf", "nan", "const", "graph", "dim"))


def to_text(graph: Graph) -> str:
    """The graph as text; `parse` gives an equal graph back."""
    return "\n".join(line for line, _ in _Printer(graph).lines()) + "\n"


def canonical_text(graph: Graph) -> str:
    """Text that depends on the meaning alone: no locs and no names of graphs, inputs and outputs; constants as digests."""
    return "\n".join(line for line, _ in _Printer(graph, canonical=True).lines()) + "\n"


def digest(graph: Graph) -> str:
    """32 hex digits that name the graph's meaning (see `canonical_text`); the names of dimension symbols count."""
    return hashlib.sha256(canonical_text(graph).encode()).hexdigest()[:32]


def value_names(graph: Graph) -> dict[Value, str]:
    """Names that depend on the meaning alone: an input's own, `%12` or `%12#1` for what `canonical_text` numbers so."""
    printer = _Printer(graph, canonical=True)
    names = {v: f"{printer.names[n]}#{v.index}" if v.index else printer.names[n] for n in printer.stated for v in n.outputs}
    return {**{v: v.node.attrs["name"] for v in graph.inputs}, **names}


def excerpt(graph: Graph, node: Node, around: int = 8) -> str:
    """The text lines around a node, which is marked `>`; empty when the graph does not hold it."""
    lines = list(_Printer(graph).lines())
    at = next((k for k, (_, of) in enumerate(lines) if of is node), None)
    if at is None:
        return ""
    shown = range(max(0, at - around), min(len(lines), at + around + 1))
    return "\n".join(("> " if k == at else "  ") + lines[k][0] for k in shown)


def large_constants(graph: Graph) -> dict[str, np.ndarray]:
    """digest -> array of every constant that `to_text` does not write out, those of sub-graphs too."""
    found: dict[str, np.ndarray] = {}
    pending = [graph]
    while pending:
        for node in pending.pop().nodes:
            for value in _leaves(tuple(node.attrs.values())):
                if isinstance(value, Graph):
                    pending.append(value)
                elif isinstance(value, Constant) and value.array.size > INLINE:
                    found[value.digest] = value.array
    return found


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


class _Printer:
    """Prints one graph; sub-graphs print through printers of their own, indented."""

    def __init__(self, graph: Graph, canonical: bool = False):
        self.graph, self.canonical = graph, canonical
        self.names: dict[Node, str] = {}
        self.inline = self._inlined_constants()
        self.types: dict[int, str] = {}
        for k, v in enumerate(graph.inputs):
            self.names[v.node] = f"%in{k}" if canonical else "%" + _name(v.node.attrs["name"])
        self.stated = [n for n in graph.nodes if n not in self.inline and n not in self.names]  # each on a line of its own
        self.names.update((n, f"%{k}") for k, n in enumerate(self.stated, 1))

    def _inlined_constants(self) -> set[Node]:
        """Constants written at their only use; those with a loc or several uses need a line to keep it or to stay one node."""
        uses: dict[Node, int] = dict.fromkeys((n for n in self.graph.nodes if n.op == "const"), 0)
        for node in self.graph.nodes:
            for v in node.inputs:
                if v.node in uses:
                    uses[v.node] += 1
        for v in (*self.graph.roots, *self.graph.updates):
            uses.pop(v.node, None)
        return {n for n, k in uses.items() if self.canonical or (k == 1 and not n.loc)}

    def lines(self) -> Iterator[tuple[str, Node | None]]:
        graph = self.graph
        statements = [(self._statement(n), n) for n in self.stated]
        yield f"graph {'' if self.canonical else _name(graph.name)}({self._inputs()}) -> ({self._outputs()}) {{", None
        for text, node in statements:
            first, *rest = text.split("\n")
            yield "  " + first, node
            for line in rest:
                yield "  " + line, None
        for variable, after in graph.updates.items():
            yield f"  update {self._value(variable)} = {self._value(after)}", None
        yield "}", None

    def _inputs(self) -> str:
        parts = []
        for v in self.graph.inputs:
            loc = f" @ {json.dumps(v.node.loc)}" if v.node.loc and not self.canonical else ""
            parts.append(f"{self.names[v.node]}: {v.type}{loc}")
        return ", ".join(parts)

    def _outputs(self) -> str:
        graph = self.graph
        values = [self._value(v) for v in graph.outputs]
        if self.canonical or graph.output_names == Graph(graph.name, (), graph.outputs).output_names:
            return ", ".join(values)
        return ", ".join(f"{_name(n)}: {v}" for n, v in zip(graph.output_names, values, strict=True))

    def _value(self, v: Value) -> str:
        if v.node in self.inline:
            return self._attribute(v.node.attrs["value"])
        return self.names[v.node] + (f"#{v.index}" if v.index else "")

    def _statement(self, node: Node) -> str:
        parts = [self._value(v) for v in node.inputs]
        parts += [f"{name}={self._attribute(node.attrs[name])}" for name in sorted(node.attrs)]
        types = ", ".join(self._type(t) for t in node.types)
        loc = "" if self.canonical or not node.loc else f"  ; {_loc(node.loc)}"
        return f"{self.names[node]} = {node.op}({', '.join(parts)}) : {types}{loc}"

    def _type(self, t: TensorType) -> str:
        text = self.types.get(id(t))  # a pass keeps type objects, so most are printed once
        if text is None:
            text = self.types[id(t)] = str(t)
        return text

    def _attribute(self, value: Any) -> str:
        match value:
            case bool():
                return "true" if value else "false"
            case int():
                return str(value)
            case float():
                return _float_text(value)
            case str():
                return json.dumps(value)
            case None:
                return "none"
            case DType():
                return value.name
            case DimExpr():
                text = str(value)
                return f"dim({text})" if text in _RESERVED else text
            case tuple() | list():
                return f"[{','.join(map(self._attribute, value))}]"
            case Constant():
                return self._constant(value)
            case Graph():
                inner = "\n".join(line for line, _ in _Printer(value, self.canonical).lines())
                return inner.replace("\n", "\n  ")
            case _:
                raise ModelError(f"an attribute of type {type(value).__name__} has no text form: {value!r}")

    def _constant(self, constant: Constant) -> str:
        array = constant.array
        if self.canonical or array.size > INLINE:
            return f"const<{constant.type} #{constant.digest}>"
        values = [_element_text(x, constant.dtype) for x in _flat(array)]
        body = values[0] if array.ndim == 0 and constant.dtype.kind != "c" else f"[{','.join(values)}]"
        return f"const<{constant.type} {body}>"


def _name(name: str) -> str:
    return name if IDENTIFIER.fullmatch(name) else json.dumps(name)


def _loc(loc: str) -> str:
    plain = loc == loc.strip() and loc.isprintable() and not loc.startswith('"')
    return loc if plain else json.dumps(loc)


def _float_text(value: float) -> str:
    if value == value:
        return repr(float(value))
    bits = struct.pack("<d", value)
    return "nan" if bits == struct.pack("<d", np.nan) else f"nan(0x{int.from_bytes(bits, 'little'):x})"


def _flat(array: np.ndarray) -> np.ndarray:
    """The elements in order; complex ones as pairs of floats."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.float32 if array.dtype == np.complex64 else np.float64) if array.dtype.kind == "c" else flat


def _element_text(x: Any, dtype: DType) -> str:
    if dtype.kind == "s":
        return json.dumps(x)
    if dtype.kind == "b":
        return "true" if x else "false"
    if dtype.is_int:
        return str(int(x))
    if x != x:
        bits = np.asarray(x).tobytes()
        plain = bits == np.asarray(np.nan).astype(x.dtype).tobytes()
        return "nan" if plain else f"nan(0x{int.from_bytes(bits, 'little'):x})"
    for digits in (6, 9, 17):  # the first that reads back to the same bits
        text = f"{float(x):.{digits}g}"
        if np.asarray(float(text)).astype(x.dtype) == x:
            break
    return text if any(c in text for c in ".en") else text + ".0"
