"""Kernels without the model's own size formulas: every size that is no number becomes a symbol of the kernel.

A formula such as ((width-1)//4-1)//2 is evaluated once for each run, by the program, and not at every use in a loop; and layers whose
formulas differ share one kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.dims import Dim, DimExpr, symbol
from ...ir.graph import Graph, Node, Value, input_value
from ...ir.types import TensorType
from .kernel import body_symbols


def plain_sizes(body: Graph) -> tuple[Graph, tuple[Dim, ...]]:
    """The body over symbols s0, s1, ..., and the size that each of its symbols stands for, in the order of `body_symbols`.

    Equal sizes become one symbol; what else the sizes had to do with one another is no longer visible.
    """
    found: dict[DimExpr, DimExpr] = {}

    def plain(a: Any) -> Any:
        if isinstance(a, DimExpr):
            return found.setdefault(a, symbol(f"s{len(found)}"))
        return tuple(plain(x) for x in a) if isinstance(a, tuple) else a

    new: dict[Node, tuple[Value, ...]] = {}
    for node in body.nodes:
        types = _plain_types(node, plain)
        if node.op == "input":
            new[node] = (input_value(node.attrs["name"], types[0], node.loc),)
        else:
            attrs = {k: plain(a) for k, a in node.attrs.items()}
            new[node] = Node(node.op, tuple(new[v.node][v.index] for v in node.inputs), attrs, types, node.loc).outputs
    if not found:
        return body, ()
    inputs = tuple(new[v.node][0] for v in body.inputs)
    code = Graph(body.name, inputs, tuple(new[v.node][v.index] for v in body.outputs), body.output_names)
    stands_for = {str(s): size for size, s in found.items()}
    return code, tuple(stands_for[s] for s in body_symbols(code))


def _plain_types(node: Node, plain: Callable[[Any], Any]) -> tuple[TensorType, ...]:
    return tuple(t if t.is_static else t.with_shape(plain(t.shape)) for t in node.types)
