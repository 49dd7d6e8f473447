"""The `attention` template: two products with a softmax between them, and no matrix of scores in memory.

    scores = epilogue(q k^T)        weights = softmax(scores)        result = epilogue(weights v)

A task has a group of query rows of one batch.  Their scores lie in scratch memory, in the second-level cache: the first product writes
them there, panel after panel of k^T, each row becomes weights in place by the stages of `row`, and the second product reads them from
there.  Memory is so for some rows of scores a thread instead of for all of them.  Threads share batches, heads and groups of rows: a
few queries of one head are one task, however many keys they meet.

All three are what the kernels `contract`, `row` and `contract` would compute, by the same micro-kernel and in the same order, so fusing
changes no bit; that is why a row of scores is kept whole rather than rescaled as its maximum grows.  No row is too long to be fused:
where those of one register tile are larger than the second-level cache, they come from the next one, and unfused they would go to
memory with the rows of all other tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, ceildiv, dim_max, dim_min, dim_product, floordiv
from ...ir.graph import Graph, Node, Value
from ...ir.loops import Alloc, Buf, Const, Expr, For, If, Let, Load, LoopFunction, Names, Scalar, Stmt, Store, binary, size_expr
from ...ir.ops.registry import apply, op_def
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import DType
from ..target import Target
from .access import Access, Bound, Index, in_memory, linear, strides_of, unravel
from .contract import CHUNK_BYTES, FEW_ROWS_SUMS
from .contraction import Contraction, Tile, contraction, section, tile_for
from .kernel import const, function, parameters, spread
from .micro import UNROLL_K, in_panels, multiply_add, steps_in_a_row
from .row import row_in_scratch, row_shape

GROUP_ROWS = 48  # of a task at most: enough for each read of a panel, and heads make enough tasks; 24 to 96 took the same time
GROUP_BYTES = 3 << 18  # of scores of a group, which stay in the second-level cache; a third of it took a tenth longer with 4096 keys
ROW_COST = 64  # products of a score with a vector that take as long as its softmax


def is_attention(body: Graph) -> bool:
    """Whether a body has two products, the second of which reads what became of the first."""
    return sum(op_def(n.op).kind == "contraction" for n in body.nodes) == 2


def lower_attention(body: Graph, lanes: int, target: Target) -> LoopFunction:
    """Loops for a body that `fuse` made of two matmuls and the softmax between them; lanes: of the row's partial results."""
    return _Attention(body, lanes, target).lower()


class _Attention:
    def __init__(self, body: Graph, lanes: int, target: Target):
        self.body, self.lanes = body, lanes
        self.names, self.params = Names(), parameters(body)
        self.buffers = dict(zip(body.inputs, self.params.inputs, strict=True))
        self.first, self.second = (n for n in body.nodes if op_def(n.op).kind == "contraction")
        self.dtype = compute_dtype(self.second.types[0].dtype)
        self.scores = _scores(body, self.first)
        self.batch: tuple[Dim, ...] = self.second.types[0].shape[:-2]
        self.count, self.length = self.second.inputs[0].shape[-2:]
        self.tiles = [self._tile_of(n, target) for n in (self.first, self.second)]
        self.stride = ceildiv(self.length, 16) * 16 + 16  # between rows of scores, so that they do not collide in the cache
        self.group = self._group()
        self.rows = dim_min(self.group, dim_max(self.count, 1))  # of scratch memory
        self.scratch = Buf(self.names.var("scores").name, self.dtype, "local", self.rows * self.stride)

    def _tile_of(self, node: Node, target: Target) -> Tile:
        width = contraction(node).packed.shape[-1]
        assert isinstance(width, int)
        return tile_for(node, target, width)

    def _group(self) -> Dim:
        """Rows of a task: a multiple of both tiles' rows, fewer the longer the rows are, and one tile at least."""
        rows = [t.rows for t in self.tiles]
        unit = math.lcm(*rows) if math.lcm(*rows) <= GROUP_ROWS else max(rows)
        units = dim_min(floordiv(GROUP_BYTES, self.stride * (self.dtype.itemsize * unit)), GROUP_ROWS // unit)
        if isinstance(self.count, int) and isinstance(units, int):
            needed = max(1, -(-self.count // unit))
            groups = -(-needed // max(1, units))
            units = min(units, -(-needed // groups))  # no group is left with a few
        return dim_max(units * unit, max(rows))

    def lower(self) -> LoopFunction:
        names = self.names
        task, first, count = names.var("t"), names.var("first"), names.var("rows")
        groups = ceildiv(self.count, self.group)
        *index, number = unravel(task, (*self.batch, groups))
        batch = tuple(names.var("b") for _ in index)
        group = size_expr(self.group)
        statements: list[Stmt] = [
            *(Let(v, i) for v, i in zip(batch, index, strict=True)),
            Let(first, number * group),
            Let(count, binary("min", group, size_expr(self.count) - first)),
            Alloc(self.scratch),
            *self._first_product(batch, first, count),
            *self._softmax(batch, first, count),
            *self._second_product(batch, first, count),
        ]
        columns = self.first.inputs[0].shape[-1] + self.second.types[0].shape[-1] + ROW_COST
        cost = size_expr(self.length * columns) * group // 8  # some 80 multiply-adds take a nanosecond
        tasks = size_expr(dim_product((*self.batch, groups)))
        return function(self.body, self.params, [For(task, tasks, tuple(statements), "parallel", cost=cost)])

    def _counts(self) -> set[int] | None:
        """How many rows a group may have, None where only a run tells."""
        if not (isinstance(self.group, int) and isinstance(self.count, int)):
            return None
        return {min(self.group, self.count)} | ({self.count % self.group} - {0})

    # --- the first product --------------------------------------------------------------------------------------------------

    def _first_product(self, batch: Index, first: Expr, count: Expr) -> list[Stmt]:
        """The scores of the group, with their epilogue."""
        names, what, tile = self.names, contraction(self.first), self.tiles[0]
        at = self._same_rows(batch, self.batch, self.first.types[0].shape[:-2])
        row, panel0 = names.var("row"), names.var("panels")
        query, depth = self.buffers[what.a], what.k[0]
        stride = depth
        statements: list[Stmt] = [Let(panel0, what.b_panel(at)), Let(row, what.a_row(at, (first,)))]
        if query.dtype is not self.dtype:  # widened once, not at each use
            stride = ceildiv(depth, 16) * 16 + 16
            wide = Buf(names.var("wide").name, self.dtype, "local", self.rows * stride)
            statements += [Alloc(wide), self._widen(wide, stride, query, row, depth, count)]
            query, row = wide, const(0)
        reads = {v: in_memory(b, v.shape) for v, b in self.buffers.items()}

        def store(value: Expr, at_row: Expr, column: Expr) -> Stmt:
            source = Access({**reads, self.first.outputs[0]: lambda index, mask, other: value})
            score = source.at(self.scores, (*at, first + at_row, column))
            return Store(self.scratch, at_row * size_expr(self.stride) + column, LOOPS.cast(score, self.dtype))

        product = _Product(
            names, what, tile, self.dtype, self.first.types[0].dtype, self.buffers[what.packed], query, row, stride, self._counts(),
            store, None,
        )  # fmt: skip
        return [*statements, *product.statements(panel0, count)]

    def _widen(self, wide: Buf, stride: Dim, source: Buf, start: Expr, depth: Dim, count: Expr) -> Stmt:
        r = self.names.var("r")

        def copy(offset: Expr, lane: Expr) -> list[Stmt]:
            value = LOOPS.cast(Load(source, start + r * size_expr(depth) + offset + lane), self.dtype)
            return [Store(wide, r * size_expr(stride) + offset + lane, value)]

        return For(r, count, tuple(spread(self.names, depth, 16, copy)))

    # --- the softmax --------------------------------------------------------------------------------------------------------

    def _softmax(self, batch: Index, first: Expr, count: Expr) -> list[Stmt]:
        """Scores become weights in place."""
        names = self.names
        result = self.second.inputs[0]
        while result.node.op == "reshape":
            (result,) = result.node.inputs
        if result.dtype is not self.dtype:
            result = apply("cast", result, to=self.dtype)
        body, scores = section(self.body, self.scores, (result,))
        r, start = names.var("r"), names.var("row")

        def score(index: Index, mask: Expr | None, other: Scalar) -> Expr:
            return LOOPS.cast(Load(self.scratch, start + index[-1]), self.scores.dtype)

        bound: dict[Value, Bound] = {v: in_memory(b, v.shape) for v, b in self.buffers.items()}
        bound[scores] = score
        kept_sizes = row_shape(body).full[:-1]
        kept = self._same_rows((*batch, first + r), (*self.batch, self.count), kept_sizes)
        named = [names.var("i") for _ in kept]
        statements = (
            Let(start, r * size_expr(self.stride)),
            *(Let(v, i) for v, i in zip(named, kept, strict=True)),
            *row_in_scratch(body, names, bound, named, self.lanes, self.scratch, start),
        )
        return [For(r, count, statements)]

    def _same_rows(self, index: Index, shape: Sequence[Dim], other: Sequence[Dim]) -> Index:
        """The index of a row in another shape of the same rows."""
        if tuple(shape) == tuple(other):
            return index
        return unravel(linear(index, strides_of(shape)), other)

    # --- the second product -------------------------------------------------------------------------------------------------

    def _second_product(self, batch: Index, first: Expr, count: Expr) -> list[Stmt]:
        """The results of the group, with their epilogue: the only store outside scratch memory."""
        names, what, tile = self.names, contraction(self.second), self.tiles[1]
        panel0 = names.var("panels")
        (result,), (out,) = self.body.outputs, self.params.outputs
        reads = {v: in_memory(b, v.shape) for v, b in self.buffers.items()}

        def store(value: Expr, at_row: Expr, column: Expr) -> Stmt:
            source = Access({**reads, self.second.outputs[0]: lambda index, mask, other: value})
            index = (*batch, first + at_row, column)
            return Store(out, linear(index, strides_of(result.shape)), source.at(result, index))

        chunk = max(UNROLL_K, CHUNK_BYTES // (tile.width * self.dtype.itemsize) // UNROLL_K * UNROLL_K)
        chunks = None
        if not (isinstance(self.length, int) and self.length <= chunk):
            sums = Buf(names.var("sums").name, self.dtype, "local", self.rows * ceildiv(what.n, tile.width) * tile.width)
            chunks = _Chunks(chunk, self.rows, sums)
        product = _Product(
            names, what, tile, self.dtype, self.second.types[0].dtype, self.buffers[what.packed], self.scratch, const(0), self.stride,
            self._counts(), store, chunks,
        )  # fmt: skip
        return [Let(panel0, what.b_panel(batch)), *product.statements(panel0, count)]


@dataclass(frozen=True)
class _Chunks:
    """A sum in chunks of `size` steps, between which it waits in `sums`, [panels, rows of the group, width]."""

    size: int
    rows: Dim
    sums: Buf


@dataclass(frozen=True)
class _Part:
    """A chunk of a sum: `length` steps from `begin`."""

    chunks: _Chunks
    begin: Expr
    length: Expr
    is_first: Expr
    is_last: Expr


@dataclass(frozen=True)
class _Product:
    """One of the products, for the rows of a group: row r of the first operand starts at `start` + r * `stride` in `a`.

    out: dtype of the results; store(value, row of the group, column): the statement that saves one.  counts: how many rows a group may
    have, None for any.
    """

    names: Names
    what: Contraction
    tile: Tile
    dtype: DType
    out: DType
    panels: Buf
    a: Buf
    start: Expr
    stride: Dim
    counts: set[int] | None
    store: Callable[[Expr, Expr, Expr], Stmt]
    chunks: _Chunks | None

    @property
    def _depth(self) -> Dim:
        return self.what.k[0]

    def statements(self, panel0: Expr, count: Expr) -> list[Stmt]:
        """The results of `count` rows; panel0: where the batch's first panel starts."""
        if self.counts is not None and max(self.counts) <= self.tile.rows:  # a few rows pass several panels at once

            def row_tile(rows: int, row: Expr) -> list[Stmt]:
                at_once = max(1, FEW_ROWS_SUMS // (rows * self.tile.vectors))
                return self._panels(at_once, lambda p, many, left: self._sum(panel0, rows, row, p, many, left, None))

            return self._tiles(count, row_tile)

        def panel_sweep(part: _Part | None) -> list[Stmt]:
            def panel(p: Expr, panels: int, left: Expr | None) -> list[Stmt]:
                return self._tiles(count, lambda rows, row: self._sum(panel0, rows, row, p, panels, left, part))

            return self._panels(1, panel)

        if self.chunks is None:
            return panel_sweep(None)
        size, depth = self.chunks.size, size_expr(self._depth)
        c, begin, length = self.names.var("c"), self.names.var("begin"), self.names.var("length")
        number = binary("max", (depth + (size - 1)) // size, const(1))
        part = _Part(self.chunks, begin, length, c < 1, c + 1 >= number)
        lets = (Let(begin, c * size), Let(length, binary("min", const(size), depth - begin)))
        return [Alloc(self.chunks.sums), For(c, number, (*lets, *panel_sweep(part)))]

    def _tiles(self, count: Expr, run: Callable[[int, Expr], list[Stmt]]) -> list[Stmt]:
        """`run(rows, first row)` for all rows: whole tiles, then the rows left as tiles of 8, 4, 2 and 1."""
        rows, counts, names = self.tile.rows, self.counts, self.names
        statements: list[Stmt] = []
        if counts is None or max(counts) >= rows:
            i = names.var("i")
            statements.append(For(i, count // rows, tuple(run(rows, i * rows))))
        lefts = None if counts is None else {n % rows for n in counts}
        left = names.var("left")
        pieces: list[Stmt] = []
        size = 1 << rows.bit_length()
        while size := size // 2:
            if size < rows and (lefts is None or any(n & size for n in lefts)):
                piece = run(size, count - left % (2 * size))
                pieces.append(If(const(0) < left // size % 2, tuple(piece)))
        return [*statements, Let(left, count % rows), *pieces] if pieces else statements

    def _panels(self, at_once: int, run: Callable[[Expr, int, Expr | None], list[Stmt]]) -> list[Stmt]:
        """`run(first panel, panels, columns of the panel or None for all)` for all panels, `at_once` at a time."""
        full, left = size_expr(self.what.n // self.tile.width), size_expr(self.what.n) % self.tile.width
        statements: list[Stmt] = []
        done: Expr = const(0)
        for panels in (at_once, 1) if at_once > 1 else (1,):
            groups = (full - done) // panels
            if not (isinstance(groups, Const) and groups.value == 0):
                p = self.names.var("p")
                statements.append(For(p, groups, tuple(run(done + p * panels, panels, None))))
            done = groups * panels
        if isinstance(left, Const):
            return [*statements, *(run(full, 1, left) if left.value else [])]
        return [*statements, If(const(0) < left, tuple(run(full, 1, left)))]

    def _sum(self, panel0: Expr, rows: int, row: Expr, panel: Expr, panels: int, left: Expr | None, part: _Part | None) -> list[Stmt]:
        """The sums of `rows` rows from `row` for some panels, saved as they are or as results."""
        names, tile = self.names, self.tile
        vectors = -(-int(left.value) // tile.lanes) if isinstance(left, Const) else tile.vectors * panels
        acc = Buf(names.var("acc").name, self.dtype, "reg", rows * vectors * tile.lanes)
        a, b, size = names.var("a"), names.var("b"), size_expr(self._depth * tile.width)
        begin: Expr = part.begin if part else const(0)

        def every(element: Callable[[Expr, Expr, Expr], Stmt], limit: Expr | None = None) -> Stmt:
            """`element(sum, row, column of the panel)` for every vector of sums."""
            i, j, lane = names.var("i"), names.var("j"), names.var("v")
            at = (i * vectors + j) * tile.lanes + lane
            live = None if limit is None else limit - j * tile.lanes
            one = For(lane, const(tile.lanes), (element(at, row + i, j * tile.lanes + lane),), "vector", limit=live)
            return For(i, const(rows), (For(j, const(vectors), (one,), "unroll"),), "unroll")

        zero = every(lambda at, r, column: Store(acc, at, Const(0, self.dtype)))
        sums = multiply_add(
            names, acc, tile, vectors, self.a, [a + size_expr(self.stride * q) for q in range(rows)], (1,),
            in_panels(self.panels, b, size, tile.width, (self._depth,)), (self._depth,), steps_in_a_row(rows, tile),
            lambda k: [], part.length if part else None,
        )  # fmt: skip
        exact = isinstance(left, Const) and int(left.value) == vectors * tile.lanes

        def result(at: Expr, r: Expr, column: Expr) -> Stmt:
            return self.store(LOOPS.cast(Load(acc, at), self.out), r, panel * tile.width + column)

        results = every(result, None if exact else left)
        lets = [Let(a, self.start + row * size_expr(self.stride) + begin), Let(b, panel0 + panel * size + begin * tile.width)]
        if part is None:
            return [Alloc(acc), *lets, zero, *sums, results]
        saved, group = part.chunks.sums, size_expr(part.chunks.rows)

        def slot(r: Expr, column: Expr) -> Expr:
            return (panel * group + r) * tile.width + column

        load = every(lambda at, r, column: Store(acc, at, Load(saved, slot(r, column))))
        save = every(lambda at, r, column: Store(saved, slot(r, column), Load(acc, at)))
        return [Alloc(acc), *lets, If(part.is_first, (zero,), (load,)), *sums, If(part.is_last, (results,), (save,))]


def _scores(body: Graph, product: Node) -> Value:
    """The last value of the chain of pointwise ops over the product, which its tile computes before it stores.

    A wider value would lose digits in scratch memory: what is computed from there on, each row computes anew.
    """
    v, wide = product.outputs[0], compute_dtype(product.types[0].dtype)
    while len(readers := set(body.users[v.node])) == 1:
        (node,) = readers
        others = [x for x in node.inputs if x != v and x.node.op not in ("input", "const")]
        if op_def(node.op).kind != "pointwise" or others or node.types[0].shape != v.shape:
            break
        if not node.types[0].dtype.is_float or compute_dtype(node.types[0].dtype) is not wide:
            break
        v = node.outputs[0]
    return v
