"""Pinning: replace named dimensions by numbers (`dims={"batch": 1}`), which makes a program static that was not.

Every symbol of an input shape can be pinned; a symbol that the run defines (the count of a nonzero, say) cannot.  Types are
inferred anew, so that sizes which only now turn out to be wrong are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.dims import Dim, DimExpr, check_sizes, substitute, symbols_of
from ..ir.errors import ModelError
from ..ir.graph import Graph, Node, Value, input_value, substitute_type
from ..ir.ops.registry import apply_node


def pin(graph: Graph, dims: Mapping[str, int]) -> Graph:
    """The graph with symbols replaced by sizes.  Raises ModelError for a name that no input has and for a size below 0."""
    unknown = sorted(set(dims) - set(graph.symbols))
    if unknown:
        known = ", ".join(graph.symbols) or "none: every input shape is fixed"
        raise ModelError(f"no input has a dimension named {unknown[0]!r}; the symbols are {known}")
    check_sizes(dims)
    return _substitute(graph, dims) if dims else graph


def _substitute(graph: Graph, env: Mapping[str, Dim]) -> Graph:
    new: dict[Node, tuple[Value, ...]] = {}
    for node in graph.nodes:
        operands = tuple(new[v.node][v.index] for v in node.inputs)
        if node.op == "input":
            type = substitute_type(node.types[0], env)
            new[node] = node.outputs if type == node.types[0] else (input_value(node.attrs["name"], type, node.loc),)
        elif node.op in ("const", "variable"):
            new[node] = node.outputs
        else:
            attrs = {name: _substitute_attribute(value, env) for name, value in node.attrs.items()}
            same = operands == node.inputs and all(attrs[k] is v for k, v in node.attrs.items())
            same = same and not any(symbols_of(d) & env.keys() for t in node.types for d in t.shape)
            new[node] = node.outputs if same else apply_node(node.op, operands, attrs, node.loc).outputs
    if all(new[node] == node.outputs for node in graph.nodes):
        return graph
    inputs = [new[v.node][0] for v in graph.inputs]
    return graph.with_roots([new[v.node][v.index] for v in graph.roots], inputs)


def _substitute_attribute(value: Any, env: Mapping[str, Dim]) -> Any:
    """The same object where nothing in it is replaced."""
    match value:
        case DimExpr():
            return substitute(value, env) if symbols_of(value) & env.keys() else value
        case tuple():
            items = tuple(_substitute_attribute(item, env) for item in value)
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
        case Graph():
            return _substitute(value, env)
        case _:
            return value
