"""The micro-kernel of byte products in matrix registers: a tile of sums of up to 16 x 16 numbers a register.

for k: for i: a[i] = rows 16 * i...; for j: b[j] = columns 16 * j... of the panel; sums[i, j] += a[i] . b[j]

A panel that is packed for `dot4`, a word of four rows of k for each column, is what a register of the second operand holds, and rows
of the first lie in memory as they are, at one distance from each other.  Where 64 bytes do not divide what lies in a row, steps of k
are shorter: all are equal, so that registers keep their shapes and nothing is read past the end.

No processor with such registers was at hand, and nothing was timed: what is faster follows from Intel's figures for Sapphire Rapids
(64 and IA-32 Architectures Optimization Reference Manual, "Intel Advanced Matrix Extensions"): a product of full registers every 16
cycles, whose sums can be used after 52, a load of one every 8 from the first-level cache, a store every 16.  With 2 x 2 registers of
sums, 2 and 2 of operands, a step has four products, 64 cycles, and four loads, 32 cycles; with one register of sums it would wait for
the last sums.  1024 products in a cycle are 8 times what `vpdpbusd` sums on two ports.  Tuning measures both where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim
from ...ir.loops import Buf, Expr, For, Matrix, MatrixDot, MatrixLoad, MatrixStore, MatrixZero, Names, Stmt, size_expr
from .access import linear, strides_of
from .kernel import const, loops

SIDE = 16  # rows of a register, and words in a row of it
TILES = ((32, 2), (48, 1), (16, 3), (32, 1), (16, 2))  # (rows, vectors): whose sums and operands eight registers hold
PRODUCT_CYCLES, LATENCY_CYCLES, LOAD_CYCLES, STORE_CYCLES = 16, 52, 8, 16
EXPOSED_CYCLES = 1  # of a load, that products do not hide: a guess that prefers fewer loads for as many products
COPY_CYCLES = 1 / 8  # for a word of a row that is staged: a load and a store of 16


def words_in_a_step(words: Dim) -> int:
    """How many words of a row a step of k takes: the most that divide it, 0 where their number is not known."""
    return max(w for w in range(1, SIDE + 1) if words % w == 0) if isinstance(words, int) and words > 0 else 0


@dataclass(frozen=True)
class MatrixTile:
    """The registers of a tile: of sums, by rows and columns, and of the operands."""

    sums: tuple[tuple[Matrix, ...], ...]
    a: tuple[Matrix, ...]
    b: tuple[Matrix, ...]

    @property
    def registers(self) -> tuple[Matrix, ...]:
        """All of them."""
        return (*(m for row in self.sums for m in row), *self.a, *self.b)


def matrix_tile(names: Names, rows: int, vectors: int, words: int) -> MatrixTile:
    """Registers for `rows` x `vectors` * 16 sums, in steps of `words` words."""

    def matrix(hint: str, height: int, width: int) -> Matrix:
        return Matrix(names.var(hint).name, height, width)

    heights = [min(SIDE, rows - first) for first in range(0, rows, SIDE)]
    sums = tuple(tuple(matrix("sum", height, SIDE) for _ in range(vectors)) for height in heights)
    return MatrixTile(sums, tuple(matrix("ma", h, words) for h in heights), tuple(matrix("mb", words, SIDE) for _ in range(vectors)))


def multiply_matrices(
    names: Names,
    tile: MatrixTile,
    sums: Buf,
    vectors: int,
    a: Buf,
    rows: Callable[[int], Expr],
    row_stride: Dim,
    moves: Sequence[Dim],
    panels: Buf,
    start: Expr,
    width: int,
    k: Sequence[Dim],
    hints: Callable[[Expr, int], list[Stmt]] = lambda k, words: [],
) -> list[Stmt]:
    """Save to `sums`, [rows, `vectors` * 16] in memory, the products over the k loops, of words.

    rows(q): where in `a`, of bytes, row q of the tile starts, row_stride: from one row to the next, moves: how each k loop moves along
    it; start: where in `panels` the tile's panel, of `width` columns, starts.  hints(k, words): what stands before a step from k.
    """
    k_strides, words, operands = strides_of(k), tile.a[0].words, tile.b[:vectors]

    def step(at_k: tuple[Expr, ...]) -> list[Stmt]:
        b_start = start + linear(at_k, k_strides) * width
        result: list[Stmt] = [*hints(linear(at_k, k_strides), words)]
        for i, (x, row) in enumerate(zip(tile.a, tile.sums, strict=True)):
            result.append(MatrixLoad(x, a, rows(SIDE * i) + linear(at_k, moves), size_expr(row_stride)))
            for j, (y, total) in enumerate(zip(operands, row, strict=False)):
                result += [] if i else [MatrixLoad(y, panels, b_start + SIDE * j, const(width))]
                result.append(MatrixDot(total, x, y))
        return result

    def inner(outer: tuple[Expr, ...]) -> list[Stmt]:
        q = names.var("k")
        return [For(q, size_expr(k[-1] // words), tuple(step((*outer, q * words))))]

    used = [(i, j, m) for i, row in enumerate(tile.sums) for j, m in enumerate(row[:vectors])]
    across = vectors * SIDE
    return [
        *(MatrixZero(m) for _, _, m in used),
        *loops(names, k[:-1], inner),
        *(MatrixStore(m, sums, const(SIDE * i * across + SIDE * j), const(across)) for i, j, m in used),
    ]


def matrix_cycles(rows: int, vectors: int, words: int, step: int) -> float:
    """Cycles for one word of k over a tile: products and loads, and a share of what saving the sums and reading them again takes.

    words: that a row has, `step` of them at a time.
    """
    high = -(-rows // SIDE)
    products, loads = high * vectors, high + vectors
    multiply = max(PRODUCT_CYCLES * products, LATENCY_CYCLES, LOAD_CYCLES * loads) + EXPOSED_CYCLES * loads
    return multiply / step + (STORE_CYCLES + LOAD_CYCLES) * products / words
