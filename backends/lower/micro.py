"""The micro-kernel of every matrix product: a tile of sums in registers, each one chain of multiply-adds over k, in order of k.

for k: for row q: for vector j: acc[q, j] = fma(a[rows[q] + moves . k], b[start + k * width + j * lanes ...], acc[q, j])

Where the panels hold words of four bytes each, a step takes four neighbours of every row, and `dot4` is the multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

from ...ir.dims import Dim
from ...ir.loops import Buf, Expr, For, Load, Names, Reread, Stmt, Store, Word, size_expr
from ...ir.scalar import LOOPS
from ...ir.types import i32, u8
from .access import linear, strides_of
from .contraction import Tile
from .kernel import const, loops

UNROLL_K = 8  # steps of k in a row
Hints = Callable[[Expr], list[Stmt]]  # what stands before a group of steps from k
Second = Callable[[tuple[Expr, ...], int, int, Expr], Expr]  # (step of the k loops, panel of the tile, column of it, lane) -> element


def steps_in_a_row(rows: int, tile: Tile) -> int:
    """How many steps of k `rows` rows of a tile take in a row: fewer where the tile is not whole, whose loops are short."""
    return UNROLL_K if rows == tile.rows else UNROLL_K // 2


def multiply_add(
    names: Names,
    acc: Buf,
    tile: Tile,
    vectors: int,
    a: Buf,
    rows: Sequence[Expr],
    moves: Sequence[Dim],
    second: Second,
    k: Sequence[Dim],
    unroll: int,
    hints: Hints,
    length: Expr | None = None,
) -> list[Stmt]:
    """Add to `acc`, [rows, vectors, lanes] in registers, the products over the k loops.

    rows: where in `a` each row of the tile starts, moves: how each k loop moves along it; second: the second operand, as `in_panels`
    reads it, of tiles of more vectors than a panel has in several of them.  `unroll` steps of the innermost loop stand in a row, after
    `hints`.  length: how many steps of it there are, if not all.
    """
    dtype, k_strides, size = acc.dtype, strides_of(k), k[-1] if length is None else length

    def step(at_k: tuple[Expr, ...]) -> list[Stmt]:
        a_offset = linear(at_k, moves)
        words = a.dtype is u8 and second(at_k, 0, 0, const(0)).dtype is i32
        result: list[Stmt] = []
        for q, row in enumerate(rows):
            x = Word(a, row + a_offset) if words else LOOPS.cast(Load(a, row + a_offset), dtype)
            for j in range(vectors):
                v = names.var("v")
                in_panel, column = divmod(j, tile.vectors)
                b = LOOPS.cast(second(at_k, in_panel, column * tile.lanes, v), dtype)
                at = const((q * vectors + j) * tile.lanes) + v
                old = Load(acc, at)
                total = LOOPS.dot4(x, b, old) if words else LOOPS.fma(x, b, old) if dtype.is_float else old + x * b
                result.append(For(v, const(tile.lanes), (Store(acc, at, total),), "vector"))
        return result

    def inner(outer: tuple[Expr, ...]) -> list[Stmt]:
        return _unrolled(
            names,
            size,
            unroll,
            lambda i: step((*outer, i)),
            lambda i: hints(linear((*outer, i), k_strides)),
        )

    statements = loops(names, k[:-1], inner)
    # rows of few steps would be read once for all panels, and saved in memory where the registers do not hold them
    return [Reread(), *statements] if all(outer == 1 for outer in k[:-1]) and size != 1 and _is_short(size, unroll) else statements


def in_panels(panels: Buf, start: Expr, panel_size: Expr, width: int, k: Sequence[Dim]) -> Second:
    """The elements of packed panels, the first of which starts at `start`; panel_size: from one to the next."""
    strides = strides_of(k)
    return lambda at_k, panel, column, lane: Load(panels, start + linear(at_k, strides) * width + panel_size * panel + column + lane)


def _is_short(size: Dim | Expr, unroll: int) -> TypeGuard[int]:
    """Whether that many steps stand in a row, without a loop."""
    return isinstance(size, int) and size <= 2 * unroll


def _unrolled(names: Names, size: Dim | Expr, unroll: int, step: Callable[[Expr], list[Stmt]], before: Hints) -> list[Stmt]:
    """A serial loop over 0..size, some steps at a time; `before` stands once before each group of steps."""
    if _is_short(size, unroll):
        return [*before(const(0)), *(s for k in range(size) for s in step(const(k)))]
    q, u = names.var("k"), names.var("u")
    extent = size if isinstance(size, Expr) else size_expr(size)
    steps = For(u, const(unroll), tuple(step(q * unroll + u)), "unroll")
    whole = For(q, extent // unroll, (*before(q * unroll), steps))
    if isinstance(size, int):
        done = size // unroll * unroll
        return [whole, *(s for k in range(done, size) for s in step(const(k)))]
    r = names.var("k")
    return [whole, For(r, extent % unroll, tuple(step(extent - extent % unroll + r)))]
