"""Opaque ops that write where their operands say: cumulative sums and products, scatters.

Updates happen one after another in row-major order, so that duplicates have one meaning; those out of range are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dims import Dim, dim_product
from ..errors import ShapeError
from ..loops import Expr, If, Let, Names, Scalar, Stmt, Tensor, size_expr
from ..scalar import LOOPS, compute_dtype
from ..types import i64
from .looping import STEP_COST, copy, each, nest, scratch
from .registry import Sample, Types, opaque, same_dtype


def _numbers(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.uniform(-2, 2, shape).astype(dtype)
    return rng.integers(-5, 6, shape).astype(dtype)


# --- running totals ---------------------------------------------------------------------------------------------------------


def _infer_running(types: Types, *, axis: int, exclusive: bool = False, reverse: bool = False) -> Types:
    (t,) = types
    if not 0 <= axis < t.rank:
        raise ShapeError(f"axis {axis} is out of range for {t}")
    return (t,)


def _running_loops(start: int, combine: Callable[[Expr, Expr], Expr]) -> Callable[..., list[Stmt]]:
    def loops(
        names: Names, ins: list[Tensor], outs: list[Tensor], *, axis: int, exclusive: bool = False, reverse: bool = False
    ) -> list[Stmt]:
        shape = ins[0].shape
        outer, length, inner = dim_product(shape[:axis]), shape[axis], dim_product(shape[axis + 1 :])
        x, y = (t.view(outer, length, inner) for t in (ins[0], outs[0]))
        dtype = x.buf.dtype

        def lane(p: Expr) -> list[Stmt]:
            alloc, total = scratch(names, "total", compute_dtype(dtype))
            at = (p // size_expr(inner), p % size_expr(inner))

            def step(k: Expr) -> list[Stmt]:
                place = (at[0], size_expr(length) - 1 - k if reverse else k, at[1])
                show = y.store(place, LOOPS.cast(total[()], dtype))
                add = total.store((), combine(total[()], LOOPS.cast(x[place], total.buf.dtype)))
                return [show, add] if exclusive else [add, show]

            return [alloc, total.store((), start), each(names, "k", length, step)]

        return [each(names, "p", outer * inner, lane, "parallel", length * STEP_COST)]

    return loops


def _running(ufunc: np.ufunc, start: int, x: np.ndarray, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 and x.dtype.kind not in "iu" else x
    wide = np.flip(wide, axis) if reverse else wide
    if exclusive:
        first = np.full([1 if k == axis else n for k, n in enumerate(x.shape)], start, wide.dtype)
        wide = np.concatenate([first, np.delete(wide, -1, axis)], axis) if x.shape[axis] else wide
    total = ufunc.accumulate(wide, axis, dtype=wide.dtype)
    return np.ascontiguousarray(np.flip(total, axis) if reverse else total).astype(x.dtype)


def _running_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16, np.int32, np.int64):
        yield Sample((_numbers(rng, dtype, (5, 17)),), {"axis": 1})
        yield Sample((_numbers(rng, dtype, (3, 7, 4)),), {"axis": 1, "exclusive": True})
        yield Sample((_numbers(rng, dtype, (9,)),), {"axis": 0, "reverse": True})
        yield Sample((_numbers(rng, dtype, (2, 5)),), {"axis": 0, "reverse": True, "exclusive": True})


@opaque(infer=_infer_running, loops=_running_loops(0, lambda a, b: a + b), samples=_running_samples)
def cumsum(x: np.ndarray, *, axis: int, exclusive: bool = False, reverse: bool = False) -> np.ndarray:
    """Sums of x up to each element along `axis`, from its end if `reverse`, without the element itself if `exclusive`."""
    return _running(np.add, 0, x, axis, exclusive, reverse)


@opaque(infer=_infer_running, loops=_running_loops(1, lambda a, b: a * b), samples=_running_samples)
def cumprod(x: np.ndarray, *, axis: int, exclusive: bool = False, reverse: bool = False) -> np.ndarray:
    """Products of x up to each element along `axis`; as `cumsum` otherwise."""
    return _running(np.multiply, 1, x, axis, exclusive, reverse)


# --- scatters ---------------------------------------------------------------------------------------------------------------

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda a, b: b,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": LOOPS.max,
    "min": LOOPS.min,
}
_UFUNCS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _check(types: Types, reduction: str) -> None:
    data, indices, updates = types
    same_dtype((data, updates))
    if not indices.dtype.is_int:
        raise ShapeError(f"indices must be integers, got {indices.dtype}")
    if reduction not in _COMBINE:
        raise ShapeError(f"the reduction is one of {', '.join(_COMBINE)}, not {reduction!r}")


def _check_equal(what: str, shape: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> None:
    pairs = zip(shape, wanted, strict=False)
    if len(shape) != len(wanted) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        raise ShapeError(f"{what} must have the shape {list(wanted)}, not {list(shape)}")


def _update(target: Tensor, at: tuple[Scalar, ...], value: Expr, reduction: str) -> Stmt:
    """Fold a value into one element; narrow floats through f32."""
    if reduction == "none":
        return target.store(at, value)
    wide = compute_dtype(value.dtype)
    return target.store(at, LOOPS.cast(_COMBINE[reduction](LOOPS.cast(target[at], wide), LOOPS.cast(value, wide)), value.dtype))


def _wrapped(index: Expr, size: Dim) -> Expr:
    k = LOOPS.cast(index, i64)
    return LOOPS.where(k < 0, k + size_expr(size), k)


def _inside(positions: Iterable[Expr], sizes: Iterable[Dim]) -> Expr:
    checks = [(k >= 0) & (k < size_expr(n)) for k, n in zip(positions, sizes, strict=True)]
    result = checks[0]
    for check in checks[1:]:
        result = result & check
    return result


def _infer_scatter_elements(types: Types, *, axis: int, reduction: str = "none") -> Types:
    _check(types, reduction)
    data, indices, updates = types
    if not data.rank == indices.rank == updates.rank or not 0 <= axis < data.rank:
        raise ShapeError("data, indices and updates differ in rank, or the axis is out of range")
    _check_equal("the updates", updates.shape, indices.shape)
    for k, (a, b) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if k != axis and isinstance(a, int) and isinstance(b, int) and b > a:
            raise ShapeError(f"axis {k} of the indices is longer ({b}) than that of the data ({a})")
    return (data,)


def _scatter_elements_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, axis: int, reduction: str = "none") -> list[Stmt]:
    data, indices, updates = ins
    (out,) = outs

    def visit(i: tuple[Expr, ...]) -> list[Stmt]:
        k = names.var("at")
        place = (*i[:axis], k, *i[axis + 1 :])
        return [
            Let(k, _wrapped(indices[i], data.shape[axis])),
            If(_inside([k], [data.shape[axis]]), (_update(out, place, updates[i], reduction),)),
        ]

    return [copy(names, out, data), *nest(names, "i", indices.shape, visit)]


def _scatter_elements_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16):
        for reduction in _COMBINE:
            data, updates = _numbers(rng, dtype, (5, 7)), _numbers(rng, dtype, (4, 6))
            yield Sample((data, rng.integers(-7, 7, (4, 6)), updates), {"axis": 1, "reduction": reduction})
        indices = np.array([[0, 2], [2, -1]], np.int32)
        yield Sample((_numbers(rng, dtype, (3, 4)), indices, _numbers(rng, dtype, (2, 2))), {"axis": 0})


def _apply_at(out: np.ndarray, places: np.ndarray, values: np.ndarray, reduction: str) -> None:
    flat = out.reshape(-1)
    if reduction == "none":
        flat[places] = values
    else:
        _UFUNCS[reduction].at(flat, places, values)


@opaque(infer=_infer_scatter_elements, loops=_scatter_elements_loops, samples=_scatter_elements_samples)
def scatter_elements(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str = "none") -> np.ndarray:
    """data with the elements named along `axis` by the integer indices replaced by, or combined with, those of updates.

    reduction: "none" (the last update wins), "add", "mul", "max" or "min"; indices and updates have one shape.
    """
    out = np.array(data)
    k = np.where(indices < 0, indices + data.shape[axis], indices)
    grids = list(np.broadcast_arrays(*np.ogrid[tuple(slice(n) for n in indices.shape)])) if indices.ndim else []
    inside = (k >= 0) & (k < data.shape[axis])
    grids[axis] = np.where(inside, k, 0)
    places = np.ravel_multi_index(tuple(grids), data.shape)[inside] if inside.any() else np.zeros(0, np.int64)
    _apply_at(out, places, updates[inside], reduction)
    return out


def _depth(types: Types) -> int:
    depth = types[1].shape[-1] if types[1].rank else 0
    if not isinstance(depth, int) or depth > types[0].rank or not types[1].rank:
        raise ShapeError(f"the last size of the indices must be known and at most {types[0].rank}, got {depth}")
    return depth


def _infer_scatter_nd(types: Types, *, reduction: str = "none") -> Types:
    _check(types, reduction)
    data, indices, updates = types
    _check_equal("the updates", updates.shape, (*indices.shape[:-1], *data.shape[_depth(types) :]))
    return (data,)


def _scatter_nd_loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, reduction: str = "none") -> list[Stmt]:
    data, indices, updates = ins
    depth, count = indices.shape[-1], dim_product(indices.shape[:-1])
    assert isinstance(depth, int)
    inner = dim_product(data.shape[depth:])
    rows, values = indices.view(count, depth), updates.view(count, inner)
    out = outs[0].view(*data.shape[:depth], inner)

    def visit(m: Expr) -> list[Stmt]:
        at = tuple(names.var("at") for _ in range(depth))
        lets = [Let(var, _wrapped(rows[m, k], data.shape[k])) for k, var in enumerate(at)]
        write = each(names, "q", inner, lambda q: [_update(out, (*at, q), values[m, q], reduction)])
        return [*lets, If(_inside(at, data.shape[:depth]), (write,)) if depth else write]

    return [copy(names, outs[0], data), each(names, "m", count, visit)]


def _scatter_nd_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16):
        for reduction in _COMBINE:
            indices = rng.integers(-4, 4, (3, 2))
            yield Sample((_numbers(rng, dtype, (4, 4, 7)), indices, _numbers(rng, dtype, (3, 7))), {"reduction": reduction})
        yield Sample((_numbers(rng, dtype, (6,)), np.array([[[1], [1]], [[5], [0]]]), _numbers(rng, dtype, (2, 2))), {})


@opaque(infer=_infer_scatter_nd, loops=_scatter_nd_loops, samples=_scatter_nd_samples)
def scatter_nd(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, reduction: str = "none") -> np.ndarray:
    """data with the slices named by the last axis of the integer indices replaced or combined; as `scatter_elements`."""
    out = np.array(data)
    depth = indices.shape[-1]
    sizes = np.array(data.shape[:depth], np.int64)
    rows = indices.reshape(-1, depth).astype(np.int64)
    rows = np.where(rows < 0, rows + sizes, rows)
    inside = ((rows >= 0) & (rows < sizes)).all(1)
    inner = int(np.prod(data.shape[depth:]))
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1] if depth else np.zeros(0, np.int64)
    places = (rows[inside] @ strides.astype(np.int64))[:, None] * inner + np.arange(inner)
    _apply_at(out, places, updates.reshape(-1, inner)[inside], reduction)
    return out
