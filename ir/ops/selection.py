"""Opaque ops whose results have as many elements as the data says: nonzero, compress, nms.

Each gives a result padded with zeros to the largest size it can have, and the count i64[1], for `bind_size` to cut it by.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..dims import dim_product
from ..errors import ShapeError
from ..loops import Expr, If, Let, Names, Stmt, Tensor, Var, While
from ..scalar import LOOPS, NUMPY, compute_dtype
from ..types import TensorType, bool_, f32, i64
from .looping import add_to, each, fill, nest, scratch
from .registry import Sample, Types, opaque

_COUNT = TensorType(i64, (1,))


# --- nonzero ----------------------------------------------------------------------------------------------------------------


def _infer_nonzero(types: Types) -> Types:
    (t,) = types
    if not t.rank:
        raise ShapeError("needs at least one axis; reshape a scalar to [1]")
    return (TensorType(i64, (t.rank, t.size)), _COUNT)


def _nonzero_loops(names: Names, ins: list[Tensor], outs: list[Tensor]) -> list[Stmt]:
    x, (places, count) = ins[0], outs
    alloc, found = scratch(names, "found", i64)

    def visit(i: tuple[Var, ...]) -> list[Stmt]:
        value = x[i]
        holds = value if value.dtype is bool_ else LOOPS.cast(LOOPS.cast(value, compute_dtype(value.dtype)), bool_)
        return [If(holds, (*(places.store((axis, found[()]), k) for axis, k in enumerate(i)), add_to(found)))]

    return [fill(names, places, 0), alloc, found.store((), 0), *nest(names, "i", x.shape, visit), count.store(0, found[()])]


def _nonzero_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, np.int8, np.bool_):
        for shape in ((5, 7), (19,), (2, 3, 4)):
            yield Sample((rng.integers(0, 2, shape).astype(dtype),))
    yield Sample((np.zeros((3, 2), np.float32),))


def _padded(rows: np.ndarray, size: int, axis: int) -> np.ndarray:
    result = np.zeros((*rows.shape[:axis], size, *rows.shape[axis + 1 :]), rows.dtype)
    result[(slice(None),) * axis + (slice(rows.shape[axis]),)] = rows
    return result


@opaque(infer=_infer_nonzero, loops=_nonzero_loops, samples=_nonzero_samples)
def nonzero(x: np.ndarray) -> tuple[Any, ...]:
    """The indices of the elements that are not 0, one a column in row-major order: i64[rank, size], and their count."""
    places = np.array(np.nonzero(x), np.int64)
    return _padded(places, x.size, 1), np.array([places.shape[1]])


# --- compress ---------------------------------------------------------------------------------------------------------------


def _infer_compress(types: Types, *, axis: int) -> Types:
    x, condition = types
    if not 0 <= axis < x.rank or condition.rank != 1 or condition.dtype is not bool_:
        raise ShapeError("takes a tensor with that axis and a condition of type bool[n]")
    size, wanted = x.shape[axis], condition.shape[0]
    if isinstance(size, int) and isinstance(wanted, int) and wanted > size:
        raise ShapeError(f"the condition has {wanted} elements for an axis of {size}")
    return (x, _COUNT)


def _compress_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, axis: int) -> list[Stmt]:
    (x, condition), (kept, count) = ins, outs
    outer, inner = dim_product(x.shape[:axis]), dim_product(x.shape[axis + 1 :])
    source, target = x.view(outer, x.shape[axis], inner), kept.view(outer, x.shape[axis], inner)
    alloc, found = scratch(names, "found", i64)

    def visit(k: Expr) -> list[Stmt]:
        move = nest(names, "p", (outer, inner), lambda p: [target.store((p[0], found[()], p[1]), source[p[0], k, p[1]])])
        return [If(condition[k], (*move, add_to(found)))]

    loop = each(names, "k", condition.shape[0], visit)
    return [fill(names, kept, 0), alloc, found.store((), 0), loop, count.store(0, found[()])]


def _compress_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16):
        x = rng.integers(-9, 9, (5, 7, 2)).astype(dtype)
        yield Sample((x, rng.random(7) < 0.5), {"axis": 1})
        yield Sample((x, np.array([True, False, True])), {"axis": 0})
    yield Sample((np.arange(5), np.zeros(5, bool)), {"axis": 0})


@opaque(infer=_infer_compress, loops=_compress_loops, samples=_compress_samples)
def compress(x: np.ndarray, condition: np.ndarray, *, axis: int) -> tuple[Any, ...]:
    """The slices of x along `axis` where the condition bool[n] holds, in order, and their count; n <= the size of the axis."""
    kept = np.take(x, np.flatnonzero(condition), axis)
    return _padded(kept, x.shape[axis], axis), np.array([kept.shape[axis]])


# --- non-maximum suppression ------------------------------------------------------------------------------------------------


def _infer_nms(types: Types, *, center_point_box: bool = False) -> Types:
    boxes, scores, most, overlap, least = types
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4 or boxes.dtype is not f32 or scores.dtype is not f32:
        raise ShapeError("takes boxes f32[b, n, 4] and scores f32[b, c, n]")
    for a, b in zip(boxes.shape[:2], (scores.shape[0], scores.shape[2]), strict=True):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            raise ShapeError(f"boxes {boxes} and scores {scores} differ in the batch or in the number of boxes")
    if most.dtype is not i64 or overlap.dtype is not f32 or least.dtype is not f32:
        raise ShapeError("takes the most boxes of a class as i64, the overlap and the least score as f32")
    if any(t.size != 1 for t in (most, overlap, least)):
        raise ShapeError("the most boxes of a class, the overlap and the least score have one element each")
    return (TensorType(i64, (dim_product(scores.shape), 3)), _COUNT)


def _corners(s: Any, box: tuple[Any, ...], center_point_box: bool) -> tuple[Any, ...]:
    """(x0, y0, x1, y1) of a box given by any two opposite corners, or by its centre and size."""
    a, b, c, d = box
    if center_point_box:
        return a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0
    return s.min(a, c), s.min(b, d), s.max(a, c), s.max(b, d)


def _overlaps(s: Any, a: tuple[Any, ...], b: tuple[Any, ...], overlap: Any, center_point_box: bool) -> Any:
    """Whether intersection / union of two boxes exceeds `overlap`; never where one of them, or what they share, is empty."""
    a, b = _corners(s, a, center_point_box), _corners(s, b, center_point_box)
    width = s.max(s.min(a[2], b[2]) - s.max(a[0], b[0]), 0.0)
    height = s.max(s.min(a[3], b[3]) - s.max(a[1], b[1]), 0.0)
    shared = width * height
    area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    valid = (area_a > 0.0) & (area_b > 0.0) & (shared > 0.0)
    return valid & (s.div(shared, area_a + area_b - shared) > overlap)


def _nms_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, center_point_box: bool = False) -> list[Stmt]:
    boxes, scores, *limits = ins
    most, overlap, least = (t.view(1) for t in limits)
    chosen, count = outs
    batches, classes, n = scores.shape
    alloc_found, found = scratch(names, "found", i64)
    alloc_left, left = scratch(names, "left", i64)
    alloc_best, best = scratch(names, "best", i64)
    alloc_alive, alive = scratch(names, "alive", bool_, n)

    def one_class(b: Expr, c: Expr) -> list[Stmt]:
        def is_best(k: Expr) -> Expr:
            return (best[()] < 0) | (scores[b, c, k] > scores.at((b, c, best[()]), best[()] >= 0))

        def find() -> list[Stmt]:
            better = each(names, "k", n, lambda k: [If(alive[k], (If(is_best(k), (best.store((), k),)),))])
            return [best.store((), -1), better]

        def box(k: Expr) -> tuple[Expr, ...]:
            return tuple(boxes[b, k, side] for side in range(4))

        def suppress(k: Expr) -> list[Stmt]:
            hit = _overlaps(LOOPS, box(best[()]), box(k), overlap[0], center_point_box)
            return [If(alive[k], (alive.store(k, ~hit & LOOPS.ne(k, best[()])),))]

        row = names.var("row")
        choose: list[Stmt] = [
            Let(row, found[()]),
            *(chosen.store((row, side), v) for side, v in enumerate((b, c, best[()]))),
            add_to(found),
            left.store((), left[()] - 1),
            each(names, "k", n, suppress),
            *find(),
        ]
        return [
            left.store((), most[0]),
            each(names, "k", n, lambda k: [alive.store(k, scores[b, c, k] > least[0])]),
            *find(),
            While((best[()] >= 0) & (left[()] > 0), tuple(choose)),
        ]

    loop = each(names, "b", batches, lambda b: [each(names, "c", classes, lambda c: one_class(b, c))])
    allocations = [alloc_found, alloc_left, alloc_best, alloc_alive]
    return [fill(names, chosen, 0), *allocations, found.store((), 0), loop, count.store(0, found[()])]


def _nms_samples(rng: np.random.Generator) -> Iterable[Sample]:
    def limits(most: int, overlap: float, least: float) -> tuple[np.ndarray, ...]:
        return np.array([most]), np.array([overlap], np.float32), np.array(least, np.float32)

    corners = rng.uniform(0, 1, (2, 20, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 3, 20)).astype(np.float32)
    yield Sample((corners, scores, *limits(5, 0.3, 0.2)))
    yield Sample((corners, scores, *limits(20, 0.0, 0.5)))
    yield Sample((corners, scores, *limits(0, 0.3, 0.2)))
    yield Sample((corners, np.round(scores * 4) / np.float32(4), *limits(9, 0.5, 0.1)), {"center_point_box": True})


@opaque(infer=_infer_nms, loops=_nms_loops, samples=_nms_samples)
def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    most: np.ndarray,
    overlap: np.ndarray,
    least: np.ndarray,
    *,
    center_point_box: bool = False,
) -> tuple[Any, ...]:
    """Non-maximum suppression of boxes f32[b, n, 4] with scores f32[b, c, n]: rows (batch, class, box) and their count.

    For each class, boxes whose score exceeds `least` are chosen best first, the earlier of equals, at most `most` (i64), unless
    their intersection over union with one chosen before exceeds `overlap`.  The last three have one element each.
    """
    rows = []
    for b in range(scores.shape[0]):
        columns = tuple(boxes[b].T)
        for c in range(scores.shape[1]):
            alive = scores[b, c] > least.reshape(())
            for _ in range(int(most.reshape(()))):
                if not alive.any():
                    break
                best = int(np.argmax(np.where(alive, scores[b, c], -np.inf)))
                rows.append((b, c, best))
                chosen = tuple(column[best] for column in columns)
                alive &= ~_overlaps(NUMPY, chosen, columns, overlap.reshape(()), center_point_box)
                alive[best] = False
    places = np.array(rows, np.int64).reshape(-1, 3)
    return _padded(places, scores.size, 0), np.array([len(rows)])
