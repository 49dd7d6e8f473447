"""Expansion: every composite becomes the primitives that define it.

The expansion of an op over given types and attributes is built once and shared by all its nodes (a transformer repeats the same
few); each copy takes the loc of the node that it replaces.  Composites named in `keep` stay whole for a pass or template that
wants them whole.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.ops.registry import OPS
from ..ir.ops.registry import expand as expansion
from .cse import attributes_key


def expand(graph: Graph, keep: frozenset[str] = frozenset()) -> Graph:
    """The graph without composites other than those in `keep`."""
    built: dict[Hashable, Graph] = {}

    def body(node: Node, types: tuple) -> Graph:
        """The expansion down to primitives; recurses over composites defined by composites, never over the graph."""
        key = (node.op, types, attributes_key(node))
        found = built.get(key)
        if found is None:
            found = built[key] = rewrite(expansion(node.op, types, node.attrs), rule)
        return found

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        definition = OPS.get(node.op)
        if definition is None or definition.kind != "composite" or node.op in keep:
            return None
        return _instantiate(body(node, tuple(v.type for v in inputs)), inputs, node.loc)

    return rewrite(graph, rule)


def _instantiate(body: Graph, arguments: tuple[Value, ...], loc: str) -> tuple[Value, ...]:
    """The outputs of `body` over `arguments`, every node of it at `loc`."""
    new: dict[Node, tuple[Value, ...]] = {v.node: (a,) for v, a in zip(body.inputs, arguments, strict=True)}
    for node in body.nodes:
        if node not in new:
            inputs = tuple(new[v.node][v.index] for v in node.inputs)
            new[node] = Node(node.op, inputs, node.attrs, node.types, loc).outputs
    return tuple(new[v.node][v.index] for v in body.outputs)
