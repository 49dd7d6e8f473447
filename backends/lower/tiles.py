"""Tiles for maps that read along another axis than they write (transposes, packing of transposed operands, planes of an image).

Reading neighbours of the result from places far apart costs a gather for each vector; a tile of `lanes` x `lanes` elements is read as
whole vectors along the operand's axis, transposed in registers, and written as whole vectors along the result's.  Where the result's
last axis is short, as many vectors as it is long are interleaved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.dims import Dim, dim_product
from ...ir.graph import Value
from ...ir.loops import (
    Alloc,
    Buf,
    Const,
    Expr,
    For,
    If,
    Interleave,
    Load,
    Names,
    Stmt,
    Store,
    Transpose,
    binary,
    children,
    coefficient,
    size_expr,
)
from .access import Access, linear, strides_of, unravel
from .kernel import const, remainder

SHORT = 8  # an axis below this fills too little of a tile
SIDE = 16  # of the largest square tile: code grows with its square


def crossing_axis(names: Names, reads: Access, value: Value, extent: Sequence[Dim]) -> int | None:
    """The axis along which the operands lie while the result lies along the last, or None where tiles would not help."""
    if len(extent) < 2:
        return None
    index = [names.var("x") for _ in extent]
    loads = list(_loads(reads.at(value, index)))
    if any(load.mask is not None or any(True for _ in _loads(load.index)) for load in loads):
        return None
    crossing = []
    for load in loads:
        along = _constant(coefficient(load.index, index[-1]))
        if along == 1:
            return None
        if along != 0:
            crossing.append(load)
    for axis in range(len(extent) - 2, -1, -1):
        if crossing and all(_constant(coefficient(load.index, index[axis])) == 1 for load in crossing):
            long = all(not isinstance(d, int) or d >= SHORT for d in (extent[axis], extent[-1]))
            return axis if long else None
    return None


def interleaves(names: Names, reads: Access, value: Value, extent: Sequence[Dim]) -> bool:
    """Whether the operands lie along the axis before the result's last, which is short."""
    if len(extent) < 2 or not isinstance(extent[-1], int) or not 1 < extent[-1] < SHORT:
        return False
    index = [names.var("x") for _ in extent]
    along = [
        (_constant(coefficient(x.index, index[-2])), _constant(coefficient(x.index, index[-1]))) for x in _loads(reads.at(value, index))
    ]
    return any(before == 1 for before, _ in along) and all(before == 0 or (before == 1 and last != 1) for before, last in along)


def _loads(e: Expr) -> Iterator[Load]:
    stack, seen = [e], set()
    while stack:
        x = stack.pop()
        if isinstance(x, Load):
            yield x
        elif id(x) not in seen:
            seen.add(id(x))
            stack.extend(children(x))


def _constant(e: Expr | None) -> int | None:
    return int(e.value) if isinstance(e, Const) else None


def tiled(
    names: Names, reads: Access, value: Value, target: Buf, extent: Sequence[Dim], axis: int, lanes: int, work: int
) -> list[Stmt]:
    """Loops that store `value` into `target` tile by tile; a task is a strip of tiles along the last axis."""
    lanes = min(lanes, SIDE)
    strides = strides_of(extent)
    others = [k for k in range(len(extent) - 1) if k != axis]
    strips = (extent[axis] + (lanes - 1)) // lanes
    task = names.var("t")
    *outer, strip = unravel(task, [*(extent[k] for k in others), strips])
    first = strip * lanes
    number = names.var("q")
    start = number * lanes

    def index(across: Expr, along: Expr) -> list[Expr]:
        at: list[Expr] = [const(0)] * len(extent)
        for k, e in zip(others, outer, strict=True):
            at[k] = e
        at[axis], at[-1] = across, along
        return at

    def tile(rows: Expr | None, columns: Expr | None) -> tuple[Stmt, ...]:
        """One tile; `rows` of the operand's axis and `columns` of the last, None for all."""
        buffer = Buf(names.var("tile").name, value.dtype, "reg", lanes * lanes)
        r, c, v, w = (names.var(n) for n in ("r", "c", "v", "v"))
        x = reads.at(value, index(first + v, start + r))
        read: Stmt = For(v, const(lanes), (Store(buffer, r * lanes + v, x),), "vector", limit=rows)
        at = linear(index(first + c, start + w), strides)
        write: Stmt = For(w, const(lanes), (Store(target, at, Load(buffer, c * lanes + w)),), "vector", limit=columns)
        if rows is not None and columns is not None:
            read, write = If(r < columns, (read,)), If(c < rows, (write,))
        loops = For(r, const(lanes), (read,), "unroll"), Transpose(buffer, lanes), For(c, const(lanes), (write,), "unroll")
        return (Alloc(buffer), *loops)

    rows_left, columns_left = size_expr(extent[axis]) - first, size_expr(extent[-1]) - start
    whole = (rows_left >= lanes) & (columns_left >= lanes)
    body = If(whole, tile(None, None), tile(rows_left, columns_left))
    count = (size_expr(extent[-1]) + (lanes - 1)) // lanes
    tasks = size_expr(dim_product([*(extent[k] for k in others), strips]))
    cost = size_expr(extent[-1]) * (lanes * work)
    return [For(task, tasks, (For(number, count, (body,)),), "parallel", cost=cost)]


def interleaved(names: Names, reads: Access, value: Value, target: Buf, extent: Sequence[Dim], lanes: int, work: int) -> list[Stmt]:
    """Loops that store `value` into `target`, vectors along the axis before its last, which `interleaves` accepts."""
    rows, size = int(extent[-1]), extent[-2]  # type: ignore[arg-type]
    strides = strides_of(extent)
    task, number = names.var("t"), names.var("q")
    outer = unravel(task, extent[:-2])
    overlaps = isinstance(size, int) and size >= lanes  # the last tile with the one before it: it stores the same there
    start = binary("min", number * lanes, size_expr(size) - lanes) if overlaps else number * lanes
    buffer = Buf(names.var("tile").name, value.dtype, "reg", rows * lanes)
    r, c, v, w = (names.var(n) for n in ("r", "c", "v", "v"))
    read = For(v, const(lanes), (Store(buffer, r * lanes + v, reads.at(value, (*outer, start + v, r))),), "vector")
    at = linear((*outer, start, const(0)), strides) + c * lanes + w
    write = For(w, const(lanes), (Store(target, at, Load(buffer, c * lanes + w)),), "vector")
    tile = (
        Alloc(buffer),
        For(r, const(rows), (read,), "unroll"),
        Interleave(buffer, rows, lanes),
        For(c, const(rows), (write,), "unroll"),
    )

    def one_by_one(offset: Expr, lane: Expr) -> list[Stmt]:
        places = ((*outer, offset + lane, const(k)) for k in range(rows))
        return [Store(target, linear(place, strides), reads.at(value, place)) for place in places]

    line = size_expr(size)
    if overlaps:
        count, rest = (line + (lanes - 1)) // lanes, []
    else:
        count, rest = line // lanes, remainder(names, line % lanes, line - line % lanes, lanes, one_by_one)
    tasks, cost = size_expr(dim_product(extent[:-2])), line * (rows * work)
    return [For(task, tasks, (For(number, count, tile), *rest), "parallel", cost=cost)]
