"""What a kernel has to do at least: arithmetic operations and bytes of memory, from the types in its body at the sizes of a run.

>>> work(kernel.body, {"batch": 8})
Work(flops=16777216, nbytes=4210688)

A contraction counts a multiplication and an addition for each product, a reduction one operation for each element that it folds,
anything pointwise one for each element, however hard it is to compute.  Operands are read once and results written once; of an operand
that is only picked from (the table of a gather) what is picked counts.  A kernel whose data lies in a cache can therefore show more
bytes a second than memory has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.dims import Dim, dim_product, evaluate_dim
from ..ir.graph import Graph, Node, Value
from ..ir.ops.registry import op_def


@dataclass(frozen=True)
class Work:
    """Arithmetic operations and bytes read and written."""

    flops: int
    nbytes: int


def work(body: Graph, sizes: Mapping[str, int]) -> Work:
    """The work of one call of a kernel; `sizes` has every symbol of its types."""
    flops = sum((_operations(node) for node in body.nodes), start=0)
    nbytes: Dim = sum((v.type.nbytes for v in body.outputs), start=0)
    return Work(evaluate_dim(flops, sizes), evaluate_dim(nbytes, sizes) + sum(_read(body, v, sizes) for v in body.inputs))


def multiplies_bytes(body: Graph) -> bool:
    """Whether the products of a kernel are those of 8-bit integers."""
    contractions = [n for n in body.nodes if op_def(n.op).kind == "contraction"]
    return bool(contractions) and all(v.dtype.is_int and v.dtype.bits <= 8 for n in contractions for v in n.inputs)


def _operations(node: Node) -> Dim:
    match op_def(node.op).kind:
        case "contraction":
            left, right = node.inputs
            depth = dim_product(right.shape[1:]) if node.op == "conv" else left.shape[-1]  # weights are [o, i / groups, *kernel]
            return 2 * node.types[0].size * depth
        case "reduction":
            return node.inputs[0].type.size
        case "pointwise" | "opaque":
            return sum((t.size for t in node.types), start=0)
        case _:
            return 0


def _read(body: Graph, operand: Value, sizes: Mapping[str, int]) -> int:
    """Bytes that the kernel needs of an operand."""
    whole = evaluate_dim(operand.type.nbytes, sizes)
    readers = body.users[operand.node]
    if operand in body.outputs or any(op_def(n.op).kind != "index" or n.inputs[0] != operand for n in readers):
        return whole
    picked = sum((n.types[0].size for n in readers), start=0) * operand.dtype.itemsize
    return min(whole, evaluate_dim(picked, sizes))
