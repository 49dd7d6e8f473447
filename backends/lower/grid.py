"""Loops over a grid of threads: how templates spread work where one thread computes one element (GPUs).

A kernel is a list of `block` loops; inside one stands a `thread` loop of constant extent, and what is in that runs once
for each thread, meeting the others at barriers:

    for block in block (n+255)//256 {
      for thread in thread 256 {
        let cell = block*256 + thread
        if cell < n { y[cell] = max(x[cell], 0) }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.dims import Dim, ceildiv, dim_product
from ...ir.loops import For, If, Let, Names, Stmt, Var, size_expr
from .access import Index, unravel
from .kernel import const

THREADS = 256  # of a block whose threads do not talk to each other


def cells(names: Names, shape: Sequence[Dim], body: Callable[[Index], Sequence[Stmt]]) -> For:
    """One thread for each element of a shape, row-major: neighbouring threads take neighbours of the last dim."""
    total = dim_product(shape)
    cell = names.var("cell")
    inner = tuple(body(unravel(cell, shape)))
    if not (isinstance(total, int) and total % THREADS == 0):
        inner = (If(cell < size_expr(total), inner),)
    block, thread = names.var("block"), names.var("thread")
    return blocks(block, ceildiv(total, THREADS), thread, THREADS, (Let(cell, block * THREADS + thread), *inner))


def blocks(block: Var, count: Dim, thread: Var, threads: int, body: Sequence[Stmt]) -> For:
    """`count` blocks of `threads` threads that all run `body`."""
    return For(block, size_expr(count), (For(thread, const(threads), tuple(body), "thread"),), "block")


def on_grid(names: Names, statements: Sequence[Stmt]) -> list[Stmt]:
    """Statements written for a CPU: a thread for each iteration of a parallel loop, one thread alone for the rest."""
    result: list[Stmt] = []
    alone: list[Stmt] = []

    def flush() -> None:
        if alone:
            result.append(blocks(names.var("block"), 1, names.var("thread"), 1, alone))
            alone.clear()

    for s in statements:
        if not (isinstance(s, For) and s.kind == "parallel"):
            alone.append(s)
            continue
        flush()
        block, thread = names.var("block"), names.var("thread")
        mine = (Let(s.var, block * THREADS + thread), If(s.var < s.extent, s.body))
        threads = For(thread, const(THREADS), mine, "thread")
        result.append(For(block, (s.extent + (THREADS - 1)) // THREADS, (threads,), "block"))
    flush()
    return result
