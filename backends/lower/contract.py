"""The `contract` template: every matmul and convolution, one explicit register tile.

A tile of `rows` x `width` sums in registers over all of k, in order of k, one chain per element: results do not depend on the tile,
the threads or the position in the batch.  The first operand's rows are walked where they lie (a padded channels-last image needs no
im2col: each row of the tile has its own pointer) or staged row by row into scratch memory when they are computed by a fused
prologue or would collide in the cache.  The second operand is packed in panels of `width` columns (`ir/ops/packing.py`).  The
epilogue runs on the tile before the only store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, DimExpr, ceildiv, dim_product, evaluate_dim, symbols_of
from ...ir.errors import CodegenError
from ...ir.graph import Graph, Node, Value, input_value
from ...ir.loops import Alloc, Buf, Const, Expr, For, If, Let, Load, LoopFunction, Names, Prefetch, Stmt, Store, Var, binary, size_expr
from ...ir.ops.registry import op_def
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import DType
from ..target import Target
from .access import Access, Index, broadcast_index, in_memory, linear, strides_of, unravel
from .collapse import collapse
from .kernel import Params, access, const, function, loops, parameters, spread

BLOCK_BYTES = 1 << 19  # of packed panels that one sweep over the rows reads: with the next, they fit the second-level cache
UNROLL_K = 4
FEW_ROWS_SUMS = 8  # vectors of sums that hide the latency of a multiply-add
LINE_BYTES = 64
MOST_LINES = 4  # asked for in advance in one group of steps: more would crowd out the loads that are needed now
ALIAS_BYTES = 4096  # rows this far apart share one set of the first-level cache


@dataclass(frozen=True)
class Tile:
    """rows x width elements in registers; `lanes` in one register."""

    rows: int
    width: int
    lanes: int

    @property
    def vectors(self) -> int:
        return self.width // self.lanes


def tile_for(target: Target, dtype: DType, columns: Dim) -> Tile:
    """The register tile for an accumulator dtype: as many independent sums as the registers hold, two or three vectors wide."""
    lanes = target.lanes(max(32, dtype.bits))
    spare = 3 if target.registers >= 32 else 2
    vectors = 2
    if isinstance(columns, int):
        needed = -(-columns // lanes)
        if needed == 1:
            vectors = 1
        elif needed % 3 == 0 and needed % 2:
            vectors = 3
    rows = min(14, (target.registers - spare - 1) // vectors) if target.registers >= 32 else (target.registers - spare - 1) // vectors
    return Tile(max(1, rows), vectors * lanes, lanes)


@dataclass(frozen=True)
class Contraction:
    """A contraction as the micro-kernel sees it.

    Row f of the result (of `batch` x `m` rows) sums over `k`; offsets are in elements.  `a_row(batch, m)`: where a row of the first
    operand starts in its buffer, `a_strides`: how each k loop moves along it; `a_index(batch, m, k)`: the same as an index of the
    value; `b_panel(batch)`: where the batch's first panel starts; `out(batch, m, column)`: (flat row, column) of the result.
    """

    a: Value
    packed: Value
    batch: tuple[Dim, ...]
    m: tuple[Dim, ...]
    n: Dim
    k: tuple[Dim, ...]
    a_strides: tuple[Dim, ...]
    a_row: Callable[[Index, Index], Expr]
    a_index: Callable[[Index, Index, Index], Index]
    row_stride: Dim | None  # elements between neighbouring rows, where they are evenly spaced
    b_panel: Callable[[Index], Expr]
    column: Callable[[Index, Expr], Expr]
    out_batch: bool  # whether the batch counts rows of the result (else it counts groups of columns)


def packed_operand(value: Value) -> Value:
    """The packed panels behind a contraction's second operand.  Raises CodegenError where it is not packed."""
    node = value.node
    while node.op != "unpack_panels":
        if len(node.inputs) != 1:
            raise CodegenError(f"the second operand of a contraction must be packed, not {value!r}")
        node = node.inputs[0].node
    return node.inputs[0]


def _matmul(node: Node) -> Contraction:
    a, b = node.inputs
    packed = packed_operand(b)
    out = node.types[0]
    k = a.shape[-1]
    n = out.shape[-1]
    a_strides = strides_of(a.shape)
    b_strides = strides_of(packed.shape)
    if b.type.rank == 2:  # one matrix for all: the rows of every batch form one
        rows = (*a.shape[:-2], a.shape[-2])
        return Contraction(
            a, packed, (), rows, n, (k,), (1,),
            lambda batch, m: linear(m, strides_of(rows)) * size_expr(k),
            lambda batch, m, kk: (*m, *kk), k, lambda batch: const(0), lambda batch, c: c, True,
        )  # fmt: skip
    lead = out.shape[:-2]

    def a_batch(batch: Index) -> Index:
        return broadcast_index(batch, lead, a.shape[:-2])

    return Contraction(
        a, packed, lead, (out.shape[-2],), n, (k,), (1,),
        lambda batch, m: linear((*a_batch(batch), *m), a_strides[:-1]),
        lambda batch, m, kk: (*a_batch(batch), *m, *kk), k,
        lambda batch: linear(broadcast_index(batch, lead, packed.shape[:-3]), b_strides[:-3]), lambda batch, c: c, True,
    )  # fmt: skip


def _conv(node: Node) -> Contraction:
    x, w = node.inputs
    attrs = node.attrs
    if attrs["layout"] != "channels_last" or any(p != (0, 0) for p in attrs["pads"]):
        raise CodegenError(f"{node!r}: a convolution is lowered channels last and without pads")
    packed = packed_operand(w)
    groups = attrs["groups"]
    spatial = w.shape[2:]
    channels = w.shape[1]
    n = node.types[0].shape[-1] // groups
    strides = strides_of(x.shape)
    dilations, steps = attrs["dilations"], attrs["strides"]
    k: tuple[Dim, ...] = (*spatial, channels)
    a_strides: tuple[Dim, ...] = (*(d * s for d, s in zip(dilations, strides[1:-1], strict=True)), 1)
    merge = groups == 1 and dilations[-1] == 1  # neighbouring pixels' channels are neighbours in memory
    if merge:
        k, a_strides = (*spatial[:-1], spatial[-1] * channels), (*a_strides[:-2], 1)
    m = node.types[0].shape[:-1]

    def position(batch: Index, mm: Index) -> list[Expr]:
        return [mm[0], *(o * s for o, s in zip(mm[1:], steps, strict=True)), batch[0] * size_expr(channels) if batch else const(0)]

    def index(batch: Index, mm: Index, kk: Index) -> Index:
        if merge:
            kk = (*kk[:-1], kk[-1] // size_expr(channels), kk[-1] % size_expr(channels))
        moved = (kk[d] * dilations[d] for d in range(len(spatial)))
        first, *middle, c = position(batch, mm)
        return (first, *(p + q for p, q in zip(middle, moved, strict=True)), c + kk[-1])

    dense = all(s == 1 for s in spatial) and all(s == 1 for s in steps) and groups == 1
    b_strides = strides_of(packed.shape)
    batch = (groups,) if groups > 1 else ()
    return Contraction(
        x, packed, batch, m, n, k, a_strides, lambda b, mm: linear(position(b, mm), strides), index,
        channels if dense else None, lambda b: linear(b, b_strides[:-3]),
        lambda b, c: c + b[0] * size_expr(n) if b else c, False,
    )  # fmt: skip


def contraction_of(body: Graph) -> Node:
    """The one contraction of a body.  Raises CodegenError where there is not exactly one."""
    found = [n for n in body.nodes if op_def(n.op).kind == "contraction"]
    if len(found) != 1:
        raise CodegenError(f"kernel {body.name} holds {len(found)} contractions instead of one")
    return found[0]


def epilogue(body: Graph, node: Node) -> tuple[Graph, Value]:
    """The pointwise work after the contraction, over collapsed dims (the last, its columns, alone), and the value it starts from."""
    start = input_value("contraction", node.types[0])
    new: dict[Node, tuple[Value, ...]] = {node: (start,)}
    for v in body.inputs:
        new[v.node] = (v,)
    for n in body.nodes:
        if n not in new and op_def(n.op).kind in ("pointwise", "leaf"):
            new[n] = n.with_inputs([new[v.node][v.index] for v in n.inputs]).outputs
    used = [v for v in body.inputs if any(v.node is i.node for n in body.nodes if op_def(n.op).kind == "pointwise" for i in n.inputs)]
    graph = Graph(body.name, (*used, start), tuple(new[v.node][v.index] for v in body.outputs))
    flat = collapse(graph, node.types[0].shape, keep_last=True)
    return flat, flat.inputs[-1]


def lower_contract(body: Graph, target: Target) -> LoopFunction:
    """Loops for a body with one matmul or convolution, its prologue and its epilogue."""
    node = contraction_of(body)
    what = _matmul(node) if node.op == "matmul" else _conv(node)
    names, params = Names(), parameters(body)
    return function(body, params, _Contract(body, node, what, target, names, params).statements())


class _Contract:
    def __init__(self, body: Graph, node: Node, what: Contraction, target: Target, names: Names, params: Params):
        self.body, self.node, self.what, self.names, self.params = body, node, what, names, params
        self.dtype = compute_dtype(node.types[0].dtype)
        width = what.packed.shape[-1]
        assert isinstance(width, int)
        lanes = target.lanes(max(32, self.dtype.bits))
        vectors = -(-width // lanes)
        by_registers = tile_for(target, self.dtype, width)
        self.tile = Tile(by_registers.rows, vectors * lanes, lanes)
        self.reads = access(body, params)
        buffers = dict(zip(body.inputs, params.inputs, strict=True))
        self.panels = buffers[what.packed]
        self.direct = buffers.get(what.a)
        self.depth = dim_product(what.k)
        self.flat, self.start = epilogue(body, node)
        self.bound = {v: buffers[o] for v, o in zip(self.flat.inputs[:-1], self._epilogue_operands(), strict=True)}
        aliased = isinstance(what.row_stride, int) and what.row_stride * what.a.dtype.itemsize % ALIAS_BYTES == 0
        wide = not isinstance(what.n, int) or what.n >= 4 * self.tile.width
        self.staged = self.direct is None or (aliased and wide)

    def _epilogue_operands(self) -> list[Value]:
        names = {n: v for n, v in zip(self.body.input_names, self.body.inputs, strict=True)}
        return [names[v.node.attrs["name"]] for v in self.flat.inputs[:-1]]

    def statements(self) -> list[Stmt]:
        what, tile, names = self.what, self.tile, self.names
        total = dim_product(what.m)
        full = what.n // tile.width  # whole panels
        per_panel = self.depth * tile.width * what.packed.dtype.itemsize
        block: Dim = full
        if isinstance(per_panel, int) and isinstance(full, int):
            block = min(full, max(1, BLOCK_BYTES // max(1, per_panel)))
            if isinstance(total, int) and total <= tile.rows:  # few rows: let threads share the panels
                block = min(block, 4)
        blocks = max(1, -(-full // block)) if isinstance(full, int) and isinstance(block, int) and block else 1
        tiles = ceildiv(total, tile.rows)
        task = names.var("t")
        *batch_index, block_index, tile_index = unravel(task, (*what.batch, blocks, tiles))
        batch = tuple(batch_index)
        first = names.var("m")
        rest = names.var("left")
        setup: list[Stmt] = [Let(first, tile_index * tile.rows), Let(rest, size_expr(total) - first)]
        place = _Place(batch, block_index, blocks, block, full, self._prefetching(tile_index, total, blocks))
        cost = size_expr(self.depth * (block if isinstance(block, int) else full + 1) * tile.width * tile.rows) // 8
        tasks = size_expr(dim_product((*what.batch, blocks, tiles)))
        return [For(task, tasks, (*setup, *self._tiles(total, first, rest, place)), "parallel", cost=cost)]

    def _prefetching(self, tile_index: Expr, total: Dim, blocks: int) -> _Ahead | None:
        """While one block of panels is in use, each tile asks for its share of the next one."""
        if blocks == 1:
            return None
        rows = evaluate_dim(total, {s: 1 for s in symbols_of(total)})  # with the least sizes: a batch of one
        needed = UNROLL_K * self.tile.width * self.what.packed.dtype.itemsize // LINE_BYTES  # lines that UNROLL_K steps read
        sharing = max(1, -(-rows // self.tile.rows))
        lines = -(-needed // sharing)
        if lines > MOST_LINES:
            return None
        return _Ahead(binary("min", tile_index, const(-(-needed // lines))), lines)

    def _tiles(self, total: Dim, first: Var, rest: Var, place: _Place) -> list[Stmt]:
        """A whole tile, or the rows that are left as tiles of 8, 4, 2 and 1."""
        rows = self.tile.rows
        whole = self._rows(rows, first, place)
        if isinstance(total, int) and total % rows == 0:
            return whole
        pieces: list[Stmt] = []
        size = 1 << (rows - 1).bit_length() - 1
        known = total % rows if isinstance(total, int) else None
        while size:
            if known is None or known & size:
                start = self.names.var("m")
                at = first + (rest - rest % (2 * size)) if known is None else first + (known - known % (2 * size))
                tile = (Let(start, at), *self._rows(size, start, place))
                pieces += [If(const(0) < (rest // size) % 2, tile)] if known is None else tile
            size //= 2
        if isinstance(total, int) and total < rows:
            return pieces
        return [If(rest >= rows, tuple(whole), tuple(pieces))]

    def _rows(self, rows: int, first: Var, place: _Place) -> list[Stmt]:
        """All panels of the block for `rows` rows from `first`."""
        what, names, tile = self.what, self.names, self.tile
        statements: list[Stmt] = []
        if self.staged:
            buffer, stride = self._stage(statements, rows, first, place.batch)
            base = [const(q) * size_expr(stride) for q in range(rows)]
            moves = self._staged_strides()
        else:
            assert self.direct is not None
            buffer, moves, base = self.direct, what.a_strides, []
            for q in range(rows):
                if what.row_stride is not None and q:
                    base.append(base[0] + size_expr(what.row_stride * q))
                    continue
                pointer = names.var("row")
                statements.append(Let(pointer, what.a_row(place.batch, unravel(first + q, what.m))))
                base.append(pointer)
        panel0 = names.var("panels")
        statements.append(Let(panel0, what.b_panel(place.batch)))
        count: Expr = size_expr(place.block)
        if place.blocks > 1:
            count = binary("min", count, size_expr(place.full) - place.block_index * size_expr(place.block))
        group = max(1, FEW_ROWS_SUMS // (rows * tile.vectors))  # a tile of few rows takes several panels at once
        done: Expr = const(0)
        for size in (group, 1) if group > 1 else (1,):
            groups = (count - done) // size
            if isinstance(groups, Const) and groups.value == 0:
                continue
            p = names.var("p")
            panel = place.block_index * size_expr(place.block) + done + p * size
            body = self._micro(rows, first, buffer, base, moves, panel0, panel, place, None, size)
            statements.append(For(p, groups, tuple(body)))
            done = groups * size
        width = size_expr(tile.width)
        left = size_expr(what.n) % width
        if not (isinstance(left, Const) and left.value == 0):
            tail = tuple(self._micro(rows, first, buffer, base, moves, panel0, size_expr(place.full), place, left))
            mine = place.block_index + 1 >= size_expr(place.blocks)
            condition = mine if isinstance(left, Const) else mine & (const(0) < left)
            statements.append(If(condition, tail))
        return statements

    def _stage(self, statements: list[Stmt], rows: int, first: Expr, batch: Index) -> tuple[Buf, Dim]:
        """Copy (or compute) the tile's rows into scratch memory, spaced so that they do not collide in the cache."""
        what, names = self.what, self.names
        stride = ceildiv(self.depth, 16) * 16 + 16
        buffer = Buf(names.var("stage").name, what.a.dtype, "local", stride * rows)
        r = names.var("r")
        m = unravel(first + r, what.m)
        moves = self._staged_strides()

        def copy(outer: tuple[Expr, ...]) -> list[Stmt]:
            def element(offset: Expr, lane: Expr) -> Sequence[Stmt]:
                k = (*outer, offset + lane)
                return [Store(buffer, r * size_expr(stride) + linear(k, moves), self.reads.at(what.a, what.a_index(batch, m, k)))]

            return spread(names, what.k[-1], 16, element)

        statements.append(Alloc(buffer))
        statements.append(For(r, const(rows), tuple(loops(names, what.k[:-1], copy))))
        return buffer, stride

    def _staged_strides(self) -> list[Dim]:
        return strides_of(self.what.k)

    def _micro(
        self, rows: int, first: Expr, buffer: Buf, base: Sequence[Expr], moves: Sequence[Dim],
        panel0: Expr, panel: Expr, place: _Place, limit: Expr | None, panels: int = 1,
    ) -> list[Stmt]:  # fmt: skip
        """The register tile over `panels` panels: zero it, sum over k, run the epilogue and store.

        limit: how many columns of the last panel there are, None for all.
        """
        what, names, tile = self.what, self.names, self.tile
        vectors = tile.vectors * panels
        if isinstance(limit, Const):
            vectors = -(-int(limit.value) // tile.lanes)
        width = vectors * tile.lanes
        acc = Buf(names.var("acc").name, self.dtype, "reg", rows * width)
        zero, lane = names.var("i"), names.var("v")
        statements: list[Stmt] = [
            Alloc(acc),
            For(zero, const(rows * vectors), (For(lane, const(tile.lanes), (Store(acc, zero * tile.lanes + lane, Const(0, self.dtype)),), "vector"),), "unroll"),
        ]  # fmt: skip
        start = names.var("b")
        statements.append(Let(start, panel0 + panel * size_expr(self.depth * tile.width)))
        k_strides = strides_of(what.k)

        def step(k: tuple[Expr, ...]) -> list[Stmt]:
            a_offset = linear(k, moves)
            b_offset = start + linear(k, k_strides) * tile.width
            result: list[Stmt] = []
            for q in range(rows):
                a = LOOPS.cast(Load(buffer, base[q] + a_offset), self.dtype)
                for j in range(vectors):
                    v = names.var("v")
                    in_panel, column = divmod(j, tile.vectors)
                    moved = size_expr(self.depth * (in_panel * tile.width)) + column * tile.lanes
                    b = LOOPS.cast(Load(self.panels, b_offset + moved + v), self.dtype)
                    at = const(q * width + j * tile.lanes) + v
                    old = Load(acc, at)
                    total = LOOPS.fma(a, b, old) if self.dtype.is_float else old + a * b
                    result.append(For(v, const(tile.lanes), (Store(acc, at, total),), "vector"))
            return result

        def ahead(k: tuple[Expr, ...]) -> list[Stmt]:
            if place.ahead is None or isinstance(self.depth, DimExpr):
                return []
            lines, element = place.ahead.lines, what.packed.dtype.itemsize
            steps = self.depth // UNROLL_K  # of one panel
            block = size_expr(place.block) * (self.depth * tile.width)
            number = (place.ahead.share * size_expr(place.block) + (panel - place.block_index * size_expr(place.block))) * steps
            line = (number + linear(k, k_strides) // UNROLL_K) * lines
            offset = panel0 + (place.block_index + 1) * block + line * (LINE_BYTES // element)
            return [Prefetch(self.panels, offset + q * (LINE_BYTES // element)) for q in range(lines)]

        def inner(outer: tuple[Expr, ...]) -> list[Stmt]:
            return _unrolled(names, what.k[-1], lambda kk: step((*outer, kk)), lambda kk: ahead((*outer, kk)))

        statements += loops(names, what.k[:-1], inner)
        return statements + self._store(rows, first, acc, vectors, panel, place.batch, limit)

    def _store(
        self, rows: int, first: Expr, acc: Buf, vectors: int, panel: Expr, batch: Index, limit: Expr | None
    ) -> list[Stmt]:
        what, names, tile = self.what, self.names, self.tile
        width = vectors * tile.lanes
        i, j, lane = names.var("i"), names.var("j"), names.var("v")
        sum_dtype = self.node.types[0].dtype

        def read_sum(index: Index, mask: Expr | None, other: object) -> Expr:
            return LOOPS.cast(Load(acc, i * width + j * tile.lanes + lane), sum_dtype)

        flat = self.flat
        bound = {v: in_memory(b, v.shape) for v, b in self.bound.items()}
        reads = Access({**bound, self.start: read_sum})
        shape = self.start.shape
        row = first + i
        if what.out_batch and what.batch:
            row = linear(batch, strides_of(what.batch)) * size_expr(dim_product(what.m)) + row
        column = what.column(batch, panel * tile.width + j * tile.lanes + lane)
        index = (*unravel(row, shape[:-1]), column) if shape else ()
        stores = tuple(
            Store(b, linear(index, strides_of(shape)), reads.at(v, index)) for v, b in zip(flat.outputs, self.params.outputs, strict=True)
        )
        live = None if limit is None else limit - j * tile.lanes
        if isinstance(limit, Const) and int(limit.value) == width:
            live = None
        vector = For(lane, const(tile.lanes), stores, "vector", limit=live)
        return [For(i, const(rows), (For(j, const(vectors), (vector,), "unroll"),), "unroll")]


@dataclass(frozen=True)
class _Place:
    """Which part of the result a task computes."""

    batch: Index
    block_index: Expr
    blocks: int
    block: Dim
    full: Dim
    ahead: _Ahead | None


@dataclass(frozen=True)
class _Ahead:
    """What a tile asks for in advance: share number `share` of the next block, `lines` cache lines every UNROLL_K steps of k."""

    share: Expr
    lines: int


def _unrolled(
    names: Names, size: Dim, step: Callable[[Expr], list[Stmt]], before: Callable[[Expr], list[Stmt]] = lambda k: []
) -> list[Stmt]:
    """A serial loop over 0..size, some steps at a time; `before` stands once before each group of steps."""
    if isinstance(size, int) and size <= 2 * UNROLL_K:
        return [s for k in range(size) for s in step(const(k))]
    q, u = names.var("k"), names.var("u")
    extent = size_expr(size)
    steps = For(u, const(UNROLL_K), tuple(step(q * UNROLL_K + u)), "unroll")
    whole = For(q, extent // UNROLL_K, (*before(q * UNROLL_K), steps))
    if isinstance(size, int):
        done = size // UNROLL_K * UNROLL_K
        return [whole, *(s for k in range(done, size) for s in step(const(k)))]
    r = names.var("k")
    return [whole, For(r, extent % UNROLL_K, tuple(step(extent - extent % UNROLL_K + r)))]
