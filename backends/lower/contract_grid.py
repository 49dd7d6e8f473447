"""The `contract` template on a grid: matmuls and convolutions with both operands staged in a block's shared memory.

A block of threads computes a tile of `rows` x `width` results, each thread `rows/16` x `width/16` of them in registers.  K runs in
steps of 16: the threads copy both operands' next 16 columns and rows into shared memory (this is where a convolution's index map
and any prologue are read), meet, and multiply.  Sums are in order of k, one chain of fma per element, exactly as on a CPU, so the
bits are the same.  Rows past the end are read as copies of the last one and not stored; steps past the end of k are not summed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, ceildiv, dim_product
from ...ir.graph import Graph, Value
from ...ir.loops import (
    Alloc,
    Barrier,
    Buf,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopFunction,
    Names,
    Stmt,
    Store,
    binary,
    size_expr,
)
from ...ir.scalar import LOOPS, compute_dtype
from ..target import Target
from .access import Access, Index, linear, strides_of, unravel
from .contraction import GRID_LANES, Tile, contraction, contraction_of, epilogue, tile_for
from .grid import blocks
from .kernel import access, const, function, loops, parameters

STEP = 16  # of k that is staged at once
PAD = 4  # elements between staged columns of the first operand, so that they fall into different banks


def lower_contract_grid(body: Graph, target: Target) -> LoopFunction:
    """Loops for a body with one matmul or convolution, its prologue and its epilogue."""
    emit = _Contract(body, target)
    return function(body, emit.params, [emit.statement()])


class _Contract:
    def __init__(self, body: Graph, target: Target):
        self.names, self.params = Names(), parameters(body)
        self.node = contraction_of(body)
        self.what = contraction(self.node)
        self.dtype = compute_dtype(self.node.types[0].dtype)
        panel_width = self.what.packed.shape[-1]
        assert isinstance(panel_width, int)
        self.tile: Tile = tile_for(self.node, target, panel_width)
        self.reads = access(body, self.params)
        buffers = dict(zip(body.inputs, self.params.inputs, strict=True))
        self.panels, self.direct = buffers[self.what.packed], buffers.get(self.what.a)
        self.flat, self.start, self.bound = epilogue(body, self.node, buffers)
        self.threads = GRID_LANES * GRID_LANES
        self.total: Dim = dim_product(self.what.m)
        self.block, self.thread = self.names.var("block"), self.names.var("thread")
        self.across, self.down = self.thread % GRID_LANES, self.thread // GRID_LANES
        *batch, self.panel, tile_index = unravel(self.block, self._grid())
        self.batch: Index = tuple(batch)
        self.first = tile_index * self.tile.rows

    def _grid(self) -> tuple[Dim, ...]:
        return (*self.what.batch, ceildiv(self.what.n, self.tile.width), ceildiv(self.total, self.tile.rows))

    def statement(self) -> For:
        names, tile, what = self.names, self.tile, self.what
        acc = Buf(names.var("acc").name, self.dtype, "reg", tile.rows * tile.vectors // GRID_LANES)
        a = Buf(names.var("a").name, what.a.dtype, "shared", STEP * (tile.rows + PAD))
        b = Buf(names.var("b").name, what.packed.dtype, "shared", STEP * tile.width)
        zero = names.var("i")
        statements: list[Stmt] = [Alloc(a), Alloc(b), Alloc(acc)]
        statements.append(For(zero, const(int(acc.size)), (Store(acc, zero, Const(0, self.dtype)),), "unroll"))  # type: ignore[arg-type]
        row_of = self._rows(statements)
        panel = names.var("panel")
        depth = dim_product(what.k)
        statements.append(Let(panel, what.b_panel(self.batch) + self.panel * size_expr(depth * tile.width)))

        def inner(outer: tuple[Expr, ...]) -> list[Stmt]:
            length = what.k[-1]
            extent = size_expr(length)
            step, u = names.var("k"), names.var("u")

            def staged(first: Expr, sums: list[Stmt]) -> list[Stmt]:
                copies = self._stage_a(a, row_of, outer, first) + self._stage_b(b, panel, outer, first)
                return [*copies, Barrier(), *sums, Barrier()]

            result: list[Stmt] = []
            if not isinstance(length, int) or length >= STEP:
                whole = staged(step * STEP, [For(u, const(STEP), tuple(self._multiply(acc, a, b, u)), "unroll")])
                result.append(For(step, extent // STEP, tuple(whole)))
            rest = extent % STEP
            if isinstance(rest, Const) and rest.value == 0:
                return result
            r = names.var("r")
            tail = staged(extent - rest, [For(r, rest, tuple(self._multiply(acc, a, b, r)))])
            return [*result, *tail] if isinstance(rest, Const) else [*result, If(const(0) < rest, tuple(tail))]

        statements += loops(names, what.k[:-1], inner)
        statements += self._store(acc)
        return blocks(self.block, dim_product(self._grid()), self.thread, self.threads, statements)

    def _rows(self, statements: list[Stmt]) -> list[tuple[Expr, Expr]]:
        """(row of the result, where it starts in the first operand's buffer) of each row that this thread stages."""
        result: list[tuple[Expr, Expr]] = []
        for q in range(self.tile.rows // (self.threads // STEP)):
            row = binary("min", self.first + (self.thread // STEP + q * (self.threads // STEP)), size_expr(self.total) - 1)
            start: Expr = const(0)
            if self.direct is not None:
                pointer = self.names.var("row")
                statements.append(Let(pointer, self.what.a_row(self.batch, unravel(row, self.what.m))))
                start = pointer
            result.append((row, start))
        return result

    def _stage_a(self, buffer: Buf, rows: Sequence[tuple[Expr, Expr]], outer: tuple[Expr, ...], first: Expr) -> list[Stmt]:
        """Neighbouring threads read along k, where rows are dense."""
        what = self.what
        column = self.thread % STEP
        k = (*outer, binary("min", first + column, size_expr(what.k[-1]) - 1))
        statements: list[Stmt] = []
        for q, (row, start) in enumerate(rows):
            if self.direct is not None:
                value: Expr = Load(self.direct, start + linear(k, what.a_strides))
            else:
                value = self.reads.at(what.a, what.a_index(self.batch, unravel(row, what.m), k))
            at = column * (self.tile.rows + PAD) + (self.thread // STEP + q * (self.threads // STEP))
            statements.append(Store(buffer, at, value))
        return statements

    def _stage_b(self, buffer: Buf, panel: Expr, outer: tuple[Expr, ...], first: Expr) -> list[Stmt]:
        """Neighbouring threads read along a panel's row."""
        what, width = self.what, self.tile.width
        per_pass = self.threads // width  # rows of the panel
        statements: list[Stmt] = []
        for q in range(-(-STEP // per_pass)):
            row = self.thread // width + q * per_pass
            k = (*outer, binary("min", first + row, size_expr(what.k[-1]) - 1))
            source = panel + linear(k, strides_of(what.k)) * width + self.thread % width
            statements.append(Store(buffer, row * width + self.thread % width, Load(self.panels, source)))
        return statements

    def _multiply(self, acc: Buf, a: Buf, b: Buf, k: Expr) -> list[Stmt]:
        """One step of k on this thread's results."""
        columns = self.tile.vectors
        statements: list[Stmt] = []
        for i in range(self.tile.rows // GRID_LANES):
            x = LOOPS.cast(Load(a, k * (self.tile.rows + PAD) + (self.down + i * GRID_LANES)), self.dtype)
            for j in range(columns):
                y = LOOPS.cast(Load(b, k * self.tile.width + (self.across + j * GRID_LANES)), self.dtype)
                at = const(i * columns + j)
                old = Load(acc, at)
                statements.append(Store(acc, at, LOOPS.fma(x, y, old) if self.dtype.is_float else old + x * y))
        return statements

    def _store(self, acc: Buf) -> list[Stmt]:
        """The epilogue on the sums, and the only store."""
        what, tile = self.what, self.tile
        columns = tile.vectors
        sum_dtype = self.node.types[0].dtype
        i, j = self.names.var("i"), self.names.var("j")

        def read_sum(index: Index, mask: Expr | None, other: object) -> Expr:
            return LOOPS.cast(Load(acc, i * columns + j), sum_dtype)

        reads = Access({**self.bound, self.start: read_sum})
        shape = self.start.shape
        row = self.first + (self.down + i * GRID_LANES)
        column = self.panel * tile.width + (self.across + j * GRID_LANES)
        flat_row = row
        if what.out_batch and what.batch:
            flat_row = linear(self.batch, strides_of(what.batch)) * size_expr(self.total) + row
        index = (*unravel(flat_row, shape[:-1]), what.column(self.batch, column)) if shape else ()
        outputs: list[tuple[Value, Buf]] = list(zip(self.flat.outputs, self.params.outputs, strict=True))
        inner: tuple[Stmt, ...] = tuple(Store(o, linear(index, strides_of(shape)), reads.at(v, index)) for v, o in outputs)
        for position, size, by in ((row, self.total, tile.rows), (column, what.n, tile.width)):
            if not (isinstance(size, int) and size % by == 0):
                inner = (If(position < size_expr(size), inner),)
        return [For(i, const(tile.rows // GRID_LANES), (For(j, const(columns), inner, "unroll"),), "unroll")]
