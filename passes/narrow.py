"""Weights stored as small integers stay small: what they are scaled by moves behind the product.

    x . (cast(w) * s)             ->  (x . cast(w)) * s
    x . dequantize(w, s, 0)       ->  (x . cast(w)) * s

for a constant matrix w of integers of 8 bits and constants s of one value per column (or one in all).  The product then reads a
quarter of the memory, which is what bounds it where rows are few; `fold` leaves such a cast to the kernel.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.ops.registry import apply
from .values import is_uniform

LEAST_BYTES = 64 << 10  # smaller weights lie in a near cache even when wide


def keep_narrow(graph: Graph) -> Graph:
    """The graph with scales of narrow weights behind the products."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op != "matmul":
            return None
        x, w = inputs
        match w.node.op, w.node.inputs:
            case "mul", (a, b):
                wide, scale = (a, b) if a.node.op == "cast" else (b, a)
                if not is_narrow(wide):
                    return None
            case "dequantize", (q, scale, zero) if is_uniform(zero, 0):
                wide = apply("cast", q, to=w.dtype, loc=w.node.loc)
                if not is_narrow(wide):
                    return None
            case _:
                return None
        if not scale.is_const or scale.type.rank > 2 or (scale.type.rank == 2 and scale.shape[0] != 1) or w.shape != wide.shape:
            return None
        columns = apply("reshape", scale, shape=scale.shape[-1:], loc=node.loc)
        return apply("mul", apply("matmul", x, wide, loc=node.loc), columns, loc=node.loc)

    return rewrite(graph, rule)


def is_narrow(v: Value) -> bool:
    """Whether v is a constant matrix of small integers, cast to floats, that is large enough to stay so."""
    if v.node.op != "cast" or not v.dtype.is_float:
        return False
    (w,) = v.node.inputs
    return w.is_const and w.type.rank == 2 and w.dtype.is_int and w.dtype.bits == 8 and w.array.nbytes >= LEAST_BYTES
