"""Folding: a node whose operands are all constants becomes a constant, computed by the reference evaluator.

A result is kept only if it is worth its bytes: it is small, or not much larger than the constants that it replaces.
Broadcasting is never folded (every consumer broadcasts by itself), nor is control flow, which may run for any time; `budget`
bounds the bytes that one run of the pass may add.
"""

from __future__ import annotations

import numpy as np

from ..ir.dims import DimExpr
from ..ir.evaluate import evaluate_node
from ..ir.graph import Constant, Graph, Node, Value, const_value, rewrite
from .narrow import narrow_nodes

SMALL = 64 << 10  # bytes that are always worth folding: an operand this small stays in the first-level cache
GROWTH = 4  # a larger result may be this many times its operands: i8 weights to f32
BUDGET = 4 << 30  # bytes one run may create
_NEVER = frozenset(("input", "const", "variable", "broadcast_to", "kernel", "if_", "loop", "scan"))


def fold(graph: Graph, budget: int = BUDGET, keep: frozenset[str] = frozenset()) -> Graph:
    """The graph with constant nodes computed, as far as the byte budget goes; nodes of the ops in `keep` stay."""
    left = budget
    never = _NEVER | keep
    narrow = {k for n in graph.nodes if n.op == "matmul" for k in narrow_nodes(n.inputs[1])}  # a kernel widens them as it reads

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        nonlocal left
        if node.op in never or node in narrow or not all(v.is_const for v in inputs) or not all(t.is_static for t in node.types):
            return None
        if any(_symbolic(a) for a in node.attrs.values()):
            return None
        size = sum(_static_bytes(t.nbytes) for t in node.types)
        operands = sum(v.array.nbytes for v in inputs)
        if size > max(SMALL, GROWTH * operands) or size > left:
            return None
        left -= size
        with np.errstate(all="ignore"):
            arrays = evaluate_node(node, [v.array for v in inputs], {})
        return tuple(
            const_value(Constant(np.asarray(a, t.dtype.np).reshape(t.shape), t.dtype), node.loc)  # type: ignore[arg-type]
            for a, t in zip(arrays, node.types, strict=True)
        )

    return rewrite(graph, rule)


def _symbolic(attr: object) -> bool:
    """Whether an attribute holds a size that only the run will tell, though the result's own shape is known."""
    if isinstance(attr, tuple):
        return any(map(_symbolic, attr))
    return isinstance(attr, DimExpr)


def _static_bytes(size: object) -> int:
    assert isinstance(size, int)
    return size
