"""The `map` template: pointwise and index ops, one element of the result at a time.

Loops run over the (collapsed) result; the innermost long dim is the vector.  A `concat` at the root becomes one loop nest for each
operand, so that no element asks which operand it is from.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, dim_product
from ...ir.graph import Graph, Value
from ...ir.loops import Buf, Expr, For, LoopFunction, Names, Stmt, Store, size_expr
from .access import Access, linear, strides_of, unravel
from .collapse import collapse, is_pointwise
from .grid import cells
from .kernel import UNROLL, access, function, loops, operations, parameters, spread, spread_block
from .stream import ahead, alignment, streamable, versions
from .tiles import crossing_axis, interleaved, interleaves, tiled

BLOCK = 2048  # elements of the innermost dim that one task covers
SHORT = 8  # an innermost dim below this is not worth a vector where another is longer


def lower_map(body: Graph, lanes: int, grid: bool = False) -> LoopFunction:
    """Loops for a body of pointwise and index ops whose outputs share one shape.

    `lanes` elements at a time, parallel over everything but the innermost block; on a grid one thread for each element.
    """
    names = Names()
    params = parameters(body)
    root = body.outputs[0]
    work = operations(body)
    if root.node.op == "concat" and len(body.outputs) == 1:
        statements: list[Stmt] = []
        reads = access(body, params)
        offset: Dim = 0
        axis = root.node.attrs["axis"]
        for operand in root.node.inputs:
            targets = [(operand, params.outputs[0])]
            statements += _nest(
                names, body, params.inputs, reads, targets, root.shape, operand.shape, (axis, offset), lanes, work, grid
            )
            offset = offset + operand.shape[axis]
        return function(body, params, statements)
    flat = collapse(body, root.shape) if is_pointwise(body) else body
    reads = access(flat, params)
    targets = list(zip(flat.outputs, params.outputs, strict=True))
    shape = flat.outputs[0].shape
    if len(targets) == 1 and not grid:
        axis = crossing_axis(names, reads, flat.outputs[0], shape)
        if axis is not None:
            return function(body, params, tiled(names, reads, *targets[0], shape, axis, lanes, work))
        if interleaves(names, reads, flat.outputs[0], shape):
            return function(body, params, interleaved(names, reads, *targets[0], shape, lanes, work))
    return function(body, params, _nest(names, flat, params.inputs, reads, targets, shape, shape, (0, 0), lanes, work, grid))


def _nest(
    names: Names,
    body: Graph,
    inputs: Sequence[Buf],
    reads: Access,
    targets: Sequence[tuple[Value, Buf]],
    shape: Sequence[Dim],
    extent: Sequence[Dim],
    shift: tuple[int, Dim],
    lanes: int,
    work: int,
    grid: bool,
) -> list[Stmt]:
    """Loops over `extent` that store each target into a buffer of `shape`, moved by shift (axis, offset)."""
    strides = strides_of(shape)

    def place(index: Sequence[Expr]) -> Expr:
        at = list(index)
        if shift[1] != 0:
            at[shift[0]] = at[shift[0]] + size_expr(shift[1])
        return linear(at, strides)

    def stores(index: Sequence[Expr], stream: bool = False) -> list[Stmt]:
        return [Store(b, place(index), reads.at(v, index), stream=alignment(b, lanes) if stream else 0) for v, b in targets]

    if grid:
        return [cells(names, extent, stores)]
    shape, extent = list(shape), list(extent)
    rank = len(extent)
    vector = _vector_axis(extent)
    block = extent[vector] if rank else 1
    blocks: Dim = 1
    if not isinstance(block, int) or block > BLOCK:
        blocks = (block + (BLOCK - 1)) // BLOCK
    inner = list(range(vector + 1, rank))
    outer = [k for k in range(rank) if k < vector]
    task = names.var("t")
    *outer_index, block_index = unravel(task, [*(extent[k] for k in outer), blocks])

    unroll = UNROLL if work <= 12 and not inner else 1

    def nest(stream: bool) -> list[Stmt]:
        def element(offset: Expr, lane: Expr) -> Sequence[Stmt]:
            if not rank:
                return stores(())
            return loops(names, [extent[k] for k in inner], lambda rest: stores([*outer_index, offset + lane, *rest], stream))

        def ask(offset: Expr, count: int) -> Sequence[Stmt]:
            return ahead(body, inputs, shape, place((*outer_index, offset)), count) if stream else ()

        if blocks == 1:
            return spread(names, block, lanes, element, unroll, ask)
        return spread_block(names, block, BLOCK, block_index, lanes, element, unroll, ask)

    if inner or not rank:
        statements = nest(False)
    else:
        lines = [shape[-1]] if rank > 1 else []  # every line of the result, and this part of it, begins at a vector
        begins = [*lines, *([shift[1]] if shift[0] == rank - 1 else [])]
        statements = versions(streamable([b for _, b in targets], dim_product(shape), begins, lanes, work), nest)
    tasks = size_expr(dim_product([*(extent[k] for k in outer), blocks]))
    cost = size_expr(dim_product([block if blocks == 1 else BLOCK, *(extent[k] for k in inner)])) * work
    return [For(task, tasks, tuple(statements), "parallel", cost=cost)]


def _vector_axis(extent: Sequence[Dim]) -> int:
    """The innermost axis, or an outer one where that is short."""
    if not extent:
        return 0
    last = len(extent) - 1
    for axis in range(last, max(-1, last - 3), -1):
        d = extent[axis]
        if not isinstance(d, int) or d >= SHORT:
            return axis
    return last
