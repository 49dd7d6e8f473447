"""The `winograd` schedule: 3x3 convolutions of stride 1 as one matrix product for each position of a transformed patch.

`ir/ops/winograd.py` says what F(m) is.  A task has a block of tiles (m x m results each) and a block of panels of output channels:

    V[position, tile, channel] = B^T d B     for the tiles of the block; d is zero outside the image, so nothing is padded
    for each panel:
      M[position, tile, column] = V[position] U[position]     the micro-kernel of `contract`
      result = epilogue(A^T M A)                              the only store outside scratch memory

V and M stay in the second-level cache.  Both transforms go line by line and then column by column through a buffer in the first-level
cache, because few processors have registers for a whole patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir.dims import Dim, ceildiv, dim_product
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
    Names,
    Prefetch,
    Scalar,
    Stmt,
    Store,
    binary,
    size_expr,
)
from ...ir.ops.winograd import PAIRS
from ...ir.scalar import LOOPS
from ...ir.types import f32
from ..target import Target
from .access import Access, Index, linear, strides_of, unravel
from .contraction import Tile, contraction_of, epilogue, unpacking
from .kernel import const, function, parameters, spread
from .micro import UNROLL_K, Hints, in_panels, multiply_add

SECOND_LEVEL = 1 << 20  # bytes of the second-level cache that panels may fill
LEAST_BYTES = 1 << 17  # of V, where the panels stay in the second-level cache;
MOST_BYTES = 3 << 18  # where they do not, much is multiplied for each read of them
CHUNK = 16  # channels that lie side by side in V: a cache line
TASKS, LEAST_PANELS = 4, 4  # tasks of an image, if that leaves each so many panels: halves took 3 % longer on one core, quarters 9
MOST_ROWS = 14  # of a register tile


def is_winograd(node: Node) -> bool:
    """Whether a convolution reads its weights as values at Winograd's points."""
    return node.op == "conv" and node.inputs[1].node.op == "unpack_winograd"


def winograd_tile_for(node: Node, target: Target, m: int) -> Tile:
    """The register tile of a convolution by F(m): the one that the node names (`tile`, rows and vectors), else the best guess."""
    lanes = target.lanes(f32.bits)
    rows, vectors = node.attrs.get("tile") or winograd_tiles(node, target, m)[0]
    return Tile(rows, vectors * lanes, lanes)


def winograd_tiles(node: Node, target: Target, m: int) -> list[tuple[int, int]]:
    """(rows, vectors) of register tiles for a convolution by F(m), best guess first.

    The best guess has two vectors, or one or three where all columns fit, and as many rows as leave few of the last tile idle.
    """
    columns, lanes = node.inputs[1].shape[0], target.lanes(f32.bits)
    needed = -(-columns // lanes) if isinstance(columns, int) else 2
    first = node.attrs.get("layout", "channels_first") == "channels_first"
    image = dim_product(ceildiv(d, m) for d in (node.types[0].shape[2:] if first else node.types[0].shape[1:3]))
    tiles = image if isinstance(image, int) else None
    widths = sorted(range(1, min(needed, 4) + 1), key=lambda v: (v != (needed if needed in (1, 3) else 2), v))
    return [(rows, v) for v in widths for rows in _heights(tiles, min(MOST_ROWS, (target.registers - v - 1) // v))]


def _heights(tiles: int | None, most: int) -> list[int]:
    """Rows of a register tile, `most` at most, those first that leave few rows idle; `tiles`: of an image, if known."""
    return sorted(range(1, most + 1), key=lambda r: (-(-tiles // r) * (r + 1) if tiles else 0, -r))


def tile_rows(tiles: int | None, most: int) -> int:
    """The best of `_heights`."""
    return _heights(tiles, most)[0]


def grouping(positions: int, channels: int, panel_bytes: int, tiles: int | None, rows: int) -> int:
    """How many register tiles of `rows` rows make a block: so that few rows of the last are idle."""
    room = max(LEAST_BYTES, min(MOST_BYTES, panel_bytes // 3))
    limit = max(1, room // (positions * channels * f32.itemsize))
    if not tiles:
        return max(1, limit // rows)
    total = -(-tiles // rows)
    blocks = -(-total // max(1, limit // rows))
    return -(-total // blocks)


def lower_winograd(body: Graph, target: Target) -> LoopFunction:
    """Loops for a channels-last convolution with weights at Winograd's points, in panels, and its epilogue."""
    return _Winograd(body, contraction_of(body), target).lower()


class _Winograd:
    def __init__(self, body: Graph, node: Node, target: Target):
        self.body, self.node = body, node
        self.names, self.params = Names(), parameters(body)
        buffers = dict(zip(body.inputs, self.params.inputs, strict=True))
        (packed,) = unpacking(node.inputs[1]).inputs
        self.x, self.panels = buffers[node.inputs[0]], buffers[packed]
        self.m: int = node.inputs[1].node.attrs["tile"]
        self.side = self.m + 2
        positions, count, channels, width = packed.shape
        assert isinstance(positions, int)
        assert isinstance(count, int)
        assert isinstance(channels, int)
        assert isinstance(width, int)
        self.positions, self.count, self.channels = positions, count, channels
        self.panel_bytes = positions * count * channels * width * f32.itemsize
        self.columns = node.types[0].shape[-1]
        self.source, self.shape = node.inputs[0].shape, node.types[0].shape
        self.tiles = (self.shape[0], ceildiv(self.shape[1], self.m), ceildiv(self.shape[2], self.m))
        image = dim_product(self.tiles[1:])
        self.tile = winograd_tile_for(node, target, self.m)
        self.rows = self.tile.rows
        self.groups = grouping(positions, channels, self.panel_bytes, image if isinstance(image, int) else None, self.rows)
        self.chunks = -(-channels // CHUNK)
        self.v_position, self.m_position = self.rows * CHUNK, self.rows * self.tile.width
        self.v_chunk = positions * self.v_position
        self.flat, self.start, self.bound = epilogue(body, node, buffers)

    def lower(self) -> LoopFunction:
        names, block = self.names, self.rows * self.groups
        total = dim_product(self.tiles)
        blocks = ceildiv(total, block)
        share = min(self._panels(), self.count)
        task, first, count, groups = names.var("t"), names.var("first"), names.var("tiles"), names.var("groups")
        panel_block, tile_block = unravel(task, (-(-self.count // share), blocks))
        v = Buf(names.var("v").name, f32, "local", self.groups * self.chunks * self.v_chunk)
        m = Buf(names.var("m").name, f32, "local", self.groups * self.positions * self.m_position)
        group, row, p, panel = names.var("g"), names.var("r"), names.var("p"), names.var("panel")
        patch = self._patch(v, first + binary("min", group * self.rows + row, count - 1), group, row)
        sweep = [Let(panel, panel_block * share + p), *self._multiply(v, m, panel, groups), self._results(m, first, count, panel)]
        statements: list[Stmt] = [
            Alloc(v),
            Alloc(m),
            Let(first, tile_block * block),
            Let(count, binary("min", const(block), size_expr(total) - first)),
            Let(groups, (count + (self.rows - 1)) // self.rows),  # of which the last repeats the last tile
            For(group, groups, (For(row, const(self.rows), tuple(patch)),)),
            For(p, binary("min", const(share), const(self.count) - panel_block * share), tuple(sweep)),
        ]
        cost = const(self.channels * self.positions * share * (self.tile.width // 16) * block)
        tasks = size_expr(ceildiv(self.count, share) * blocks)
        return function(self.body, self.params, [For(task, tasks, tuple(statements), "parallel", cost=cost)])

    def _panels(self) -> int:
        """Panels of a task: all, unless an image has too few blocks of tiles to keep some threads busy.

        Each task transforms its patches anew, which costs little beside `LEAST_PANELS` panels.
        """
        image = dim_product(self.tiles[1:])
        if not isinstance(image, int):
            return self.count
        blocks = max(1, -(-image // (self.rows * self.groups)))
        return max(min(LEAST_PANELS, self.count), -(-self.count * blocks // TASKS))

    # --- the patch ----------------------------------------------------------------------------------------------------------

    def _patch(self, v: Buf, at: Expr, group: Expr, row: Expr) -> list[Stmt]:
        """V of tile `at`, for a row of a group of the block."""
        names, side, channels = self.names, self.side, self.channels
        _, height, width, _ = (size_expr(d) for d in self.source)
        (top, _), (left, _) = self.node.attrs["pads"]
        image, down, across = unravel(at, self.tiles)
        y, x, origin, place = names.var("y"), names.var("x"), names.var("origin"), names.var("place")
        statements: list[Stmt] = [
            Let(y, down * self.m - top),
            Let(x, across * self.m - left),
            Let(origin, ((image * height + y) * width + x) * channels),
            Let(place, group * (self.chunks * self.v_chunk) + row * CHUNK),
        ]

        def vectors(inside: bool) -> tuple[Stmt, ...]:
            return tuple(
                spread(
                    names, channels, self.tile.lanes, lambda offset, lane: self._vector(v, origin, place, y, x, offset, lane, inside)
                )
            )

        inside = _within(y, 0, height - (side - 1)) & _within(x, 0, width - (side - 1))
        return [*statements, If(inside, vectors(True), vectors(False))]

    def _vector(self, v: Buf, origin: Expr, place: Expr, y: Expr, x: Expr, offset: Expr, lane: Expr, inside: bool) -> list[Stmt]:
        """The patch of some channels; unless `inside`, what lies outside the image is zero and not read."""
        names, side, lanes = self.names, self.side, self.tile.lanes
        _, height, width, _ = (size_expr(d) for d in self.source)
        lines = Buf(names.var("lines").name, f32, "local", side * side * lanes)
        line, column = names.var("i"), names.var("j")

        def source(j: int) -> Expr:
            at = origin + (line * width + j) * self.channels + offset + lane
            return Load(self.x, at) if inside else Load(self.x, at, _within(x + j, 0, width), 0.0)

        def transformed(values: Sequence[Expr], store: Callable[[int, Expr], Stmt]) -> tuple[Stmt, ...]:
            given, lets = _named(names, values)
            return (*lets, *(store(k, e) for k, e in enumerate(_patch_line(given, PAIRS[self.m]))))

        read = transformed([source(j) for j in range(side)], lambda k, e: Store(lines, (line * side + k) * lanes + lane, e))
        if not inside:
            zeros = tuple(Store(lines, (line * side + k) * lanes + lane, Const(0.0, f32)) for k in range(side))
            read = (If(_within(y + line, 0, height), read, zeros),)
        down = transformed(
            [Load(lines, (column + i * side) * lanes + lane) for i in range(side)],
            lambda k, e: Store(
                v, place + offset // CHUNK * self.v_chunk + (column + k * side) * self.v_position + offset % CHUNK + lane, e
            ),
        )
        return [Alloc(lines), For(line, const(side), read, "unroll"), For(column, const(side), down, "unroll")]

    # --- the products -------------------------------------------------------------------------------------------------------

    def _multiply(self, v: Buf, m: Buf, panel: Expr, count: Expr) -> list[Stmt]:
        """M of a panel, for `count` register tiles."""
        names, tile = self.names, self.tile
        position, group, start, row = names.var("position"), names.var("g"), names.var("b"), names.var("row")
        acc = Buf(names.var("acc").name, f32, "reg", tile.rows * tile.width)
        size = self.channels * tile.width

        def every(element: Callable[[Expr, Expr], Stmt]) -> For:
            """`element(sum, its place in M)` for every vector of sums."""
            i, j, lane = names.var("i"), names.var("j"), names.var("l")
            at = i * tile.width + j * tile.lanes + lane
            vector = For(lane, const(tile.lanes), (element(at, (group * self.positions + position) * self.m_position + at),), "vector")
            return For(i, const(tile.rows), (For(j, const(tile.vectors), (vector,), "unroll"),), "unroll")

        whole, rest = divmod(self.channels, CHUNK)
        ahead = self._ahead(start, position, group)

        def sums(chunk: int, k: tuple[int, ...]) -> list[Stmt]:
            """The sums over channels from a chunk on."""
            rows = [row + (chunk * self.v_chunk + q * CHUNK) for q in range(tile.rows)]
            moves, b = (self.v_chunk, 1)[-len(k) :], start + chunk * CHUNK * tile.width
            second = in_panels(self.panels, b, const(0), tile.width, k)
            return multiply_add(names, acc, tile, tile.vectors, v, rows, moves, second, k, UNROLL_K, ahead)

        one = (
            Alloc(acc),
            Let(row, group * (self.chunks * self.v_chunk) + position * self.v_position),
            every(lambda at, place: Store(acc, at, Const(0.0, f32))),
            *(sums(0, (whole, CHUNK)) if whole else []),
            *(sums(whole, (rest,)) if rest else []),
            every(lambda at, place: Store(m, place, Load(acc, at))),
        )
        return [For(position, const(self.positions), (Let(start, (position * self.count + panel) * size), For(group, count, one)))]

    def _ahead(self, start: Expr, position: Expr, group: Expr) -> Hints:
        """Hints for the panel of the next position: every group asks for its share."""
        if self.panel_bytes <= SECOND_LEVEL:
            return lambda k: []
        size = self.channels * self.tile.width
        lines = -(-(CHUNK * self.tile.width * f32.itemsize // LINE_BYTES) // self.groups)
        following = LOOPS.where(
            position + 1 < self.positions, const(self.count * size), const(size * (1 - (self.positions - 1) * self.count))
        )

        def hints(k: Expr) -> list[Stmt]:
            line = (group * (self.channels // CHUNK) + k // CHUNK) * lines
            return [Prefetch(self.panels, start + following + (line + q) * (LINE_BYTES // f32.itemsize)) for q in range(lines)]

        return hints

    # --- the results --------------------------------------------------------------------------------------------------------

    def _results(self, m: Buf, first: Expr, count: Expr, panel: Expr) -> Stmt:
        """The results of the block's tiles in a panel's columns."""
        names, tile, side = self.names, self.tile, self.side
        slot, y, x, pixel, j = names.var("tile"), names.var("y"), names.var("x"), names.var("pixel"), names.var("j")
        image, down, across = unravel(first + slot, self.tiles)
        _, height, width, _ = (size_expr(d) for d in self.shape)
        lines = Buf(names.var("lines").name, f32, "local", self.m * side * tile.lanes)
        column, lane, place = names.var("c"), names.var("l"), names.var("place")
        given, lets = _named(
            names, [Load(m, place + (column + i * side) * self.m_position + j * tile.lanes + lane) for i in range(side)]
        )
        stores = (Store(lines, (column + k * side) * tile.lanes + lane, e) for k, e in enumerate(_result_line(given, PAIRS[self.m])))
        load = For(column, const(side), (For(lane, const(tile.lanes), (*lets, *stores), "vector"),), "unroll")
        one = (Alloc(lines), load, *self._store(lines, y, x, pixel, panel * tile.width + j * tile.lanes))
        body = (
            Let(y, down * self.m),
            Let(x, across * self.m),
            Let(pixel, (image * height + y) * width + x),
            Let(place, slot // tile.rows * (self.positions * self.m_position) + slot % tile.rows * tile.width),
            For(j, const(tile.vectors), one),
        )
        return For(slot, count, body)

    def _store(self, lines: Buf, y: Expr, x: Expr, pixel: Expr, first_column: Expr) -> list[Stmt]:
        """The second half of the transform, the epilogue, and the only store, of the results that exist."""
        names, tile, side = self.names, self.tile, self.side
        _, height, width, columns = self.shape
        line, lane = names.var("i"), names.var("l")
        given, lets = _named(names, [Load(lines, (line * side + k) * tile.lanes + lane) for k in range(side)])
        shape = self.start.shape
        outputs: list[tuple[Value, Buf]] = list(zip(self.flat.outputs, self.params.outputs, strict=True))
        statements: list[Stmt] = list(lets)
        for k, e in enumerate(_result_line(given, PAIRS[self.m])):
            named, let = _named(names, [e])
            reads = Access({**self.bound, self.start: lambda index, mask, other, e=named[0]: e})
            index: Index = (*unravel(pixel + line * size_expr(width) + k, shape[:-1]), first_column + lane)
            stores = (*let, *(Store(b, linear(index, strides_of(shape)), reads.at(v, index)) for v, b in outputs))
            exists = x + k < size_expr(width)
            statements += stores if k == 0 or _divides(self.m, width) else [If(exists, stores)]
        limit = None if _divides(tile.width, columns) else size_expr(columns) - first_column
        vector: Stmt = For(lane, const(tile.lanes), tuple(statements), "vector", limit=limit)
        if not _divides(self.m, height):
            vector = If(y + line < size_expr(height), (vector,))
        return [For(line, const(self.m), (vector,), "unroll")]


def _divides(by: int, d: Dim) -> bool:
    return isinstance(d, int) and d % by == 0


def _within(e: Expr, low: Scalar, high: Expr) -> Expr:
    """low <= e < high."""
    return binary("le", low, e) & (e < high)


def _named(names: Names, values: Sequence[Expr]) -> tuple[list[Expr], list[Stmt]]:
    """Variables that hold the values, and the statements that bind them."""
    variables = [names.var("d", f32) for _ in values]
    return list(variables), [Let(v, e) for v, e in zip(variables, values, strict=True)]


def _polynomial(roots: Sequence[float]) -> list[float]:
    """Coefficients of the product of (y - root), lowest first; the last is 1."""
    return [float(c) for c in np.poly(list(roots))[::-1]] if roots else [1.0]


def _weighted(coefficients: Sequence[float], d: Sequence[Expr]) -> Expr:
    total = d[len(coefficients) - 1]
    for c, x in reversed(list(zip(coefficients[:-1], d, strict=False))):
        total = LOOPS.fma(x, c, total)
    return total


def _patch_line(d: Sequence[Expr], pairs: Sequence[float]) -> list[Expr]:
    """B^T d: at each point p the coefficients of prod(x - q) over the other points q, at infinity over all of them."""
    whole = _polynomial([a * a for a in pairs])
    result = [_weighted(whole, d[0::2])]
    for a in pairs:
        others = _polynomial([b * b for b in pairs if b != a])
        even, odd = _weighted(others, d[2::2]), _weighted(others, d[1::2])
        result += [LOOPS.fma(odd, a, even), LOOPS.fma(odd, -a, even)]
    return [*result, _weighted(whole, d[1::2])]


def _result_line(d: Sequence[Expr], pairs: Sequence[float]) -> list[Expr]:
    """A^T d: result i is the sum of p^i d[p] over the points, the last with what stands at infinity."""
    sums = [(d[k] + d[k + 1], d[k] - d[k + 1]) for k in range(1, len(d) - 1, 2)]
    result: list[Expr] = []
    for i in range(len(d) - 2):
        total = d[0] if i == 0 else d[-1] if i == len(d) - 3 else None
        for a, s in zip(pairs, sums, strict=True):
            x = s[i % 2]
            total = x * a**i if total is None else LOOPS.fma(x, a**i, total)
        assert total is not None
        result.append(total)
    return result
