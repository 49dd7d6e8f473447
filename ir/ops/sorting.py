"""Opaque ops that order elements: sort, topk and unique, all stable, with NaN greater than every number.

Each lane is sorted by a merge sort in this worker's scratch memory; a small k is selected without sorting the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dims import Dim, dim_product
from ..errors import ShapeError
from ..loops import Expr, If, Let, Names, Stmt, Tensor, While, as_expr, size_expr
from ..scalar import LOOPS, compute_dtype
from ..types import TensorType, bool_, i64
from .looping import STEP_COST, add_to, each, fill, scratch
from .registry import Sample, Types, opaque

SMALL_K = 64  # up to here topk inserts into a sorted list of k, whose cost grows with k for each element that enters

Before = Callable[[Expr, Expr], Expr]  # whether an element comes strictly before another


def _before(descending: bool) -> Before:
    """The order of elements of one dtype, NaN being greatest."""

    def before(a: Expr, b: Expr) -> Expr:
        a, b = (LOOPS.cast(x, compute_dtype(x.dtype)) for x in (a, b))
        if a.dtype is bool_:
            return (a & ~b) if descending else (b & ~a)
        first, second = (b, a) if descending else (a, b)
        less = first < second
        return less | (~LOOPS.is_nan(first) & LOOPS.is_nan(second)) if a.dtype.is_float else less

    return before


def merge_sort(
    names: Names, order: Tensor, spare: Tensor, length: Dim, before: Callable[[Expr, Expr], tuple[list[Stmt], Expr]]
) -> list[Stmt]:
    """Sort order[0..length], which holds i64 ids, stably; `before(a, b)` says for two ids, after some statements, a < b."""
    n = size_expr(length)
    one = as_expr(1, i64)
    alloc_width, width = scratch(names, "width", i64)
    alloc_i, i = scratch(names, "left", i64)
    alloc_j, j = scratch(names, "right", i64)

    def merge(run: Expr) -> list[Stmt]:
        low, middle, high = (names.var(hint) for hint in ("low", "middle", "high"))

        def step(t: Expr) -> list[Stmt]:
            a, b = names.var("a"), names.var("b")
            first = order.at((i[()],), i[()] < middle)
            second = order.at((j[()],), j[()] < high)
            compare, right_first = before(b, a)
            take = names.var("take", bool_)
            return [
                Let(a, first),
                Let(b, second),
                *compare,
                Let(take, (j[()] < high) & ((i[()] >= middle) | right_first)),
                spare.store(low + t, LOOPS.where(take, b, a)),
                i.store((), i[()] + LOOPS.where(take, as_expr(0, i64), one)),
                j.store((), j[()] + LOOPS.where(take, one, as_expr(0, i64))),
            ]

        return [
            Let(low, run * 2 * width[()]),
            Let(middle, LOOPS.min(low + width[()], n)),
            Let(high, LOOPS.min(low + width[()] * 2, n)),
            i.store((), low),
            j.store((), middle),
            each(names, "t", high - low, step),
        ]

    runs = names.var("runs")
    body = [
        Let(runs, (n + width[()] * 2 - 1) // (width[()] * 2)),
        each(names, "run", runs, merge),
        each(names, "t", length, lambda t: [order.store(t, spare[t])]),
        width.store((), width[()] * 2),
    ]
    return [alloc_width, alloc_i, alloc_j, width.store((), 1), While(width[()] < n, tuple(body))]


def _sorted_lane(names: Names, x: Tensor, lane: Callable[[Expr], tuple], length: Dim, descending: bool) -> tuple[list[Stmt], Tensor]:
    """Statements that sort one lane of x, and the scratch tensor that then holds the order of its positions."""
    alloc_order, order = scratch(names, "order", i64, length)
    alloc_spare, spare = scratch(names, "spare", i64, length)
    ahead = _before(descending)

    def before(a: Expr, b: Expr) -> tuple[list[Stmt], Expr]:
        n = size_expr(length)
        first, second = names.var("va", x.buf.dtype), names.var("vb", x.buf.dtype)
        safe = [LOOPS.min(k, n - 1) for k in (a, b)]  # past the end of a run the ids are 0, and not used
        return [Let(first, x[lane(safe[0])]), Let(second, x[lane(safe[1])])], ahead(first, second)

    start = each(names, "t", length, lambda t: [order.store(t, t)])
    return [alloc_order, alloc_spare, start, *merge_sort(names, order, spare, length, before)], order


def _lanes(ins: list[Tensor], outs: list[Tensor], axis: int) -> tuple[Dim, Dim, list[Tensor]]:
    """The number of lanes outside and inside `axis`, and all tensors viewed as [outer, axis, inner]."""
    shape = ins[0].shape
    outer, inner = dim_product(shape[:axis]), dim_product(shape[axis + 1 :])
    return outer, inner, [t.view(outer, t.shape[axis], inner) for t in (ins[0], *outs)]


# --- sort and topk ----------------------------------------------------------------------------------------------------------


def _order(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    if x.dtype.kind == "V":
        x = x.astype(np.float32)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    backwards = np.argsort(np.flip(x, axis), axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(backwards, axis)


def _infer_sort(types: Types, *, axis: int, descending: bool = False) -> Types:
    (t,) = types
    if not 0 <= axis < t.rank:
        raise ShapeError(f"axis {axis} is out of range for {t}")
    return (t, t.with_dtype(i64))


def _sort_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, axis: int, descending: bool = False) -> list[Stmt]:
    outer, inner, (x, values, indices) = _lanes(ins, outs, axis)
    return [_select_sorted(names, x, values, indices, outer * inner, inner, x.shape[1], descending)]


def _select_sorted(names: Names, x: Tensor, values: Tensor, indices: Tensor, lanes: Dim, inner: Dim, k: Dim, descending: bool) -> Stmt:
    """Sort every lane whole and store its first k."""

    def lane(p: Expr) -> list[Stmt]:
        o, q = p // size_expr(inner), p % size_expr(inner)
        statements, order = _sorted_lane(names, x, lambda t: (o, t, q), x.shape[1], descending)

        def show(t: Expr) -> list[Stmt]:
            at = names.var("at")
            return [Let(at, order[t]), values.store((o, t, q), x[o, at, q]), indices.store((o, t, q), at)]

        return [*statements, each(names, "t", k, show)]

    return each(names, "p", lanes, lane, "parallel", x.shape[1] * (20 * STEP_COST))


def _ordered_samples(**sizes: int) -> Callable[[np.random.Generator], Iterable[Sample]]:
    flag = "largest" if sizes else "descending"

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for dtype in (np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8):
            for shape, axis, forward in (((5, 37), 1, True), ((7, 3), 0, False), ((2, 9, 4), 1, True), ((6,), 0, False)):
                yield Sample((rng.integers(0, 9, shape).astype(dtype),), {"axis": axis, flag: forward} | sizes)
        x = np.array([[3, np.nan, -np.inf, 1, np.inf, np.nan, 2]], np.float32)
        yield Sample((x,), {"axis": 1, flag: True} | sizes)
        yield Sample((x,), {"axis": 1, flag: False} | sizes)
        if sizes:
            yield Sample((rng.standard_normal((3, 200)).astype(np.float32),), {"axis": 1, flag: True, "k": 100})

    return samples


@opaque(infer=_infer_sort, loops=_sort_loops, samples=_ordered_samples())
def sort(x: np.ndarray, *, axis: int, descending: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """x sorted along `axis`, equal elements in their order, and the positions the elements come from, as i64."""
    order = _order(x, axis, descending)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def _infer_topk(types: Types, *, k: Dim, axis: int, largest: bool = True, sorted: bool = True) -> Types:
    (t,) = types
    if not 0 <= axis < t.rank:
        raise ShapeError(f"axis {axis} is out of range for {t}")
    if isinstance(k, int) and (k < 0 or (isinstance(d := t.shape[axis], int) and k > d)):
        raise ShapeError(f"k is {k}, but axis {axis} of {t} has {t.shape[axis]} elements")
    values = t.with_shape((*t.shape[:axis], k, *t.shape[axis + 1 :]))
    return values, values.with_dtype(i64)


def _topk_loops(
    names: Names, ins: list[Tensor], outs: list[Tensor], *, k: Dim, axis: int, largest: bool = True, sorted: bool = True
) -> list[Stmt]:
    outer, inner, (x, values, indices) = _lanes(ins, outs, axis)
    if not isinstance(k, int) or k > SMALL_K:
        return [_select_sorted(names, x, values, indices, outer * inner, inner, k, largest)]
    if k == 0:
        return []
    ahead = _before(largest)

    def lane(p: Expr) -> list[Stmt]:
        o, q = p // size_expr(inner), p % size_expr(inner)
        alloc_best, best = scratch(names, "best", x.buf.dtype, k)
        alloc_place, place = scratch(names, "place", i64, k)
        alloc_count, count = scratch(names, "count", i64)
        alloc_slot, slot = scratch(names, "slot", i64)

        def visit(t: Expr) -> list[Stmt]:
            v = names.var("v", x.buf.dtype)
            last = best.at((count[()] - 1,), count[()] > 0)
            s = slot[()]
            ahead_of_previous = (s > 0) & ahead(v, best.at((slot[()] - 1,), slot[()] > 0))
            shift: list[Stmt] = [
                best.store(slot[()], best[slot[()] - 1]),
                place.store(slot[()], place[slot[()] - 1]),
                slot.store((), slot[()] - 1),
            ]
            insert: list[Stmt] = [
                slot.store((), LOOPS.min(count[()], as_expr(k - 1, i64))),
                While(ahead_of_previous, tuple(shift)),
                best.store(slot[()], v),
                place.store(slot[()], t),
                count.store((), LOOPS.min(count[()] + 1, as_expr(k, i64))),
            ]
            return [Let(v, x[o, t, q]), If((count[()] < k) | ahead(v, last), tuple(insert))]

        return [
            alloc_best,
            alloc_place,
            alloc_count,
            alloc_slot,
            count.store((), 0),
            each(names, "t", x.shape[1], visit),
            each(names, "t", k, lambda t: [values.store((o, t, q), best[t]), indices.store((o, t, q), place[t])]),
        ]

    return [each(names, "p", outer * inner, lane, "parallel", x.shape[1] * STEP_COST)]


@opaque(infer=_infer_topk, loops=_topk_loops, samples=_ordered_samples(k=3))
def topk(x: np.ndarray, *, k: int, axis: int, largest: bool = True, sorted: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The k largest or smallest elements along `axis` and their positions, as i64; best first whether `sorted` or not."""
    order = np.take(_order(x, axis, largest), np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


# --- unique -----------------------------------------------------------------------------------------------------------------


def _infer_unique(types: Types, *, sorted: bool = True) -> Types:
    (t,) = types
    if not t.rank:
        raise ShapeError("needs at least one axis")
    each_row = TensorType(i64, t.shape[:1])
    return (t, each_row, each_row, each_row, TensorType(i64, (1,)))


def _unique_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, sorted: bool = True) -> list[Stmt]:
    n, inner = ins[0].shape[0], dim_product(ins[0].shape[1:])
    x, rows = ins[0].view(n, inner), outs[0].view(n, inner)
    first, inverse, counts, count = outs[1:]
    ahead = _before(False)
    alloc_order, order = scratch(names, "order", i64, n)
    alloc_spare, spare = scratch(names, "spare", i64, n)
    alloc_column, column = scratch(names, "column", i64)
    alloc_group, group = scratch(names, "group", i64)

    def differing(a: Expr, b: Expr) -> list[Stmt]:
        """Afterwards `column` is the first in which rows a and b differ, or their width."""
        here = (column[()] < size_expr(inner),)

        def element(row: Expr) -> Expr:
            return x.at((row, column[()]), here[0])

        same = ~(ahead(element(a), element(b)) | ahead(element(b), element(a)))
        return [column.store((), 0), While((column[()] < size_expr(inner)) & same, (column.store((), column[()] + 1),))]

    def before(a: Expr, b: Expr) -> tuple[list[Stmt], Expr]:
        inside = column[()] < size_expr(inner)
        return differing(a, b), inside & ahead(x.at((a, column[()]), inside), x.at((b, column[()]), inside))

    def number(t: Expr) -> list[Stmt]:
        """Give the row at place t of the order its group; equal rows are neighbours, the first row of each in front."""
        row, previous = names.var("row"), names.var("previous")
        new = (t < 1) | (column[()] < size_expr(inner))
        return [
            Let(row, order[t]),
            Let(previous, order.at((t - 1,), t > 0)),
            *differing(row, previous),
            If(new, (add_to(group), spare.store(group[()], row), counts.store(group[()], 0))),
            inverse.store(row, group[()]),
            counts.store(group[()], counts[group[()]] + 1),
        ]

    def show(g: Expr) -> list[Stmt]:
        row = names.var("row")
        return [
            Let(row, spare[g]),
            first.store(g, row),
            each(names, "q", inner, lambda q: [rows.store((g, q), x[row, q])]),
        ]

    numbered: list[Stmt] = [
        alloc_order,
        alloc_spare,
        alloc_column,
        alloc_group,
        each(names, "t", n, lambda t: [order.store(t, t)]),
        *merge_sort(names, order, spare, n, before),
        group.store((), -1),
        each(names, "t", n, number),
        *([] if sorted else _by_appearance(names, order, spare, inverse, counts, n)),
        count.store(0, group[()] + 1),
        each(names, "g", group[()] + 1, show),
    ]
    return [*(fill(names, t, 0) for t in (rows, first, inverse, counts)), *numbered]


def _by_appearance(names: Names, order: Tensor, spare: Tensor, inverse: Tensor, counts: Tensor, n: Dim) -> list[Stmt]:
    """Number the groups anew in the order of their first rows; `order` becomes scratch memory."""
    alloc_new, new = scratch(names, "new", i64, n)
    alloc_next, following = scratch(names, "following", i64)

    def visit(row: Expr) -> list[Stmt]:
        g = names.var("g")
        starts = LOOPS.eq(spare[g], row)
        again: list[Stmt] = [new.store(g, following[()]), order.store(following[()], counts[g]), add_to(following)]
        return [Let(g, inverse[row]), If(starts, tuple(again)), inverse.store(row, new[g])]

    alloc_at, at = scratch(names, "place", i64)

    def move(row: Expr) -> list[Stmt]:
        """The rows that start groups, in order, become the groups' rows."""
        here = LOOPS.eq(inverse[row], at[()])
        return [If(here, (spare.store(at[()], row), counts.store(at[()], order[at[()]]), add_to(at)))]

    return [
        alloc_new,
        alloc_next,
        alloc_at,
        following.store((), 0),
        each(names, "row", n, visit),
        at.store((), 0),
        each(names, "row", n, move),
    ]


def _unique_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16):
        yield Sample((rng.integers(0, 9, 37).astype(dtype),), {})
        yield Sample((rng.integers(0, 9, 23).astype(dtype),), {"sorted": False})
        yield Sample((rng.integers(0, 2, (11, 3)).astype(dtype),), {})
        yield Sample((rng.integers(0, 2, (11, 2)).astype(dtype),), {"sorted": False})
    yield Sample((np.array([4], np.float32),), {})


@opaque(infer=_infer_unique, loops=_unique_loops, samples=_unique_samples)
def unique(x: np.ndarray, *, sorted: bool = True) -> tuple[Any, ...]:
    """The distinct rows x[k], each group's first row, each row's group, each group's count, and how many there are, i64[1].

    Rows are in ascending order, or in that of their first appearance; what is past their number is 0.
    """
    n = x.shape[0]
    flat = x.reshape(n, -1).astype(np.float32 if x.dtype.kind == "V" else x.dtype)
    order = np.lexsort(flat.T[::-1]) if flat.shape[1] else np.arange(n)
    starts = np.ones(n, bool)
    same = (flat[order[1:]] == flat[order[:-1]]) | (np.isnan(flat[order[1:]]) & np.isnan(flat[order[:-1]]))
    starts[1:] = ~same.all(1)
    groups = np.cumsum(starts) - 1
    first = order[starts]
    inverse = np.zeros(n, np.int64)
    inverse[order] = groups
    if not sorted:
        appearance = np.argsort(first)
        first = first[appearance]
        inverse = np.argsort(appearance)[inverse]
    found = len(first)
    firsts, counts, rows = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros_like(x)
    firsts[:found], rows[:found] = first, x[first]
    counts[:found] = np.bincount(inverse, minlength=found)
    return rows, firsts, inverse, counts, np.array([found], np.int64)
