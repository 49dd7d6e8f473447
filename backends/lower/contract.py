"""The `contract` template: every matmul and convolution, one explicit register tile.

A tile of `rows` x `width` sums in registers over k, in order of k, one chain per element: results do not depend on the tile, the
blocking, the threads or the position in the batch.  The first operand's rows are walked where they lie (a padded channels-last image
needs no im2col: each row of the tile has its own pointer) or staged row by row into scratch memory when a fused prologue computes
them or when they would collide in the cache.  The second operand is packed in panels of `width` columns (`ir/ops/packing.py`).

A task is a block of panels for one tile, or, where k is deep, for a group of tiles: then k runs in chunks that the caches hold, and
the sums of every tile wait in scratch memory between chunks.  The epilogue runs on the tile before the only store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...ir.dims import Dim, DimExpr, ceildiv, dim_product, evaluate_dim, symbols_of
from ...ir.graph import Graph, Node, Value
from ...ir.loops import (
    Alloc,
    Buf,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopFunction,
    Names,
    Prefetch,
    Scalar,
    Stmt,
    Store,
    Var,
    binary,
    size_expr,
)
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import bool_
from ..target import Target
from .access import Access, Index, in_memory, linear, strides_of, unravel
from .contraction import Contraction, Tile, contraction, contraction_of, epilogue, tile_for
from .kernel import Params, access, const, function, loops, parameters, spread
from .micro import Hints, multiply_add

BLOCK_BYTES = 1 << 19  # of packed panels that one sweep over the rows reads: with the next, they fit the second-level cache
UNROLL_K = 8  # steps of k that a whole tile takes in a row, a tile of fewer rows half of them
DEEP = 4096  # sums from here on are computed in chunks of k,
DEEP_STAGED = 1024  # and from here on where rows are staged: a staged row then fits the first-level cache
CHUNK = 256  # at most, and a divisor of the innermost k loop
GROUP = 8  # tiles that share a chunk of panels
TASKS = 8  # that a kernel has at least, if it can, so that some threads find enough to even out
STAGED_PANELS = 4  # a row that is staged should be multiplied by at least so many panels: fewer took up to 1.4 times as long
FEW_ROWS_SUMS = 8  # vectors of sums that hide the latency of a multiply-add
LINE_BYTES = 64
MOST_LINES = 4  # asked for in advance in one group of steps: more would crowd out the loads that are needed now
ALIAS_BYTES = 4096  # rows this far apart share one set of the first-level cache


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


class _Contract:
    def __init__(self, body: Graph, node: Node, target: Target, names: Names, params: Params):
        self.body, self.node, self.names, self.params = body, node, names, params
        self.what = what = _chunked(contraction(node))
        self.dtype = compute_dtype(node.types[0].dtype)
        width = what.packed.shape[-1]
        assert isinstance(width, int)
        lanes = target.lanes(max(32, self.dtype.bits))
        self.tile = Tile(tile_for(target, self.dtype, width).rows, -(-width // lanes) * lanes, lanes)
        self.reads = access(body, params)
        buffers = dict(zip(body.inputs, params.inputs, strict=True))
        self.panels = buffers[what.packed]
        self.direct = buffers.get(what.a)
        self.depth = dim_product(what.k)
        self.flat, self.start = epilogue(body, node)
        operands = dict(zip(body.input_names, body.inputs, strict=True))
        self.bound = {v: buffers[operands[v.node.attrs["name"]]] for v in self.flat.inputs[:-1]}
        aliased = isinstance(what.row_stride, int) and what.row_stride * what.a.dtype.itemsize % ALIAS_BYTES == 0
        wide = not isinstance(what.n, int) or what.n >= 4 * self.tile.width
        narrow = what.a.dtype.is_float and what.a.dtype is not self.dtype  # widened once, as they are staged
        self.staged = self.direct is None or narrow or (aliased and wide)
        from_depth = DEEP_STAGED if self.staged else DEEP
        self.deep = isinstance(self.depth, int) and self.depth >= from_depth and len(what.k) > 1
        self.inner: tuple[Dim, ...] = what.k[-1:] if self.deep else what.k  # summed without leaving the registers
        self.outer = what.k[: len(what.k) - len(self.inner)]

    def statements(self) -> list[Stmt]:
        what, tile, names = self.what, self.tile, self.names
        total = dim_product(what.m)
        full = what.n // tile.width  # whole panels
        block, blocks = self._blocks(full, total)
        most = GROUP if self.deep else 1
        groups = ceildiv(total, tile.rows * most)
        task = names.var("t")
        *batch_index, block_index, group_index = unravel(task, (*what.batch, blocks, groups))
        batch = tuple(batch_index)
        rows = binary("min", const(tile.rows * most), size_expr(total))
        columns = (max(1, block) if isinstance(block, int) else full + 1) * tile.width
        # some 80 multiply-adds take a nanosecond, or 20 bytes of panels where they are read for a few rows only
        cost = size_expr(self.depth * columns) * binary("max", rows, const(4 * what.packed.dtype.itemsize)) // 8
        tasks = size_expr(dim_product((*what.batch, blocks, groups)))

        def tiles(at: Expr, number: Expr, chunk: tuple[Expr, ...], sums: Buf | None) -> list[Stmt]:
            first, rest = names.var("m"), names.var("left")
            position = linear(chunk, strides_of(self.outer))
            last = position >= const(evaluate_dim(dim_product(self.outer), {}) - 1) if chunk else Const(True, bool_)
            start = position < 1 if chunk else Const(True, bool_)
            place = _Task(batch, block_index, blocks, block, full, number, chunk, start, last, sums)
            return [Let(first, at * tile.rows), Let(rest, size_expr(total) - first), *self._tiles(total, first, rest, place)]

        if not self.deep:
            return [For(task, tasks, tuple(tiles(group_index, group_index, (), None)), "parallel", cost=cost)]
        sums = Buf(names.var("sums").name, self.dtype, "local", (block + 1) * (tile.rows * tile.width * most))
        number, group = names.var("g"), names.var("group")
        tile_count = ceil_expr(size_expr(total), tile.rows)
        even = ceil_expr(tile_count, size_expr(groups))  # tiles in a group: no group is left with a few
        count = binary("min", group, tile_count - group_index * group)
        body = loops(
            names, self.outer, lambda chunk: [For(number, count, tuple(tiles(group_index * group + number, number, chunk, sums)))]
        )
        return [For(task, tasks, (Alloc(sums), Let(group, even), *body), "parallel", cost=cost)]

    def _blocks(self, full: Dim, total: Dim) -> tuple[Dim, int]:
        """Panels in a block, and how many blocks there are: what one sweep over the rows reads should stay in the cache."""
        panel = dim_product(self.inner) * self.tile.width * self.what.packed.dtype.itemsize
        if not (isinstance(panel, int) and isinstance(full, int) and full):
            return full, 1
        block = min(full, max(1, BLOCK_BYTES // max(1, panel)))
        rows, batch = (max(1, evaluate_dim(d, dict.fromkeys(symbols_of(d), 1))) for d in (total, dim_product(self.what.batch)))
        groups = batch * -(-rows // (self.tile.rows * (GROUP if self.deep else 1)))  # with the least sizes: a batch of one
        at_once = max(1, FEW_ROWS_SUMS // (min(rows, self.tile.rows) * self.tile.vectors))
        least = max(at_once, STAGED_PANELS) if self.staged else at_once
        block = min(block, max(least, -(-full * groups // TASKS)))  # where rows are few, threads share the panels
        return block, -(-full // block)

    def _tiles(self, total: Dim, first: Var, rest: Var, place: _Task) -> list[Stmt]:
        """A whole tile, or the rows that are left as tiles of 8, 4, 2 and 1."""
        rows = self.tile.rows
        whole = self._rows(rows, first, place, const(0))
        if isinstance(total, int) and total % rows == 0:
            return whole
        pieces: list[Stmt] = []
        size = 1 << (rows - 1).bit_length() - 1
        known = total % rows if isinstance(total, int) else None
        while size:
            if known is None or known & size:
                start = self.names.var("m")
                at = first + (rest - rest % (2 * size)) if known is None else first + (known - known % (2 * size))
                tile = (Let(start, at), *self._rows(size, start, place, start - first))
                pieces += [If(const(0) < (rest // size) % 2, tile)] if known is None else tile
            size //= 2
        if isinstance(total, int) and total < rows:
            return pieces
        return [If(rest >= rows, tuple(whole), tuple(pieces))]

    def _rows(self, rows: int, first: Var, place: _Task, slot_row: Expr) -> list[Stmt]:
        """All panels of the block for `rows` rows from `first`; `slot_row`: where among the tile's saved sums theirs start."""
        what, names, tile = self.what, self.names, self.tile
        statements: list[Stmt] = []
        if self.staged:
            buffer, base, moves = self._stage(statements, rows, first, place)
        else:
            assert self.direct is not None
            buffer, moves, base = self.direct, what.a_strides[len(self.outer) :], []
            chunk = linear(place.chunk, what.a_strides[: len(self.outer)])
            for q in range(rows):
                if what.row_stride is not None and q:
                    base.append(base[0] + size_expr(what.row_stride * q))
                    continue
                pointer = names.var("row")
                statements.append(Let(pointer, what.a_row(place.batch, unravel(first + q, what.m)) + chunk))
                base.append(pointer)
        panel0 = names.var("panels")
        statements.append(Let(panel0, what.b_panel(place.batch)))
        count: Expr = size_expr(place.block)
        if place.blocks > 1:
            count = binary("min", count, size_expr(place.full) - place.block_index * size_expr(place.block))
        micro = _Micro(self, rows, first, buffer, base, moves, panel0, place, slot_row)
        group = max(1, FEW_ROWS_SUMS // (rows * tile.vectors))  # a tile of few rows takes several panels at once
        done: Expr = const(0)
        for size in (group, 1) if group > 1 else (1,):
            groups = (count - done) // size
            if isinstance(groups, Const) and groups.value == 0:
                continue
            p = names.var("p")
            statements.append(For(p, groups, tuple(micro.tile(done + p * size, size, None))))
            done = groups * size
        left = size_expr(what.n) % size_expr(tile.width)
        if not (isinstance(left, Const) and left.value == 0):
            mine = place.block_index + 1 >= size_expr(place.blocks)
            tail = micro.tile(size_expr(place.full) - place.block_index * size_expr(place.block), 1, left)
            statements.append(If(mine if isinstance(left, Const) else mine & (const(0) < left), tuple(tail)))
        return statements

    def _stage(self, statements: list[Stmt], rows: int, first: Expr, place: _Task) -> tuple[Buf, list[Expr], list[Dim]]:
        """Copy (or compute) the tile's rows into scratch memory, spaced so that they do not collide in the cache.

        Returns the buffer, where each row starts, and how the k loops move along a row.
        """
        what, names = self.what, self.names
        stride = ceildiv(dim_product(self.inner), 16) * 16 + 16
        wide = self.dtype if self.dtype.is_float else what.a.dtype
        buffer = Buf(names.var("stage").name, wide, "local", stride * rows)
        r = names.var("r")
        m = unravel(first + r, what.m)
        moves = strides_of(self.inner)

        def copy(outer: tuple[Expr, ...]) -> list[Stmt]:
            def element(offset: Expr, lane: Expr) -> Sequence[Stmt]:
                k = (*outer, offset + lane)
                value = self.reads.at(what.a, what.a_index(place.batch, m, (*place.chunk, *k)))
                return [Store(buffer, r * size_expr(stride) + linear(k, moves), LOOPS.cast(value, wide))]

            return spread(names, self.inner[-1], 16, element)

        statements.append(Alloc(buffer))
        statements.append(For(r, const(rows), tuple(loops(names, self.inner[:-1], copy))))
        return buffer, [const(q) * size_expr(stride) for q in range(rows)], moves


@dataclass(frozen=True)
class _Micro:
    """The register tile of `rows` rows from `first`: where its operands lie, and the loops of one tile."""

    plan: _Contract
    rows: int
    first: Expr
    buffer: Buf
    base: Sequence[Expr]
    moves: Sequence[Dim]
    panel0: Expr
    place: _Task
    slot_row: Expr

    def tile(self, panel: Expr, panels: int, limit: Expr | None) -> list[Stmt]:
        """Sum over k for `panels` panels from `panel` of the block, then save the sums or run the epilogue and store.

        limit: how many columns of the panel there are, None for all.
        """
        plan, place, rows = self.plan, self.place, self.rows
        what, names, tile = plan.what, plan.names, plan.tile
        vectors = tile.vectors * panels
        if isinstance(limit, Const):
            vectors = -(-int(limit.value) // tile.lanes)
        acc = Buf(names.var("acc").name, plan.dtype, "reg", rows * vectors * tile.lanes)
        start, chunk = names.var("b"), linear(place.chunk, strides_of(what.k)[: len(plan.outer)])
        column = self.panel0 + (place.block_index * size_expr(place.block) + panel) * size_expr(plan.depth * tile.width)
        statements: list[Stmt] = [Alloc(acc), Let(start, column + chunk * tile.width)]

        def every(element: Callable[[Expr, Expr], Stmt]) -> tuple[Stmt, ...]:
            """`element(sum, saved sum)` for every vector of sums."""
            i, j, lane = names.var("i"), names.var("j"), names.var("v")
            at = (i * vectors + j) * tile.lanes + lane
            row = (place.tile * (size_expr(place.block) + 1) + panel + j // tile.vectors) * tile.rows + self.slot_row + i
            slot = (row * tile.vectors + j % tile.vectors) * tile.lanes + lane
            vector = For(lane, const(tile.lanes), (element(at, slot),), "vector")
            return (For(i, const(rows), (For(j, const(vectors), (vector,), "unroll"),), "unroll"),)

        zero = every(lambda at, slot: Store(acc, at, Const(0, plan.dtype)))
        result = tuple(self._store(acc, vectors, panel, limit))
        sums = place.sums
        if sums is None:
            return [*statements, *zero, *self._sum(acc, vectors, start), *result]
        load = every(lambda at, slot: Store(acc, at, Load(sums, slot)))
        save = every(lambda at, slot: Store(sums, slot, Load(acc, at)))
        begin = If(place.first_chunk, zero, load)
        return [*statements, begin, *self._sum(acc, vectors, start), If(place.last_chunk, result, save)]

    def _sum(self, acc: Buf, vectors: int, start: Expr) -> list[Stmt]:
        """The loops over k."""
        plan, unroll = self.plan, UNROLL_K if self.rows == self.plan.tile.rows else UNROLL_K // 2
        panel_size, ahead = size_expr(plan.depth * plan.tile.width), self._ahead(start, unroll)
        return multiply_add(
            plan.names, acc, plan.tile, vectors, self.buffer, self.base, self.moves, plan.panels, start, panel_size, plan.inner,
            unroll, ahead,
        )  # fmt: skip

    def _ahead(self, start: Expr, unroll: int) -> Hints:
        """Hints for what the next sweep over the rows reads of the panels: every tile asks for its share, so that the sweep finds
        them in the second-level cache.  The result gives the hints of `unroll` steps from k.
        """
        plan, place = self.plan, self.place
        tile, item = plan.tile, plan.what.packed.dtype.itemsize
        depth = dim_product(plan.inner)
        chunks = dim_product(plan.outer)
        if isinstance(depth, DimExpr) or isinstance(chunks, DimExpr) or (place.blocks == 1 and chunks == 1):
            return lambda k: []
        total = dim_product(plan.what.m)
        rows = evaluate_dim(total, dict.fromkeys(symbols_of(total), 1))  # with the least sizes: a batch of one
        tiles = max(1, -(-rows // tile.rows))
        needed = unroll * tile.width * item // LINE_BYTES  # lines that `unroll` steps read
        lines = -(-needed // min(tiles, GROUP if plan.deep else tiles))
        if lines > MOST_LINES:
            return lambda k: []
        share = binary("min", place.tile, const(-(-needed // lines)))
        size = const(depth * tile.width)
        block = (size_expr(place.block) * chunks - (chunks - 1)) * size  # from the last chunk to the next block's first
        distance = block if chunks == 1 else LOOPS.where(place.last_chunk, block, size)
        begin = start + distance

        def hints(k: Expr) -> list[Stmt]:
            line = (share * (depth // unroll) + k // unroll) * lines
            return [Prefetch(plan.panels, begin + (line + q) * (LINE_BYTES // item)) for q in range(lines)]

        return hints

    def _store(self, acc: Buf, vectors: int, panel: Expr, limit: Expr | None) -> list[Stmt]:
        """The epilogue on the sums, and the only store."""
        plan, place = self.plan, self.place
        what, names, tile, flat = plan.what, plan.names, plan.tile, plan.flat
        width = vectors * tile.lanes
        i, j, lane = names.var("i"), names.var("j"), names.var("v")
        sum_dtype = plan.node.types[0].dtype

        def read_sum(index: Index, mask: Expr | None, other: object) -> Expr:
            return LOOPS.cast(Load(acc, i * width + j * tile.lanes + lane), sum_dtype)

        bound = {v: in_memory(b, v.shape) for v, b in plan.bound.items()}
        reads = Access({**bound, plan.start: read_sum})
        shape = plan.start.shape
        row = self.first + i
        if what.out_batch and what.batch:
            row = linear(place.batch, strides_of(what.batch)) * size_expr(dim_product(what.m)) + row
        first_column = (place.block_index * size_expr(place.block) + panel) * tile.width
        column = what.column(place.batch, first_column + j * tile.lanes + lane)
        index = (*unravel(row, shape[:-1]), column) if shape else ()
        outputs: list[tuple[Value, Buf]] = list(zip(flat.outputs, plan.params.outputs, strict=True))
        stores = tuple(Store(b, linear(index, strides_of(shape)), reads.at(v, index)) for v, b in outputs)
        live = None if limit is None else limit - j * tile.lanes
        if isinstance(limit, Const) and int(limit.value) == width:
            live = None
        vector = For(lane, const(tile.lanes), stores, "vector", limit=live)
        return [For(i, const(self.rows), (For(j, const(vectors), (vector,), "unroll"),), "unroll")]


def _chunked(what: Contraction) -> Contraction:
    """The contraction with a deep innermost k loop split, so that chunks of k can be summed one after another."""
    inner = what.k[-1]
    total = dim_product(what.k)
    if not isinstance(inner, int) or inner <= CHUNK or not isinstance(total, int) or total < DEEP_STAGED:
        return what
    size = next((c for c in range(CHUNK, CHUNK // 4, -1) if inner % c == 0), inner)
    if size == inner:
        return what
    stride = what.a_strides[-1]
    whole = what.a_index

    def a_index(batch: Index, m: Index, k: Index) -> Index:
        return whole(batch, m, (*k[:-2], k[-2] * size + k[-1]))

    strides = (*what.a_strides[:-1], stride * size, stride)
    return replace(what, k=(*what.k[:-1], inner // size, size), a_strides=strides, a_index=a_index)


def ceil_expr(e: Expr, by: Scalar) -> Expr:
    """e / by rounded up."""
    return (e + (by - 1)) // by
