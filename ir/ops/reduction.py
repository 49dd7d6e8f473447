"""Reductions: a monoid folded over axes.  Elements and sums of narrow floats arrive as f32; results are rounded back.

argmax and its kin carry (best value, position) and may merge partial results in any order, so that lanes can interleave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from ..errors import ShapeError
from ..scalar import compute_dtype
from ..types import DType, bool_, dtype_of, i64
from .registry import Quant, Reduction, Sample, Types, reduction, same_dtype

S: TypeAlias = Any  # a scalar namespace
X: TypeAlias = Any  # its scalars


def _samples(*dtypes: Any) -> Callable[[np.random.Generator], Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for dtype in dtypes:
            for shape, axes, keepdims in (
                ((5, 37), (1,), False),
                ((5, 37), (0,), True),
                ((3, 4, 33), (0, 2), False),
                ((2, 3, 19), (0, 1, 2), True),
                ((6, 1), (1,), False),
                ((17,), (0,), False),
            ):
                x = rng.random(shape) < 0.7 if dtype is bool else (rng.standard_normal(shape) * 4).astype(np.int64).astype(dtype)
                if np.dtype(dtype).kind == "f":
                    x = rng.uniform(-2, 2, shape).astype(dtype)
                yield Sample((x,), {"axes": axes, "keepdims": keepdims})

    return samples


def _least(dtype: DType) -> float | int | bool:
    return -math.inf if dtype.is_float else False if dtype is bool_ else dtype.min


def _greatest(dtype: DType) -> float | int | bool:
    return math.inf if dtype.is_float else True if dtype is bool_ else dtype.max


def _fold(start: Callable[[DType], Any], combine: Callable[[S, X, X], X]) -> Reduction:
    """A monoid whose state is one scalar of the compute dtype."""
    return Reduction(
        init=lambda dtype: (start(dtype),),
        step=lambda s, state, x, k: (combine(s, state[0], x),),
        merge=lambda s, a, b: (combine(s, a[0], b[0]),),
        finish=lambda s, state: state[0],
        state_dtypes=lambda dtype: (compute_dtype(dtype),),
    )


def _numpy_fold(ufunc: np.ufunc, start: Callable[[DType], Any]) -> Callable[..., np.ndarray]:
    """The reference: floats are folded in f64 and rounded once."""

    def reference(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
        dtype = dtype_of(x.dtype)
        wide = np.dtype(np.float64) if dtype.is_float else x.dtype
        return np.asarray(ufunc.reduce(x.astype(wide), axes, keepdims=keepdims, initial=start(dtype))).astype(x.dtype)

    return reference


def _define(name: str, ufunc: np.ufunc, start: Callable[[DType], Any], combine: Callable, doc: str, *dtypes: Any, **more: Any) -> None:
    reduction(name, _fold(start, combine), reference=_numpy_fold(ufunc, start), samples=_samples(*dtypes), doc=doc, **more)


_NUMBERS = (np.float32, np.float64, np.float16, np.int32, np.int64)

_define("reduce_sum", np.add, lambda dtype: 0, lambda s, a, b: a + b, "The sum; 0 of nothing; integers wrap around.", *_NUMBERS)
_define(
    "reduce_prod",
    np.multiply,
    lambda dtype: 1,
    lambda s, a, b: a * b,
    "The product; 1 of nothing; integers wrap around.",
    *_NUMBERS,
)
_define(
    "reduce_max",
    np.maximum,
    _least,
    lambda s, a, b: s.max(a, b),
    "The largest; NaN if any is; the dtype's least value (-inf) of nothing.",
    *_NUMBERS,
    np.int8,
    bool,
    quant=Quant.EXACT,
)
_define(
    "reduce_min",
    np.minimum,
    _greatest,
    lambda s, a, b: s.min(a, b),
    "The smallest; NaN if any is; the dtype's greatest value (inf) of nothing.",
    *_NUMBERS,
    np.int8,
    bool,
    quant=Quant.EXACT,
)
_define("reduce_and", np.logical_and, lambda dtype: True, lambda s, a, b: a & b, "Whether all hold, of bools.", bool)
_define("reduce_or", np.logical_or, lambda dtype: False, lambda s, a, b: a | b, "Whether any holds, of bools.", bool)


def _position(least: Callable[[DType], Any], beyond: Callable[[X, X], X], first: bool) -> Reduction:
    """Where the extreme is: `beyond(a, b)` is false where a is more extreme than b or equal, NaN being most extreme of all.

    An empty part of the range is (least, 0): if it wins, all elements are `least`, and for `first` position 0 holds one.
    """

    def merge(s: S, a: tuple, b: tuple) -> tuple:
        take = ~beyond(b[0], a[0]) & s.eq(a[0], a[0])
        tie = s.eq(a[0], b[0]) | (s.is_nan(a[0]) & s.is_nan(b[0]))
        take = take | (tie & ((b[1] < a[1]) if first else (b[1] > a[1])))
        return s.where(take, b[0], a[0]), s.where(take, b[1], a[1])

    def step(s: S, state: tuple, x: X, k: X) -> tuple:
        return merge(s, state, (x, k))

    return Reduction(
        init=lambda dtype: (least(dtype), 0),
        step=step,
        merge=merge,
        finish=lambda s, state: state[1],
        state_dtypes=lambda dtype: (compute_dtype(dtype), i64),
    )


def _numpy_position(function: Callable[..., Any], first: bool) -> Callable[..., np.ndarray]:
    def reference(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
        (axis,) = axes
        if x.shape[axis] == 0 and x.size == 0 and all(n for k, n in enumerate(x.shape) if k != axis):
            raise ShapeError(f"no element along axis {axis} of {x.shape} has a position")
        if first:
            return np.asarray(function(x, axis=axis, keepdims=keepdims)).astype(np.int64)
        return np.asarray(x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=keepdims)).astype(np.int64)

    return reference


def _position_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16, np.int32, np.int8):
        for shape, axis, keepdims in (((5, 37), 1, False), ((5, 37), 0, True), ((3, 19, 2), 1, False), ((4, 1), 1, False)):
            yield Sample((rng.integers(-4, 4, shape).astype(dtype),), {"axes": (axis,), "keepdims": keepdims})
    yield Sample((np.array([[1, np.nan, 3], [-np.inf] * 3], np.float32),), {"axes": (1,)})


def _index_dtype(types: Types, **attrs: Any) -> DType:
    same_dtype(types)
    return i64


for _name, _what, _least_of, _beyond, _function in (
    ("argmax", "largest", _least, lambda a, b: a <= b, np.argmax),
    ("argmin", "smallest", _greatest, lambda a, b: a >= b, np.argmin),
):
    for _suffix, _first in (("", True), ("_last", False)):
        reduction(
            _name + _suffix,
            _position(_least_of, _beyond, _first),
            dtype=_index_dtype,
            reference=_numpy_position(_function, _first),
            samples=_position_samples,
            one_axis=True,
            doc=f"Where the {'first' if _first else 'last'} {_what} is along one axis, as i64.",
        )
