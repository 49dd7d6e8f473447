"""The `contract` template: every matmul and convolution, one explicit register tile.

A tile of `rows` x `width` sums in registers over k, in order of k, one chain per element: results do not depend on the tile, the
blocking, the threads or the position in the batch.  The first operand's rows are walked where they lie (a padded channels-last image
needs no im2col: each row of the tile has its own pointer) or staged row by row into scratch memory where a fused prologue computes
them or they are to be widened.  The second operand is packed in panels of `width` columns (`ir/ops/packing.py`).  A tile of bytes may
sum in matrix registers instead (`matrices.py`): its rows lie at one distance from each other, staged if need be.

A task is a block of panels for one tile, or, where k is deep, for a group of tiles: then k runs in chunks, a chunk of a panel stays in
the first-level cache while the tiles pass over it, and the sums of every tile wait in scratch memory between chunks.  Panels of a
narrower dtype than the sums are widened a chunk at a time on the way.  The epilogue runs on the tile before the only store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

from ...ir.dims import Dim, DimExpr, ceildiv, dim_product, floordiv, least_size
from ...ir.graph import Graph, Node, Value
from ...ir.loops import (
    LINE_BYTES,
    Alloc,
    Buf,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopFunction,
    Matrices,
    Names,
    Prefetch,
    Scalar,
    Stmt,
    Store,
    binary,
    size_expr,
)
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import DType, bool_, i64
from ..target import Target
from .access import Access, Bound, Index, linear, strides_of, unravel
from .contraction import (
    BLOCK_BYTES,
    DOT,
    Contraction,
    block_of,
    contraction,
    contraction_of,
    expected_rows,
    in_matrices,
    tile_for,
    unpacking,
)
from .ending import ending
from .kernel import Params, access, const, function, loops, parameters, spread
from .matrices import MatrixTile, matrix_tile, multiply_matrices, words_in_a_step
from .micro import Second, in_panels, multiply_add, steps_in_a_row

CHUNK_BYTES = 36 << 10  # of a panel for one chunk of k: they stay in the first-level cache
GROUP = 10  # tiles that share a chunk of a panel: their rows and sums stay in the second-level cache
SUMS_BYTES = 1 << 19  # of sums that wait between chunks
TASKS = 8  # that a kernel has at least, if it can, so that some threads find enough to even out
STAGED_PANELS = 4  # a row that is staged should be multiplied by at least so many panels: fewer took up to 1.4 times as long
DIRECT_ROWS = 4  # at most, of a number that only the run tells, that read narrow panels as they are; a power of two
FEW_ROWS_SUMS = 8  # vectors of sums that hide the latency of a multiply-add
NEAR_BYTES = 2 << 10  # ahead of where narrow panels are read: 1 to 4 KiB are as good, none takes up to 1.7 times as long
MOST_LINES = 4  # asked for in advance in one group of steps: more would crowd out the loads that are needed now


def lower_contract(body: Graph, target: Target) -> LoopFunction:
    """Loops for a body with one matmul or convolution, its prologue and its epilogue."""
    node = contraction_of(body)
    names, params = Names(), parameters(body)
    return function(body, params, _Contract(body, node, target, names, params).statements())


@dataclass(frozen=True)
class _Task:
    """Which part of the result a task computes.

    Panels `block_index * block`... of `full` whole ones, for the rows of one group of tiles.  `tile`: the number of the current tile
    in the group; `chunk`: the outer k loops.
    """

    batch: Index
    block_index: Expr
    blocks: int
    block: Dim
    full: Dim
    tile: Expr
    chunk: tuple[Expr, ...]
    first_chunk: Expr
    last_chunk: Expr
    sums: Buf | None


@dataclass(frozen=True)
class _Rows:
    """Where rows of the first operand are read: the buffer, the start of row q of a tile, how the k loops move along a row, and how far
    it is to the next row, where they are evenly spaced.
    """

    buffer: Buf
    start: Callable[[int], Expr]
    moves: Sequence[Dim]
    stride: Dim | None


class _Contract:
    def __init__(self, body: Graph, node: Node, target: Target, names: Names, params: Params):
        self.body, self.node, self.names, self.params = body, node, names, params
        self.dtype = compute_dtype(node.types[0].dtype)
        block, per = block_of(node.inputs[1]), 8 if unpacking(node.inputs[1]).op == "unpack_nibbles" else 1
        self.steps = per  # of k that a row of the panels is for
        self.what = what = _blocked(_chunked(contraction(node), self.dtype, block or 1), block, per)
        width = what.packed.shape[-1]
        assert isinstance(width, int)
        self.tile = tile_for(node, target, width)
        self.registers = target.registers
        self.reads = access(body, params)
        buffers = dict(zip(body.inputs, params.inputs, strict=True))
        self.panels = buffers[what.packed]
        #  panels of scales and zero points, and how many steps of k a row of them is for
        self.scales = {v: (buffers[v], block) for v in body.inputs if block and v in _parameters(node.inputs[1])}
        self.direct = buffers.get(what.a)
        self.depth = dim_product(what.k)
        self.ending = ending(body, node, params)
        narrow = what.a.dtype.is_float and what.a.dtype is not self.dtype  # widened once, as they are staged
        self.total = dim_product(what.m)
        self.matrices = self._registers(self.tile.rows) if in_matrices(self.tile, target) and what.products == DOT else None
        self.staged = self.direct is None or narrow or (self.matrices is not None and what.row_stride is None)
        self.least = max(1, least_size(self.total))  # rows to plan for
        self.outer, self.inner = what.k[:0], what.k  # loops through chunks of k, and those summed without leaving the registers
        self.deep = self.widened = False  # whether tiles pass in groups, and over a copy of the panel
        few = isinstance(self.total, int) and self.total <= self.tile.rows
        if isinstance(self.depth, int) and isinstance(what.n, int) and not few:
            self.widened = _is_narrow(what, self.dtype)
            row = width * self.dtype.itemsize
            if self.widened or self.depth * row > BLOCK_BYTES:
                self.outer, self.inner = _split(what.k, row)
            self.deep = self.widened or bool(self.outer)
        self.streamed = few and _is_narrow(what, self.dtype) and isinstance(self.depth, int)  # panels are read once, past the caches

    def _registers(self, rows: int) -> MatrixTile:
        """The matrix registers of a tile of so many rows, or of all that there are."""
        most = min(rows, self.total) if isinstance(self.total, int) else rows
        return matrix_tile(self.names, max(1, most), self.tile.vectors, words_in_a_step(self.what.k[-1]))

    def statements(self) -> list[Stmt]:
        what, tile, names = self.what, self.tile, self.names
        full = what.n // tile.width  # whole panels
        most = GROUP if self.deep else 1
        groups = ceildiv(self.total, tile.rows * most)
        block, blocks = self._blocks(full)
        task = names.var("t")
        *batch_index, block_index, group_index = unravel(task, (*what.batch, blocks, groups))
        batch = tuple(batch_index)
        rows = binary("min", const(tile.rows * most), size_expr(self.total))
        columns = (max(1, block) if isinstance(block, int) else full + 1) * tile.width
        # some 80 multiply-adds take a nanosecond, or 20 bytes of panels where they are read for a few rows only
        cost = size_expr(self.depth * columns) * binary("max", rows, const(4 * what.packed.dtype.itemsize)) // 8
        tasks = size_expr(dim_product((*what.batch, blocks, groups)))
        true = Const(True, bool_)
        place = _Task(batch, block_index, blocks, block, full, group_index, (), true, true, None)
        if self.widened and not isinstance(self.total, int):
            few = min(DIRECT_ROWS, 1 << tile.rows.bit_length() - 1)
            many = self._group(group_index, size_expr(groups), place)
            body = [If(size_expr(self.total) <= few, tuple(self._few(few, place)), tuple(many))]
        elif self.deep:
            body = self._group(group_index, size_expr(groups), place)
        else:
            body = self._tile(group_index, lambda rows, first, slot_row: self._rows(rows, first, place))
        if self.matrices is not None:
            body = [Matrices(self.matrices.registers, tuple(body))]
        return [For(task, tasks, tuple(body), "parallel", cost=cost)]

    def _blocks(self, full: Dim) -> tuple[Dim, int]:
        """Panels in a block, and how many blocks there are: what one sweep over the rows reads should stay in the cache."""
        what, tile = self.what, self.tile
        panel = floordiv(dim_product(self.inner), self.steps) * tile.width * what.packed.dtype.itemsize
        if not (isinstance(panel, int) and isinstance(full, int) and full):
            return full, 1
        groups = max(1, least_size(dim_product(what.batch))) * -(-self.least // (tile.rows * (GROUP if self.deep else 1)))
        if self.deep:
            least, most = 1, SUMS_BYTES // (GROUP * tile.rows * tile.width * self.dtype.itemsize)
        else:
            at_once = max(1, FEW_ROWS_SUMS // (min(self.least, tile.rows) * tile.vectors))
            least, most = max(at_once, STAGED_PANELS) if self.staged else at_once, BLOCK_BYTES // max(1, panel)
        block = min(full, max(1, most), max(least, -(-full * groups // TASKS)))  # where rows are few, threads share the panels
        return block, -(-full // block)

    def _few(self, most: int, place: _Task) -> list[Stmt]:
        """A task of at most so many rows, a number that only the run tells: narrow panels are widened as they are multiplied."""
        plan = copy(self)
        plan.outer, plan.inner = self.what.k[:0], self.what.k
        plan.deep, plan.widened, plan.streamed = False, False, True
        total, statements, size = size_expr(self.total), [], most
        while size:
            start = self.names.var("m")
            piece = plan._rows(size, start, place)
            statements.append(If(const(0) < (total // size) % 2, (Let(start, total - total % (2 * size)), *piece)))
            size //= 2
        return statements

    def _group(self, group_index: Expr, groups: Expr, place: _Task) -> list[Stmt]:
        """A deep task: for every chunk of k, every panel of the block passes all tiles of the group."""
        what, tile, names = self.what, self.tile, self.names
        assert isinstance(place.block, int)
        sums = None
        if self.outer:
            sums = Buf(names.var("sums").name, self.dtype, "local", (place.block + 1) * (tile.rows * tile.width * GROUP))
        group, count, first, rows, panels = (names.var(hint) for hint in ("group", "count", "m", "rows", "count"))
        tile_count = ceil_expr(size_expr(self.total), tile.rows)
        statements: list[Stmt] = [Alloc(sums)] if sums else []
        statements += [
            Let(group, ceil_expr(tile_count, groups)),  # no group is left with a few
            Let(count, binary("min", group, tile_count - group_index * group)),
            Let(first, group_index * group * tile.rows),
            Let(rows, binary("min", size_expr(self.total) - first, count * tile.rows)),
            Let(panels, self._panels(place)),
        ]
        origin = Buf(names.var("origin").name, i64, "local", tile.rows * GROUP)  # where rows start that are not evenly spaced
        if not self.staged and what.row_stride is None:
            r = names.var("r")
            start = Store(origin, r, what.a_row(place.batch, unravel(first + r, what.m)))
            statements += [Alloc(origin), For(r, rows, (start,))]
        stage = self._stage(GROUP * tile.rows) if self.staged else None
        if stage is not None:
            statements.append(Alloc(stage.buffer))
        wide = None
        if self.widened:
            wide = Buf(names.var("wide").name, self.dtype, "local", dim_product(self.inner) * tile.width)
            statements.append(Alloc(wide))

        def chunk(at: tuple[Expr, ...]) -> list[Stmt]:
            begin, end = Const(True, bool_), Const(True, bool_)
            for k, size in zip(at, self.outer, strict=True):
                begin, end = begin & (k < 1), end & (k >= size_expr(size - 1))
            number = names.var("g")
            here = replace(place, tile=number, chunk=at, first_chunk=begin, last_chunk=end, sums=sums)

            def panel(index: Expr, limit: Expr | None) -> list[Stmt]:
                def run(size: int, at_row: Expr, slot_row: Expr) -> list[Stmt]:
                    local = at_row - first
                    if stage is not None:
                        lets, read = _shifted(stage, local)
                    elif what.row_stride is None:
                        lets, read = self._direct(size, here, lambda q: Load(origin, local + q))
                    else:
                        lets, read = self._direct(size, here, lambda q: what.a_row(here.batch, unravel(at_row + q, what.m)))
                    micro = _Micro(self, size, at_row, read, panel0, here, slot_row, wide)
                    return [*lets, *micro.tile(index, 1, limit)]

                copy = [] if wide is None else self._widen(wide, panel0, here, index)
                return [*copy, For(number, count, tuple(self._tile(group_index * group + number, run)))]

            panel0, p = names.var("panels"), names.var("p")
            copy = [] if stage is None else [self._copy(stage, rows, first, here)]
            return [
                *copy,
                Let(panel0, what.b_panel(place.batch)),
                For(p, panels, tuple(panel(p, None))),
                *self._last(place, panels, panel),
            ]

        return [*statements, *loops(names, self.outer, chunk)]

    def panel_size(self, steps: int) -> Dim:
        """Elements of a panel whose rows are for so many steps of k."""
        return floordiv(self.depth, steps) * self.tile.width

    def panel_offset(self, place: _Task, panel: Expr, steps: int) -> Expr:
        """Where the chunk of a panel of the block starts, in elements from the batch's first panel; steps: of k that a row is for."""
        chunk = linear(place.chunk, [floordiv(d, steps) for d in strides_of(self.what.k)[: len(self.outer)]])
        whole = size_expr(self.panel_size(steps))
        return (place.block_index * size_expr(place.block) + panel) * whole + chunk * self.tile.width

    def second(self, panel0: Expr, place: _Task, panel: Expr) -> tuple[list[Stmt], Expr, Second]:
        """The second operand from a panel of the block on: statements before the sum, where the panel starts, and its elements.

        Those of blocks are computed from panels of integers, scales and zero points as the body says.
        """
        start = self.names.var("b")
        lets: list[Stmt] = [Let(start, panel0 + self.panel_offset(place, panel, self.steps))]
        if not self.scales:
            return lets, start, in_panels(self.panels, start, size_expr(self.panel_size(1)), self.tile.width, self.inner)
        sources = [(self.what.packed, self.panels, start, self.steps)]
        for v, (buffer, block) in self.scales.items():
            at = self.names.var("s")
            lets.append(Let(at, self.panel_offset(place, panel, block)))
            sources.append((v, buffer, at, block))
        matrix, strides = self.node.inputs[1], strides_of(self.inner)

        def element(at_k: tuple[Expr, ...], in_panel: int, column: int, lane: Expr) -> Expr:
            def read(buffer: Buf, start: Expr, steps: int) -> Bound:
                rows = [(k, floordiv(d, steps)) for k, d in zip(at_k, strides, strict=True) if d % steps == 0]
                row = linear([k for k, _ in rows], [d for _, d in rows])
                at = start + row * self.tile.width + size_expr(self.panel_size(steps)) * in_panel + column + lane
                return lambda index, mask, other: Load(buffer, at)

            bound = {v: read(buffer, begin, steps) for v, buffer, begin, steps in sources}
            return Access(bound).at(matrix, (at_k[-1], const(0)))  # panels are bound to this step: of the index counts which nibble

        return lets, start, element

    def _widen(self, wide: Buf, panel0: Expr, place: _Task, panel: Expr) -> list[Stmt]:
        """Copy a chunk of a panel into scratch memory as the dtype of the sums."""
        lets, _, second = self.second(panel0, place, panel)
        u, v, lanes = self.names.var("u"), self.names.var("v"), self.tile.lanes
        strides = strides_of(self.inner)

        def copy(at_k: tuple[Expr, ...]) -> Stmt:
            value = LOOPS.cast(second(at_k, 0, 0, u * lanes + v), self.dtype)
            store = Store(wide, linear(at_k, strides) * self.tile.width + u * lanes + v, value)
            return For(u, const(self.tile.vectors), (For(v, const(lanes), (store,), "vector"),), "unroll")

        if self.steps == 1:
            return [*lets, *loops(self.names, self.inner, lambda at_k: [copy(at_k)])]
        return [*lets, *loops(self.names, self.inner[:-1], lambda at_k: [copy((*at_k, const(q))) for q in range(self.steps)])]

    def _panels(self, place: _Task) -> Expr:
        """How many whole panels the block has."""
        count: Expr = size_expr(place.block)
        if place.blocks > 1:
            count = binary("min", count, size_expr(place.full) - place.block_index * size_expr(place.block))
        return count

    def _last(self, place: _Task, panels: Expr, panel: Callable[[Expr, Expr | None], list[Stmt]]) -> list[Stmt]:
        """The panel that is not whole, if there is one: the last block has it."""
        left = size_expr(self.what.n) % size_expr(self.tile.width)
        if isinstance(left, Const) and left.value == 0:
            return []
        mine = place.block_index + 1 >= size_expr(place.blocks)
        return [If(mine if isinstance(left, Const) else mine & (const(0) < left), tuple(panel(panels, left)))]

    def _tile(self, index: Expr, run: Callable[[int, Expr, Expr], list[Stmt]]) -> list[Stmt]:
        """`run(rows, first row, its place in the tile)` for tile `index`: a whole one, or the rows left.

        These are a tile of their own where their number is known, else tiles of 8, 4, 2 and 1.
        """
        rows, total, names = self.tile.rows, self.total, self.names
        first, rest = names.var("m"), names.var("left")
        begin = [Let(first, index * rows), Let(rest, size_expr(total) - first)]
        whole = run(rows, first, const(0))
        if rows == 1 or (isinstance(total, int) and total % rows == 0):
            return [*begin, *whole]
        pieces: list[Stmt] = []
        if isinstance(total, int):
            pieces = run(total % rows, first, const(0))
            if total < rows:
                return [*begin, *pieces]
            return [*begin, If(rest >= rows, tuple(whole), tuple(pieces))]
        size = 1 << (rows - 1).bit_length() - 1
        while size:
            start = names.var("m")
            piece = run(size, start, start - first)
            pieces.append(If(const(0) < (rest // size) % 2, (Let(start, first + (rest - rest % (2 * size))), *piece)))
            size //= 2
        return [*begin, If(rest >= rows, tuple(whole), tuple(pieces))]

    def _rows(self, rows: int, first: Expr, place: _Task) -> list[Stmt]:
        """All panels of the block for `rows` rows from `first`."""
        what, names, tile = self.what, self.names, self.tile
        statements: list[Stmt] = []
        matrices = self.matrices
        if matrices is not None and rows != sum(m.rows for m in matrices.a):
            matrices = self._registers(rows)
        if self.staged:
            read = self._stage(rows)
            statements += [Alloc(read.buffer), self._copy(read, const(rows), first, place)]
        else:
            lets, read = self._direct(rows, place, lambda q: what.a_row(place.batch, unravel(first + q, what.m)))
            statements += lets
        panel0, panels = names.var("panels"), names.var("count")
        statements += [Let(panel0, what.b_panel(place.batch)), Let(panels, self._panels(place))]
        micro = _Micro(self, rows, first, read, panel0, place, const(0), matrices=matrices)
        group = FEW_ROWS_SUMS // (rows * tile.vectors) if matrices is None else 1  # a tile of few rows takes several panels at once
        if self.scales:  # which stay in registers for a block, as words do for eight steps
            group = min(group, self.registers // ((rows + 2) * tile.vectors))
        done: Expr = const(0)
        for size in (group, 1) if group > 1 else (1,):
            groups = (panels - done) // size
            p = names.var("p")
            statements.append(For(p, groups, tuple(micro.tile(done + p * size, size, None))))
            done = groups * size
        statements += self._last(place, panels, lambda p, left: micro.tile(p, 1, left))
        return statements if matrices is self.matrices or matrices is None else [Matrices(matrices.registers, tuple(statements))]

    def _direct(self, rows: int, place: _Task, start: Callable[[int], Expr]) -> tuple[list[Stmt], _Rows]:
        """Rows read where they lie: each has a pointer, or one where they are evenly spaced."""
        what, names = self.what, self.names
        assert self.direct is not None
        chunk = linear(place.chunk, what.a_strides[: len(self.outer)])
        moves = what.a_strides[len(self.outer) :]
        stride = what.row_stride
        pointers = [names.var("row") for _ in range(1 if stride is not None else rows)]
        lets: list[Stmt] = [Let(pointer, start(q) + chunk) for q, pointer in enumerate(pointers)]
        if stride is not None:
            return lets, _Rows(self.direct, lambda q: pointers[0] + size_expr(stride * q), moves, stride)
        return lets, _Rows(self.direct, lambda q: pointers[q], moves, None)

    def _stage(self, rows: int) -> _Rows:
        """Scratch memory for `rows` rows of the innermost loops over k, spaced so that they do not collide in the cache."""
        wide = self.dtype if self.dtype.is_float else self.what.a.dtype
        moves = [d * self.what.products for d in strides_of(self.inner)]
        line = LINE_BYTES // wide.itemsize
        stride = ceildiv(dim_product(self.inner) * self.what.products, line) * line + line
        buffer = Buf(self.names.var("stage").name, wide, "local", stride * rows)
        return _Rows(buffer, lambda q: size_expr(stride * q), moves, stride)

    def _copy(self, stage: _Rows, rows: Expr, first: Expr, place: _Task) -> Stmt:
        """Copy (or compute) rows into scratch memory."""
        what, names = self.what, self.names
        r = names.var("r")
        m = unravel(first + r, what.m)
        stride = stage.start(1)
        direct = self.direct if self.matrices is not None else None  # bytes that lie in memory as they are copied
        start = names.var("row")

        def copy(outer: tuple[Expr, ...]) -> list[Stmt]:
            def element(offset: Expr, lane: Expr) -> Sequence[Stmt]:
                k = (*outer, offset + lane)
                if direct is not None:
                    value: Expr = Load(direct, start + linear(k, (*what.a_strides[:-1], 1)))
                else:
                    value = self.reads.at(what.a, what.a_index(place.batch, m, (*place.chunk, *k)))
                at = r * stride + linear(k, (*stage.moves[:-1], 1))
                return [Store(stage.buffer, at, LOOPS.cast(value, stage.buffer.dtype))]

            return spread(names, self.inner[-1] * what.products, 16 if direct is None else LINE_BYTES, element)

        begin = [] if direct is None else [Let(start, what.a_row(place.batch, m))]
        return For(r, rows, (*begin, *loops(names, self.inner[:-1], copy)))


def _shifted(stage: _Rows, rows: Expr) -> tuple[list[Stmt], _Rows]:
    """The rows from row `rows` on."""
    return [], replace(stage, start=lambda q: (rows + q) * stage.start(1))


@dataclass(frozen=True)
class _Micro:
    """The register tile of `rows` rows from `first`: where its operands lie, and the loops of one tile.

    slot_row: where among the sums of a whole tile theirs start; wide: a copy of the panel's chunk to be read in its place; matrices:
    the registers that sum instead.
    """

    plan: _Contract
    rows: int
    first: Expr
    read: _Rows
    panel0: Expr
    place: _Task
    slot_row: Expr
    wide: Buf | None = None
    matrices: MatrixTile | None = None

    def tile(self, panel: Expr, panels: int, limit: Expr | None) -> list[Stmt]:
        """Sum over k for `panels` panels from `panel` of the block, then save the sums or run the epilogue and store.

        limit: how many columns of the panel there are, None for all.
        """
        plan, place, rows = self.plan, self.place, self.rows
        names, tile = plan.names, plan.tile
        vectors = tile.vectors * panels
        if isinstance(limit, Const):
            vectors = -(-int(limit.value) // tile.lanes)
        if self.wide is None:
            lets, start, second = plan.second(self.panel0, place, panel)
        else:
            start = names.var("b")
            lets: list[Stmt] = [Let(start, self.panel0 + plan.panel_offset(place, panel, plan.steps))]
            second = in_panels(self.wide, const(0), const(0), tile.width, plan.inner)
        if self.matrices is not None:
            return [*lets, *self._in_matrices(self.matrices, vectors, start, panel, limit)]
        acc = Buf(names.var("acc").name, plan.dtype, "reg", rows * vectors * tile.lanes)
        statements: list[Stmt] = [Alloc(acc), *lets]

        def every(element: Callable[[Expr, Expr], Stmt]) -> tuple[Stmt, ...]:
            """`element(sum, saved sum)` for every vector of sums."""
            i, j, lane = names.var("i"), names.var("j"), names.var("v")
            at = (i * vectors + j) * tile.lanes + lane
            row = (panel * GROUP + place.tile) * tile.rows + self.slot_row + i
            slot = (row * tile.vectors + j) * tile.lanes + lane
            vector = For(lane, const(tile.lanes), (element(at, slot),), "vector")
            return (For(i, const(rows), (For(j, const(vectors), (vector,), "unroll"),), "unroll"),)

        ahead, hints = self._ahead(start, panel, panels)
        i, width = names.var("i"), vectors * tile.lanes
        begin = plan.ending.begin(names, acc, i * width, vectors, tile.lanes, lambda c: self._column(panel, c), limit)
        first = (For(i, const(rows), tuple(begin), "unroll"),)
        sums = self._sum(acc, vectors, second, hints)
        i = names.var("i")
        stores = self._store(acc, i * (vectors * tile.lanes), i, vectors, panel, limit)
        result = (For(i, const(rows), tuple(stores), "unroll"),)
        saved = place.sums
        if saved is None:
            return [*statements, *first, *ahead, *sums, *result]
        load = every(lambda at, slot: Store(acc, at, Load(saved, slot)))
        save = every(lambda at, slot: Store(saved, slot, Load(acc, at)))
        return [*statements, If(place.first_chunk, first, load), *ahead, *sums, If(place.last_chunk, result, save)]

    def _in_matrices(self, matrices: MatrixTile, vectors: int, start: Expr, panel: Expr, limit: Expr | None) -> list[Stmt]:
        """The same in matrix registers, from which the epilogue gets its sums a row at a time, through memory."""
        plan, read, names, lanes = self.plan, self.read, self.plan.names, self.plan.tile.lanes
        assert read.stride is not None
        sums = Buf(names.var("sums").name, plan.dtype, "local", self.rows * vectors * lanes)
        ahead, hints = self._ahead(start, panel, 1)
        multiply = multiply_matrices(
            names, matrices, sums, vectors, read.buffer, read.start, read.stride, read.moves, plan.panels, start, plan.tile.width,
            plan.inner, hints,
        )  # fmt: skip
        acc = Buf(names.var("acc").name, plan.dtype, "reg", vectors * lanes)
        i, j, lane = names.var("i"), names.var("j"), names.var("v")
        at = j * lanes + lane
        add = Store(acc, at, Load(acc, at) + Load(sums, i * (vectors * lanes) + at))
        row = [
            Alloc(acc),
            *plan.ending.begin(names, acc, const(0), vectors, lanes, lambda c: self._column(panel, c), limit),
            For(j, const(vectors), (For(lane, const(lanes), (add,), "vector"),), "unroll"),
            *self._store(acc, const(0), i, vectors, panel, limit),
        ]
        return [Alloc(sums), *ahead, *multiply, For(i, const(self.rows), tuple(row))]

    def _sum(self, acc: Buf, vectors: int, second: Second, hints: Callable[[Expr, int], list[Stmt]]) -> list[Stmt]:
        """The loops over k."""
        plan, read = self.plan, self.read
        unroll = steps_in_a_row(self.rows, plan.tile)
        rows = [read.start(q) for q in range(self.rows)]
        return multiply_add(
            plan.names, acc, plan.tile, vectors, read.buffer, rows, read.moves, second, plan.inner, unroll,
            lambda k: hints(k, max(unroll, plan.steps)),
        )  # fmt: skip

    def _ahead(self, start: Expr, panel: Expr, panels: int) -> tuple[list[Stmt], Callable[[Expr, int], list[Stmt]]]:
        """Hints for what is read of the panels after this: every tile asks for its share, so that it is in the second-level cache by
        then.  What is read once is asked for a little ahead.  The result: statements before the sum, and the hints of `unroll` steps
        from k.
        """
        plan, place = self.plan, self.place
        tile, item, depth = plan.tile, plan.what.packed.dtype.itemsize, dim_product(plan.inner)
        begin = plan.names.var("next")

        def lines(steps: int) -> int:
            return steps * tile.width * item // (LINE_BYTES * plan.steps)  # that so many steps of k read of a panel

        if plan.streamed:
            size = size_expr(plan.panel_size(plan.steps))

            def near(k: Expr, unroll: int) -> list[Stmt]:
                at = begin + k // plan.steps * tile.width
                count = -(-(unroll // plan.steps * tile.width * item) // LINE_BYTES)
                places = [(p, q) for p in range(panels) for q in range(count)]
                return [Prefetch(plan.panels, at + size * p + q * (LINE_BYTES // item), True) for p, q in places]

            return [Let(begin, start + NEAR_BYTES // item)], near
        if isinstance(depth, DimExpr) or (place.blocks == 1 and not plan.deep):
            return [], lambda k, unroll: []
        tiles = -(-expected_rows(plan.total) // tile.rows)
        if plan.deep:  # the next panel, then the first panel of the next chunk, then the next block
            tiles = min(tiles, GROUP)
            whole, part = size_expr(plan.panel_size(plan.steps)), const(depth // plan.steps * tile.width)
            count = plan._panels(place)
            after = LOOPS.where(place.last_chunk, part, part - (count - 1) * whole)
            distance = LOOPS.where(panel + 1 < count, whole, after)
        else:
            distance = size_expr(place.block * (depth // plan.steps) * tile.width)

        def hints(k: Expr, unroll: int) -> list[Stmt]:
            needed = lines(unroll)
            mine = -(-needed // tiles)
            if mine > MOST_LINES:
                return []
            share = binary("min", place.tile, const(-(-needed // mine)))
            line = (share * (depth // unroll) + k // unroll) * mine
            return [Prefetch(plan.panels, begin + (line + q) * (LINE_BYTES // item)) for q in range(mine)]

        return [Let(begin, start + distance)], hints

    def _column(self, panel: Expr, within: Expr) -> Expr:
        """Of the result, by column of the tile."""
        plan, place = self.plan, self.place
        return plan.what.column(place.batch, (place.block_index * size_expr(place.block) + panel) * plan.tile.width + within)

    def _store(self, acc: Buf, at: Expr, i: Expr, vectors: int, panel: Expr, limit: Expr | None) -> list[Stmt]:
        """The epilogue on the sums of row i, which begin at acc[at], and the only store."""
        plan, place = self.plan, self.place
        what, shape = plan.what, plan.ending.shape
        row = self.first + i
        if what.out_batch and what.batch:
            row = linear(place.batch, strides_of(what.batch)) * size_expr(dim_product(what.m)) + row

        def index(within: Expr) -> Index:
            return (*unravel(row, shape[:-1]), self._column(panel, within)) if shape else ()

        return plan.ending.store(plan.names, acc, at, vectors, plan.tile.lanes, index, limit)


def _split(k: tuple[Dim, ...], row: int) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """The k loops as those through chunks and those of one chunk, which is worth saving the sums for; `row`: bytes of a step of k."""
    large = [n for n in range(1, len(k)) if least_size(dim_product(k[n:])) * row * 4 >= CHUNK_BYTES]
    at = max(large, default=0)
    return k[:at], k[at:]


def _is_narrow(what: Contraction, dtype: DType) -> bool:
    return dtype.is_float and what.packed.dtype is not dtype


def _parameters(matrix: Value) -> tuple[Value, ...]:
    """The panels of scales and zero points of weights in blocks."""
    nodes = [v.node.inputs[0].node for v in matrix.node.inputs[0].node.inputs[1:] if v.node.op == "reshape"]
    return tuple(n.inputs[0] for n in nodes)


def _blocked(what: Contraction, block: int, steps: int) -> Contraction:
    """The contraction with its innermost k loop split into blocks, and those into the steps of a row of the panels."""
    if not block:
        return what
    sizes = (block,) if steps == 1 else (block // steps, steps)
    strides = [d * what.products for d in strides_of(sizes)]
    inner, stride = what.k[-1], what.a_strides[-1]
    assert isinstance(inner, int)
    whole, last = what.a_index, len(sizes) + 1

    def a_index(batch: Index, m: Index, k: Index) -> Index:
        return whole(batch, m, (*k[:-last], linear(k[-last:], (block * what.products, *strides[:-1], 1))))

    a_strides = (*what.a_strides[:-1], stride * block, *(stride * d for d in strides_of(sizes)))
    return replace(what, k=(*what.k[:-1], inner // block, *sizes), a_strides=a_strides, a_index=a_index)


def _chunked(what: Contraction, dtype: DType, multiple: int) -> Contraction:
    """The contraction with its innermost k loop split where a panel is to be summed in chunks: it is more than a block, or widened.

    multiple: of which the steps of a chunk are one.
    """
    inner, depth, width = what.k[-1], dim_product(what.k), what.packed.shape[-1]
    if not isinstance(inner, int) or not isinstance(depth, int) or not isinstance(width, int):
        return what
    row = width * dtype.itemsize
    if depth * row <= (CHUNK_BYTES if _is_narrow(what, dtype) else BLOCK_BYTES):
        return what
    most = CHUNK_BYTES // row
    size = next((c for c in range(most, most // 4, -1) if inner % c == 0 and c % multiple == 0), inner)
    if size == inner:
        return what
    stride = what.a_strides[-1]
    whole = what.a_index

    def a_index(batch: Index, m: Index, k: Index) -> Index:
        return whole(batch, m, (*k[:-2], k[-2] * (size * what.products) + k[-1]))

    strides = (*what.a_strides[:-1], stride * size, stride)
    return replace(what, k=(*what.k[:-1], inner // size, size), a_strides=strides, a_index=a_index)


def ceil_expr(e: Expr, by: Scalar) -> Expr:
    """e / by rounded up."""
    return (e + (by - 1)) // by
