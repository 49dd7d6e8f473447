"""Index ops that read where another operand says: gather and its kin.

Negative indices count from the end; what is then out of range is clamped, so that no read lies outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..dims import Dim
from ..errors import ShapeError
from ..types import TensorType, i64
from .index import I, R, S, X, guarded, typed
from .registry import Sample, Types, index


def _lookup(s: S, value: X, size: X) -> X:
    """An index value as a position: negative ones count from the end, what is then out of range is clamped."""
    k = s.cast(value, i64)
    return s.max(s.min(s.where(k < 0, k + size, k), size - 1), 0)


def _nonempty(sizes: Iterable[X], dims: Iterable[Dim]) -> list[X]:
    """Guards for a lookup along axes whose size may turn out to be 0."""
    return [n > 0 for n, d in zip(sizes, dims, strict=True) if not isinstance(d, int)]


def _check_indices(data: TensorType, indices: TensorType, axes: Iterable[int]) -> None:
    if not indices.dtype.is_int:
        raise ShapeError(f"indices must be integers, got {indices.dtype}")
    if indices.size != 0 and any(data.shape[a] == 0 for a in axes):
        raise ShapeError(f"{data} has no elements to look up")


def _infer_gather(types: Types, *, axis: int) -> Types:
    data, indices = types
    if not 0 <= axis < data.rank:
        raise ShapeError(f"axis {axis} is out of range for {data}")
    _check_indices(data, indices, [axis])
    return (data.with_shape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :]),)


def _gather_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype, index_dtype in ((np.float32, np.int64), (np.int8, np.int32), (np.float16, np.int64), (bool, np.int64)):
        yield Sample((typed((9, 17), dtype, rng), rng.integers(-9, 9, (2, 3)).astype(index_dtype)), {"axis": 0})
        yield Sample((typed((3, 5, 7), dtype, rng), np.asarray(-2, index_dtype)), {"axis": 1})
        yield Sample((typed((4, 5), dtype, rng), np.array([[0], [4], [9], [-9]], index_dtype)), {"axis": 1})


@index(infer=_infer_gather, samples=_gather_samples)
def gather(s: S, i: I, data: R, indices: R, *, types: Types, out: TensorType, axis: int) -> X:
    """`axis` of data replaced by the axes of the integer `indices`, each naming an element along it.

    Negative indices count from the end; what is out of range is clamped.
    """
    rank = types[1].rank
    k = _lookup(s, indices[i[axis : axis + rank]], data.shape[axis])
    guards = _nonempty([data.shape[axis]], [types[0].shape[axis]])
    return guarded(data, (*i[:axis], k, *i[axis + rank :]), guards)


def _infer_gather_elements(types: Types, *, axis: int) -> Types:
    data, indices = types
    if data.rank != indices.rank or not 0 <= axis < data.rank:
        raise ShapeError("data and indices differ in rank, or the axis is out of range")
    for k, (a, b) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if k != axis and isinstance(a, int) and isinstance(b, int) and b > a:
            raise ShapeError(f"axis {k} of the indices is longer ({b}) than that of the data ({a})")
    _check_indices(data, indices, [axis])
    return (data.with_shape(indices.shape),)


def _gather_elements_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype, index_dtype in ((np.float32, np.int64), (np.int8, np.int32), (np.float16, np.int64)):
        yield Sample((typed((9, 17), dtype, rng), rng.integers(-9, 9, (3, 17)).astype(index_dtype)), {"axis": 0})
        yield Sample((typed((3, 5, 7), dtype, rng), rng.integers(-7, 7, (3, 4, 11)).astype(index_dtype)), {"axis": 2})


@index(infer=_infer_gather_elements, samples=_gather_elements_samples)
def gather_elements(s: S, i: I, data: R, indices: R, *, types: Types, out: TensorType, axis: int) -> X:
    """Along `axis`, the elements of data that the integer `indices` (of the result's shape) name; as `gather` otherwise."""
    k = _lookup(s, indices[i], data.shape[axis])
    guards = _nonempty([data.shape[axis]], [types[0].shape[axis]])
    return guarded(data, (*i[:axis], k, *i[axis + 1 :]), guards)


def _infer_gather_nd(types: Types, *, batch_dims: int = 0) -> Types:
    data, indices = types
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int):
        raise ShapeError(f"the last size of the indices must be known, got {depth}")
    if indices.rank <= batch_dims or batch_dims + depth > data.rank:
        raise ShapeError(f"{batch_dims} batch axes and indices of {depth} do not fit")
    _check_indices(data, indices, range(batch_dims, batch_dims + depth))
    for k, (a, b) in enumerate(zip(data.shape[:batch_dims], indices.shape[:batch_dims], strict=True)):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            raise ShapeError(f"the batch axis {k} has size {a} in the data and {b} in the indices")
    return (data.with_shape(indices.shape[:-1] + data.shape[batch_dims + depth :]),)


def _gather_nd_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype, index_dtype in ((np.float32, np.int64), (np.int8, np.int32), (np.float16, np.int64)):
        yield Sample((typed((4, 4, 17), dtype, rng), rng.integers(-4, 4, (3, 2)).astype(index_dtype)), {})
        yield Sample((typed((3, 5, 7), dtype, rng), rng.integers(-5, 5, (3, 2, 1)).astype(index_dtype)), {"batch_dims": 1})


@index(infer=_infer_gather_nd, samples=_gather_nd_samples)
def gather_nd(s: S, i: I, data: R, indices: R, *, types: Types, out: TensorType, batch_dims: int = 0) -> X:
    """Slices of data named by the last axis of the integer `indices`, after `batch_dims` shared axes; as `gather` otherwise."""
    depth = types[1].shape[-1]
    assert isinstance(depth, int)
    lead = types[1].rank - 1
    axes = range(batch_dims, batch_dims + depth)
    at = [_lookup(s, indices[(*i[:lead], k)], data.shape[a]) for k, a in enumerate(axes)]
    guards = _nonempty([data.shape[a] for a in axes], [types[0].shape[a] for a in axes])
    return guarded(data, (*i[:batch_dims], *at, *i[lead:]), guards)
