"""Merge neighbouring dims of a pointwise graph, so that loops are few and long.

Two dims merge where every operand either has both in full or broadcasts along both:
x[n,h,w,c] + b[c] becomes x[n*h*w,c] + b[c].
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, dim_product
from ...ir.graph import Constant, Graph, Node, Value, const_value, input_value
from ...ir.ops.registry import op_def
from ...ir.types import TensorType


def is_pointwise(graph: Graph) -> bool:
    """Whether the body is pointwise all through (constants and inputs aside)."""
    return all(op_def(n.op).kind in ("pointwise", "leaf") for n in graph.nodes)


def _aligned(shape: Sequence[Dim], rank: int) -> tuple[Dim, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def groups(graph: Graph, shape: tuple[Dim, ...], keep_last: bool = False) -> list[list[int]]:
    """The axes of `shape`, grouped into those that can merge; with `keep_last` the last axis stays alone."""
    rank = len(shape)
    operands = [_aligned(v.shape, rank) for n in graph.nodes for v in n.outputs if dim_product(v.shape) != 1]
    result: list[list[int]] = []
    for axis in range(rank):
        alone = keep_last and axis == rank - 1
        if result and not alone and _mergeable(operands, shape, result[-1], axis):
            result[-1].append(axis)
        else:
            result.append([axis])
    return result


def _mergeable(operands: Sequence[tuple[Dim, ...]], shape: tuple[Dim, ...], group: list[int], axis: int) -> bool:
    def full(o: tuple[Dim, ...], k: int) -> bool:
        return o[k] == shape[k]

    def spread(o: tuple[Dim, ...], k: int) -> bool:
        return o[k] == 1

    live = [k for k in (*group, axis) if shape[k] != 1]
    return all(all(full(o, k) for k in live) or all(spread(o, k) for k in live) for o in operands)


def collapse(graph: Graph, shape: tuple[Dim, ...], keep_last: bool = False) -> Graph:
    """The same pointwise body over merged dims; inputs, outputs and their order correspond."""
    rank = len(shape)
    axes = groups(graph, shape, keep_last)

    def merged(t: TensorType) -> TensorType:
        if dim_product(t.shape) == 1 and dim_product(shape) != 1:
            return t.with_shape(())
        aligned = _aligned(t.shape, rank)
        return t.with_shape(tuple(dim_product(aligned[k] for k in g) for g in axes))

    new: dict[Node, tuple[Value, ...]] = {}
    for node in graph.nodes:
        if node.op == "input":
            new[node] = (input_value(node.attrs["name"], merged(node.types[0])),)
        elif node.op == "const":  # of one element: others are inputs
            new[node] = (const_value(Constant(node.outputs[0].array.reshape(()), node.types[0].dtype), node.loc),)
        else:
            inputs = tuple(new[v.node][v.index] for v in node.inputs)
            new[node] = Node(node.op, inputs, node.attrs, tuple(merged(t) for t in node.types), node.loc).outputs
    return Graph(
        graph.name,
        tuple(new[v.node][0] for v in graph.inputs),
        tuple(new[v.node][v.index] for v in graph.outputs),
        graph.output_names,
    )
