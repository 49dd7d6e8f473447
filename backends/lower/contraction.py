"""Contractions as the micro-kernel sees them: rows, columns and sums over buffers, whether they come from a matmul or a convolution.

A convolution is an index map: row m of the result is a pixel, and k runs over taps and channels at fixed distances from where that
pixel's window starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, dim_product, evaluate_dim, least_size, symbols_of
from ...ir.errors import CodegenError
from ...ir.graph import Graph, Node, Value, input_value, topological
from ...ir.loops import Buf, Expr, size_expr
from ...ir.ops.registry import op_def
from ...ir.scalar import compute_dtype
from ...ir.types import i8, u8
from ..target import Target
from .access import Bound, Index, broadcast_index, in_memory, linear, strides_of
from .collapse import collapse
from .kernel import const
from .matrices import COPY_CYCLES, TILES, matrix_cycles, words_in_a_step

UNPACKING = ("unpack_panels", "unpack_dots", "unpack_nibbles")
DOT = 4  # products that `dot4` adds at a time
GRID_LANES = 16  # threads of a block that compute neighbouring columns
FEW_ROWS, MANY_ROWS = 8, 64  # fewer rows than this, if they may be more, count as so many
ALIAS_BYTES, ALIAS_ROWS = 4096, 9  # rows this far apart share sets of the first-level cache, which hold so many and the panel
MULTIPLY_ADD_CYCLES = 4.6  # before a sum can be used, with what is lost where no more sums are there than that takes
BLOCK_BYTES = 1 << 19  # of packed panels that one sweep over the rows reads: with the next, they fit the second-level cache
L1_BYTES = 1 << 15  # of rows that stay in the first-level cache while the panels pass
LOAD_COST = 0.02  # cycles that multiplying does not hide, for each row or vector that a step of k reads,
FAR_COST = 0.06  # and for each row that has to come from the second-level cache


@dataclass(frozen=True)
class Tile:
    """rows x width elements in registers; `lanes` in one register."""

    rows: int
    width: int
    lanes: int

    @property
    def vectors(self) -> int:
        """Registers that one row of the tile takes."""
        return self.width // self.lanes


def expected_rows(rows: Dim) -> int:
    """How many rows to plan for: with the least sizes, or many if they are few but may be more: one kernel serves all batches."""
    least = least_size(rows)
    return MANY_ROWS if least < FEW_ROWS and least != rows else max(1, least)


def tile_for(node: Node, target: Target, width: int | None = None) -> Tile:
    """The register tile of a contraction: the one that the node names (`tile`, rows and vectors), else the best guess.

    width: of panels packed already.  Raises CodegenError where no tile, or not the one named, is as wide.
    """
    lanes = target.lanes(max(32, compute_dtype(node.types[0].dtype).bits))
    if target.kind == "gpu":  # of a block: `GRID_LANES` threads side by side, up to four columns each
        columns = _columns(node)
        needed = -(-columns // GRID_LANES) if isinstance(columns, int) else 4
        return Tile(64, width or GRID_LANES * (needed if needed <= 2 else 4), GRID_LANES)
    rows, vectors = node.attrs.get("tile") or next((t for t in tiles(node, target) if width in (None, t[1] * lanes)), (0, 0))
    if width not in (None, vectors * lanes):
        raise CodegenError(f"{node!r}: panels of {width} do not fit a tile of {vectors or 'up to 4'} vectors of {lanes}")
    return Tile(rows, vectors * lanes, lanes)


def _columns(node: Node) -> Dim:
    b = node.inputs[1]
    return b.shape[0] // node.attrs.get("groups", 1) if node.op == "conv" else b.shape[-1]


def tiles(node: Node, target: Target) -> list[tuple[int, int]]:
    """(rows, vectors) of every tile that the registers of a CPU hold, by the time it needs for the contraction's rows and columns.

    A tile with more sums than vector registers hold (`in_matrices`) is one of matrix registers.  Sizes that are not known count as one,
    but few rows as many: one kernel serves all batches.
    """
    a, b = node.inputs
    if node.op == "conv":
        rows = dim_product(node.types[0].shape) // b.shape[0]
        row = a.shape[-1 if node.attrs.get("layout") == "channels_last" else 1]
        steps, (*taps, across) = node.attrs["strides"][-1], b.shape[2:]
    else:
        row = a.shape[-1]
        rows = dim_product(a.shape[:-1] if b.type.rank == 2 else a.shape[-2:-1])
        steps, taps, across = 1, (), 1
    lanes = target.lanes(max(32, compute_dtype(node.types[0].dtype).bits))
    dot = target.dot4 if (a.dtype, b.dtype) == (u8, i8) else ""
    least, columns = expected_rows(rows), _columns(node)
    vectors = -(-evaluate_dim(columns, dict.fromkeys(symbols_of(columns), MANY_ROWS)) // lanes)
    aliased = row * a.dtype.itemsize % ALIAS_BYTES == 0
    pixel, known = least_size(dim_product((*taps, row)) * a.dtype.itemsize), isinstance(rows, int)

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        """Cycles, and the larger tile of two that take the same."""
        far = (tile[0] * steps + least_size(across) - 1) * pixel > L1_BYTES
        if pixel * least_size(across) * tile[1] * lanes > BLOCK_BYTES:
            far = False  # k runs in chunks
        return _time(tile, least, vectors, FAR_COST if far else LOAD_COST, dot, known), -tile[0] * tile[1]

    def matrix_cost(tile: tuple[int, int]) -> tuple[float, int]:
        time = _over_tiles(tile, least, vectors, known, lambda r, v: matrix_cycles(r, v, depth // DOT, step))
        return time + (COPY_CYCLES * least if copied else 0), -tile[0] * tile[1]

    times = {tile: cost(tile) for tile in _tiles(target.registers, ALIAS_ROWS if aliased else target.registers, dot)}
    depth, step = _dot_steps(node) if target.matrices and dot else (0, 0)
    if step and least >= FEW_ROWS // 2:  # fewer are bound by reading the panels, as fast as vectors do
        copied = node.op == "conv" and not reads_pixels(node)
        times |= {tile: matrix_cost(tile) for tile in TILES if depth * tile[1] * lanes <= BLOCK_BYTES}
    return sorted(times, key=lambda tile: times[tile])


def in_matrices(tile: Tile, target: Target) -> bool:
    """Whether a tile is one of matrix registers."""
    return target.matrices and tile.rows * tile.vectors >= target.registers


def _dot_steps(node: Node) -> tuple[int, int]:
    """The products that a result of a contraction sums, and how many words of them a step in matrix registers takes; 0 and 0 where they
    are not packed for `dot4`.
    """
    b = node.inputs[1]
    source = b.node
    while source.op not in ("constant", "unpack_dots") and len(source.inputs) == 1:
        source = source.inputs[0].node
    shape = b.shape
    if not (b.is_const or source.op == "unpack_dots") or not all(isinstance(d, int) for d in shape):
        return 0, 0
    if node.op == "matmul":
        depth = row = shape[-2]
    else:
        depth, row = dim_product(shape[1:]), shape[1] * shape[-1] if reads_lines(node) else shape[1]
    return (least_size(depth), words_in_a_step(row // DOT)) if row % DOT == 0 else (0, 0)


def _tiles(registers: int, most_rows: int, dot: str) -> Iterator[tuple[int, int]]:
    """(rows, vectors in a row) of tiles whose sums fit the registers beside a row of the second operand and an element of the first.

    A tile wider than it has rows would read more of the panels than the second-level cache gives.  dot: what sums products of
    bytes.  "vpmaddwd" has both operands taken apart into two registers each, and a product, a sum and a mask need one too; "sdot"
    wants a sum of products beside each vector of the second operand, constants, and room for LLVM's scheduler: with less of it sums
    are saved in memory (one access in three products with 3 registers beside, next to none with 10).
    """
    each, beside = {"vpmaddwd": (2, 5), "sdot": (2, 10)}.get(dot, (1, 1))
    for vectors in range(1, 5):
        most = min(most_rows, (registers - each * vectors - beside) // vectors)
        yield from ((rows, vectors) for rows in range(vectors, most + 1))


def _time(tile: tuple[int, int], rows: int, vectors: int, row_cost: float, dot: str, known: bool) -> float:
    """Cycles for one step of k over all rows and vectors, by the ports of a core: two multiply-adds and two loads in a cycle.

    dot: by "vpmaddwd" a multiply-add is four instructions, and taking the operands apart two for an element of the first and three for
    a vector of the second; by "sdot" two, and one and two.  known: whether the rows that a tile does not divide are one smaller tile.
    """

    def cycles(r: int, v: int) -> float:
        product, first, second = {"vpmaddwd": (4, 2, 3), "sdot": (2, 1, 2)}.get(dot, (1, 0, 0))
        instructions = product * r * v + first * r + second * v
        return max(instructions / 2, (r + v) / 2, MULTIPLY_ADD_CYCLES) + LOAD_COST * v + row_cost * r

    return _over_tiles(tile, rows, vectors, known, cycles)


def _over_tiles(tile: tuple[int, int], rows: int, vectors: int, known: bool, cycles: Callable[[int, int], float]) -> float:
    """The sum over all tiles of cycles(rows, vectors), of which none is 0."""
    height, width = tile
    rest = rows % height
    left = [rest] if known else [1 << bit for bit in range(height.bit_length()) if rest >> bit & 1]
    heights = {height: rows // height, **{r: 1 for r in left if r}}
    widths = {width: vectors // width, **({vectors % width: 1} if vectors % width else {})}
    return sum(m * n * cycles(r, v) for r, m in heights.items() for v, n in widths.items())


@dataclass(frozen=True)
class Contraction:
    """A contraction as the micro-kernel sees it.

    Row f of the result (of `batch` x `m` rows) sums over `k`, the last of which counts steps of `products` neighbouring elements;
    offsets are in elements.  `a_row(batch, m)`: where a row of the first operand starts in its buffer, `a_strides`: how each k loop
    moves along it; `a_index(batch, m, k)`: the same as an index of the value, of which the last k counts elements; `b_panel(batch)`:
    where the batch's first panel starts; `column(batch, column)`: a column of the result.
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
    products: int  # of one step of k: 1, or 4 that `dot4` adds


def in_blocks(w: Value) -> bool:
    """Whether a matrix is constant weights with a scale for every block of rows and column, in the form that `passes/narrow.py` leaves:
    reshape(dequantize(q[blocks, block, columns], scale[blocks, 1, columns], zero), shape=[rows, columns]).
    """
    if w.node.op != "reshape" or w.type.rank != 2 or w.node.inputs[0].node.op != "dequantize":
        return False
    q = w.node.inputs[0].node.inputs[0]
    return q.type.rank == 3 and all(v.is_const for v in w.node.inputs[0].node.inputs) and q.shape[-1] == w.shape[-1]


def block_of(value: Value) -> int:
    """Rows that share a scale, of a second operand as `legalize` packs weights `in_blocks`; 0 of any other."""
    node = value.node
    if node.op != "reshape" or node.inputs[0].node.op != "dequantize":
        return 0
    block = node.inputs[0].shape[1]
    assert isinstance(block, int)
    return block


def unpacking(value: Value) -> Node:
    """The node that unpacks a contraction's second operand.  Raises CodegenError where it is not packed."""
    node = value.node
    while node.op not in UNPACKING:
        if len(node.inputs) != 1 and node.op != "dequantize":
            raise CodegenError(f"the second operand of a contraction must be packed, not {value!r}")
        node = node.inputs[0].node
    return node


def _packed(value: Value) -> tuple[Value, int]:
    """The packed panels behind a contraction's second operand, and how many products one of their elements is for."""
    node = unpacking(value)
    return node.inputs[0], DOT if node.op == "unpack_dots" else 1


def _matmul(node: Node) -> Contraction:
    a, b = node.inputs
    packed, products = _packed(b)
    out = node.types[0]
    row = a.shape[-1]
    k = (row // products,)
    n = out.shape[-1]
    a_strides = strides_of(a.shape)
    b_strides = strides_of(packed.shape)
    if b.type.rank == 2:  # one matrix for all: the rows of every batch form one
        rows = (*a.shape[:-2], a.shape[-2])
        return Contraction(
            a, packed, (), rows, n, k, (products,),
            lambda batch, m: linear(m, strides_of(rows)) * size_expr(row),
            lambda batch, m, kk: (*m, *kk), row, lambda batch: const(0), lambda batch, c: c, True, products,
        )  # fmt: skip
    lead = out.shape[:-2]

    def a_batch(batch: Index) -> Index:
        return broadcast_index(batch, lead, a.shape[:-2])

    return Contraction(
        a, packed, lead, (out.shape[-2],), n, k, (products,),
        lambda batch, m: linear((*a_batch(batch), *m), a_strides[:-1]),
        lambda batch, m, kk: (*a_batch(batch), *m, *kk), row,
        lambda batch: linear(broadcast_index(batch, lead, packed.shape[:-3]), b_strides[:-3]), lambda batch, c: c, True, products,
    )  # fmt: skip


def reads_pixels(conv: Node) -> bool:
    """Whether the rows of a convolution are the pixels of its operand, one after the other."""
    ones = {*conv.inputs[1].shape[2:], *conv.attrs["strides"]} == {1}
    return ones and conv.attrs.get("groups", 1) == 1 and all(p == (0, 0) for p in conv.attrs["pads"])


def reads_lines(conv: Node) -> bool:
    """Whether the last axis of a kernel and the channels are one loop: those of neighbouring pixels are neighbours in memory."""
    return conv.attrs.get("groups", 1) == 1 and conv.attrs["dilations"][-1] == 1


def _conv(node: Node) -> Contraction:
    x, w = node.inputs
    attrs = node.attrs
    if attrs["layout"] != "channels_last" or any(p != (0, 0) for p in attrs["pads"]):
        raise CodegenError(f"{node!r}: a convolution is lowered channels last and without pads")
    packed, products = _packed(w)
    groups = attrs["groups"]
    spatial = w.shape[2:]
    channels = w.shape[1]
    n = node.types[0].shape[-1] // groups
    strides = strides_of(x.shape)
    dilations, steps = attrs["dilations"], attrs["strides"]
    k: tuple[Dim, ...] = (*spatial, channels // products)
    a_strides: tuple[Dim, ...] = (*(d * s for d, s in zip(dilations, strides[1:-1], strict=True)), products)
    merge = reads_lines(node)
    if merge:
        k, a_strides = (*spatial[:-1], spatial[-1] * channels // products), (*a_strides[:-2], products)
    m = node.types[0].shape[:-1]

    def position(batch: Index, mm: Index) -> list[Expr]:
        return [mm[0], *(o * s for o, s in zip(mm[1:], steps, strict=True)), batch[0] * size_expr(channels) if batch else const(0)]

    def index(batch: Index, mm: Index, kk: Index) -> Index:
        if merge:
            kk = (*kk[:-1], kk[-1] // size_expr(channels), kk[-1] % size_expr(channels))
        moved = (kk[d] * dilations[d] for d in range(len(spatial)))
        first, *middle, c = position(batch, mm)
        return (first, *(p + q for p, q in zip(middle, moved, strict=True)), c + kk[-1])

    b_strides = strides_of(packed.shape)
    batch = (groups,) if groups > 1 else ()
    return Contraction(
        x, packed, batch, m, n, k, a_strides, lambda b, mm: linear(position(b, mm), strides), index,
        channels if reads_pixels(node) else None, lambda b: linear(b, b_strides[:-3]),
        lambda b, c: c + b[0] * size_expr(n) if b else c, False, products,
    )  # fmt: skip


def contraction(node: Node) -> Contraction:
    """The index map of a matmul or convolution in the form that `legalize` leaves."""
    return _matmul(node) if node.op == "matmul" else _conv(node)


def contraction_of(body: Graph) -> Node:
    """The one contraction of a body.  Raises CodegenError where there is not exactly one."""
    found = [n for n in body.nodes if op_def(n.op).kind == "contraction"]
    if len(found) != 1:
        raise CodegenError(f"kernel {body.name} holds {len(found)} contractions instead of one")
    return found[0]


def epilogue(body: Graph, node: Node, buffers: Mapping[Value, Buf]) -> tuple[Graph, Value, dict[Value, Bound]]:
    """The pointwise work after the contraction, over collapsed dims (the last, its columns, alone), the value that it starts from, and
    where its other inputs are read.  `buffers`: of the body's inputs.
    """
    graph, start = section(body, node.outputs[0], body.outputs)
    used = graph.inputs[:-1]
    flat = collapse(graph, node.types[0].shape, keep_last=True)
    *others, start = flat.inputs
    return flat, start, {v: in_memory(buffers[old], v.shape) for v, old in zip(others, used, strict=True)}


def section(body: Graph, begin: Value, end: Sequence[Value]) -> tuple[Graph, Value]:
    """The part of a body from one value on to others, and that value in it: the last input, after those of the body that are read."""
    start = input_value("start", begin.type)
    new: dict[Node, tuple[Value, ...]] = {begin.node: (start,)}
    after: set[Node] = set()
    stack = [v.node for v in end]
    while stack:
        n = stack.pop()
        if n is not begin.node and n not in after:
            after.add(n)
            stack.extend(v.node for v in n.inputs)
    for n in topological(end):
        if n in after:
            new[n] = n.outputs if n.op == "input" else n.with_inputs([new[v.node][v.index] for v in n.inputs]).outputs
    used = [v for v in body.inputs if v.node in after]
    return Graph(body.name, (*used, start), tuple(new[v.node][v.index] for v in end)), start
