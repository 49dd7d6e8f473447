"""The order in which a run goes through a graph: operands before users, and a size that the run defines before what mentions it.

A node may mention such a size in its attributes or type alone: `slice(y, stops=[found])` has no operand that tells how many were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .dims import DimExpr, symbols_of
from .graph import Graph, Node, Value, topological


def run_order(roots: Sequence[Value]) -> tuple[Node, ...]:
    """All nodes that the roots reach, in such an order."""
    nodes = topological(roots)
    definers: dict[str, Node] = {}
    for node in nodes:
        if node.op == "bind_size":
            definers.setdefault(node.attrs["symbol"], node)
    if not definers:
        return nodes

    def before(node: Node) -> list[Node]:
        own = node.attrs["symbol"] if node.op == "bind_size" else None
        return [definers[s] for s in sorted(mentioned(node)) if s in definers and s != own]

    return topological(roots, before)


def mentioned(node: Node) -> frozenset[str]:
    """The symbols of sizes in a node's types, attributes and sub-graphs, without those that a sub-graph itself defines."""
    dims = (*(d for t in node.types for d in t.shape), *sizes_in(tuple(node.attrs.values())))
    found = frozenset(s for d in dims for s in symbols_of(d))
    for body in (a for a in node.attrs.values() if isinstance(a, Graph)):
        own = {n.attrs["symbol"] for n in body.nodes if n.op == "bind_size"}
        found |= frozenset(s for n in body.nodes for s in mentioned(n)) - own
    return found


def sizes_in(attribute: Any) -> Iterator[DimExpr]:
    """The symbolic dims in an attribute."""
    if isinstance(attribute, DimExpr):
        yield attribute
    elif isinstance(attribute, tuple):
        for item in attribute:
            yield from sizes_in(item)
