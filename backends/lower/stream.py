"""Stores past the caches, for results that no cache can hold.

An ordinary store reads the line that it is about to overwrite; a streaming store does not, so that `y = relu(x)` moves two arrays and
not three.  What it wrote is in no cache, so a kernel streams only where its results are too large to be found there anyhow, and where
every vector of them lies at a multiple of its size.  Both are known when the kernel runs, so it has its loops twice:

    if ((bytes >= 64 MiB) and (address(y) % 64 == 0)) { stream y[...] = ... } else { y[...] = ... }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.dims import Dim
from ...ir.graph import Graph
from ...ir.loops import LINE_BYTES, Address, Buf, Const, Expr, If, Prefetch, Stmt, binary, size_expr
from ...ir.types import bool_

STREAM_BYTES = 64 << 20  # of all results: more than the caches of a core and, on most machines, of all cores together
NEAR_BYTES, FAR_BYTES = 2 << 10, 16 << 10  # how far ahead operands are asked for, into the first and the second cache: what gelu liked
LEAST = 16  # bytes of the shortest vector that can be stored past the caches
MOST_WORK = 40  # operations for an element beyond which a kernel is not bound by memory, and not worth having twice


def alignment(buf: Buf, lanes: int) -> int:
    """The multiple, in bytes, at which every vector of a streamed buffer lies."""
    return min(LINE_BYTES, lanes * buf.dtype.itemsize)  # longer vectors are stored in parts


def large(buffers: Sequence[Buf], size: Dim) -> Expr:
    """Whether buffers of `size` elements each are too large for any cache."""
    return size_expr(size) * sum(b.dtype.itemsize for b in buffers) >= STREAM_BYTES


def streamable(buffers: Sequence[Buf], size: Dim, begins: Sequence[Dim], lanes: int, work: int) -> Expr:
    """The condition under which stores of `size` elements into each buffer may stream.

    begins: sizes that have to be multiples of `lanes` for every vector to begin at one.  work: operations for an element.
    """
    if not buffers or work > MOST_WORK or any(alignment(b, lanes) < LEAST for b in buffers):
        return Const(False, bool_)
    condition = large(buffers, size)
    for d in begins:
        condition = condition & binary("eq", size_expr(d) % lanes, 0)
    for b in buffers:
        condition = condition & binary("eq", Address(b) % alignment(b, lanes), 0)
    return condition


def ahead(body: Graph, buffers: Sequence[Buf], shape: Sequence[Dim], position: Expr, elements: int) -> list[Stmt]:
    """Ask for what every input that has this shape holds some way behind the elements at `position`.

    Arithmetic and memory must not wait for each other; a core waits even for its second-level cache, so each line is asked for twice.
    """
    asked: list[Stmt] = []
    for v, b in zip(body.inputs, buffers, strict=True):
        if v.shape == tuple(shape):
            item = b.dtype.itemsize
            for distance in (NEAR_BYTES, FAR_BYTES):
                lines = range(distance // item, distance // item + elements, LINE_BYTES // item)
                asked += [Prefetch(b, position + k, distance == NEAR_BYTES) for k in lines]
    return asked


def versions(condition: Expr, make: Callable[[bool], Sequence[Stmt]]) -> list[Stmt]:
    """`make(True)`, whose stores stream, where the condition holds, else `make(False)`; one of them where that is known."""
    if isinstance(condition, Const):
        return list(make(bool(condition.value)))
    return [If(condition, tuple(make(True)), tuple(make(False)))]
