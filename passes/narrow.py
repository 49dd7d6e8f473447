"""Weights stored as small integers stay small, in one of two forms.

A scale for each column (or one in all) of 8-bit integers moves behind the product:

    x . (cast(w) * s)             ->  (x . cast(w)) * s
    x . dequantize(w, s, 0)       ->  (x . cast(w)) * s

Scales of blocks of rows, zero points and 4-bit integers come in one form, however they were stored, transposed or shaped:

    x . dequantize(w, s, z)       ->  x . reshape(dequantize(w[blocks,block,columns], s[blocks,1,columns], z), shape=[rows,columns])

The product then reads a quarter or an eighth of the memory, which is what bounds it where rows are few; `fold` leaves such weights to
the kernel, which widens them in registers.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.evaluate import run_op
from ..ir.graph import Graph, Node, Value, const_value, rewrite
from ..ir.ops.registry import apply, op_def
from ..ir.types import f32
from .values import is_uniform, scalar, uniform

LEAST_BYTES = 64 << 10  # smaller weights lie in a near cache even when wide
WORD = 8  # 4-bit integers of so many rows are stored together
LONGEST = 128  # rows of a block: the scale of more is repeated, so that chunks of k hold whole blocks


def keep_narrow(graph: Graph) -> Graph:
    """The graph with scales of narrow weights behind the products, or weights in blocks."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op != "matmul":
            return None
        x, w = inputs
        after = _scaled_after(node, x, w)
        return after if after is not None else _in_blocks(node, x, w)

    return rewrite(graph, rule)


def narrow_nodes(v: Value) -> tuple[Node, ...]:
    """The nodes that make a matmul's second operand of a constant matrix of small integers that is large enough to stay so."""
    if is_narrow(v):
        return (v.node,)
    dequantize = v.node.inputs[0].node if v.node.op == "reshape" else None
    if dequantize is None or dequantize.op != "dequantize" or v.type.rank != 2:
        return ()
    q = dequantize.inputs[0]
    if q.type.rank != 3 or not _stays(dequantize) or q.shape[-1] != v.shape[-1]:
        return ()
    block = q.array.shape[1]
    return (v.node, dequantize) if block % WORD == 0 and block <= LONGEST else ()


def is_narrow(v: Value) -> bool:
    """Whether v is a constant matrix of 8-bit integers, cast to floats, that is large enough to stay so."""
    if v.node.op != "cast" or not v.dtype.is_float:
        return False
    (w,) = v.node.inputs
    return w.is_const and w.type.rank == 2 and w.dtype.is_int and w.dtype.bits == 8 and w.array.nbytes >= LEAST_BYTES


def _stays(dequantize: Node) -> bool:
    """Whether constants of 4 or 8 bits are dequantized that are worth to be stored so."""
    q, scale, _ = dequantize.inputs
    return (
        q.dtype.bits <= 8
        and q.dtype.is_int
        and scale.dtype is f32
        and all(v.is_const for v in dequantize.inputs)
        and (q.array.size >= LEAST_BYTES)
    )


def _scaled_after(node: Node, x: Value, w: Value) -> Value | None:
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


def _in_blocks(node: Node, x: Value, w: Value) -> Value | None:
    if w.type.rank != 2 or narrow_nodes(w):
        return None
    moves: list[Node] = []
    below = w.node
    while below.op in ("reshape", "transpose"):
        moves.append(below)
        below = below.inputs[0].node
    if below.op != "dequantize" or not _stays(below):
        return None
    q, scale, zero = (v.array for v in below.inputs)
    same = uniform(below.inputs[2]) is not None
    scale, zero = np.broadcast_to(scale, q.shape), zero.reshape(-1)[:1] if same else np.broadcast_to(zero, q.shape)
    for move in reversed(moves):
        q, scale, zero = (a if a.size == 1 else run_op(op_def(move.op), (a,), move.attrs)[0] for a in (q, scale, zero))
    rows, columns = q.shape
    ends = [0]  # where rows begin that have other scales than those before
    for a in (scale, zero):
        if a.size != 1:
            ends += (np.flatnonzero((a[1:] != a[:-1]).any(axis=1)) + 1).tolist()
    dtype, whole = below.inputs[0].dtype, math.gcd(rows, *ends)
    if dtype.bits == 8 and whole == rows and same and not zero.any():
        columnwise = apply(
            "dequantize", const_value(np.ascontiguousarray(q)), const_value(scale[:1].copy()), scalar(0, dtype), loc=below.loc
        )
        return _scaled_after(node, x, columnwise)
    block = max((b for b in range(WORD, LONGEST + 1, WORD) if whole % b == 0), default=0)
    if not block:
        return None
    shape = (rows // block, 1, columns)
    parts = [np.ascontiguousarray(a[::block]).reshape(shape) if a.size != 1 else a.reshape(()) for a in (scale, zero)]
    integers = const_value(np.ascontiguousarray(q).reshape(rows // block, block, columns), below.loc, dtype)
    narrow = apply("dequantize", integers, const_value(parts[0]), const_value(parts[1], "", dtype), loc=below.loc)
    matrix = apply("reshape", narrow, shape=(rows, columns), loc=below.loc)
    return Node("matmul", (x, matrix), node.attrs, node.types, node.loc).outputs[0]
