"""Composites of neural networks that normalise: softmax, norms and the named reductions of ONNX.

Each keeps its identity until a pass expands it.  Narrow floats are computed in f32 and rounded once at the end; shapes may be
symbolic throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dims import dim_product
from ..errors import ShapeError
from ..graph import Value
from .operators import build, cast, reshape, size, widen
from .registry import Sample, apply, composite

FLOATS = (np.float32, np.float64, np.float16)


def normal(rng: np.random.Generator, dtype: Any, *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Normally distributed sample operands."""
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def float_cases(*cases: tuple[tuple[tuple[int, ...], ...], dict[str, Any]]) -> Callable[..., Iterable[Sample]]:
    """Samples of float operands of these shapes with these attributes."""

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for shapes, attrs in cases:
            for dtype in FLOATS:
                yield Sample(normal(rng, dtype, *shapes), attrs)

    return samples


# --- reductions -------------------------------------------------------------------------------------------------------------

_AXES = (
    (((5, 37),), {"axes": (1,), "keepdims": False}),
    (((3, 4, 17),), {"axes": (0, 2), "keepdims": True}),
    (((2, 3, 5),), {"axes": (0, 1, 2), "keepdims": False}),
)


def _sum(x: Value, axes: tuple[int, ...], keepdims: bool = True) -> Value:
    return apply("reduce_sum", x, axes=axes, keepdims=keepdims)


def _mean(x: Value, axes: tuple[int, ...], keepdims: bool = True) -> Value:
    """The mean of a wide operand."""
    total = _sum(x, axes, keepdims)
    count = dim_product(x.shape[a] for a in axes)
    if x.dtype.is_int:
        return build("div", total, size(count, x.dtype))
    if isinstance(count, int):
        return build("mul", total, 1 / count if count else math.nan)
    return build("mul", total, apply("reciprocal", size(count, x.dtype)))


@composite(samples=float_cases(*_AXES))
def mean(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """The arithmetic mean over `axes`; integers divide truncating."""
    return cast(_mean(widen(x), axes, keepdims), x.dtype)


@composite(samples=float_cases(*_AXES))
def sum_square(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """The sum of squares over `axes`."""
    wide = widen(x)
    return cast(_sum(build("mul", wide, wide), axes, keepdims), x.dtype)


@composite(samples=float_cases(*_AXES))
def l1(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """The sum of absolute values over `axes`."""
    return cast(_sum(apply("abs", widen(x)), axes, keepdims), x.dtype)


@composite(samples=float_cases(*_AXES))
def l2(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """The square root of the sum of squares over `axes`, of floats."""
    wide = widen(x)
    return cast(apply("sqrt", _sum(build("mul", wide, wide), axes, keepdims)), x.dtype)


def _log_sum_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for (shape,), attrs in _AXES:
        for dtype in FLOATS:
            yield Sample((rng.uniform(0.1, 3, shape).astype(dtype),), attrs)


@composite(samples=_log_sum_samples)
def log_sum(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """The logarithm of the sum over `axes`, of floats."""
    return cast(apply("log", _sum(widen(x), axes, keepdims)), x.dtype)


@composite(samples=float_cases(*_AXES))
def log_sum_exp(x: Value, *, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """log(sum(exp(x))) over `axes`, of floats, without overflow."""
    wide = widen(x)
    top = apply("reduce_max", wide, axes=axes, keepdims=True)
    finite = build("where", apply("is_inf", top), 0.0, top)
    total = _sum(apply("exp", build("sub", wide, finite)), axes)
    result = build("add", apply("log", total), finite)
    if not keepdims:
        result = reshape(result, tuple(d for k, d in enumerate(x.shape) if k not in axes))
    return cast(result, x.dtype)


# --- softmax ----------------------------------------------------------------------------------------------------------------

_AXIS = ((((5, 37),), {"axis": 1}), (((3, 4, 17),), {"axis": 1}), (((6, 1),), {"axis": 1}), (((19,),), {"axis": 0}))


@composite(samples=float_cases(*_AXIS))
def softmax(x: Value, *, axis: int) -> Value:
    """exp(x) / sum(exp(x)) along `axis`, of floats; the maximum is subtracted first, and a row divides once."""
    wide = widen(x)
    e = apply("exp", build("sub", wide, apply("reduce_max", wide, axes=(axis,), keepdims=True)))
    return cast(build("mul", e, apply("reciprocal", _sum(e, (axis,)))), x.dtype)


@composite(samples=float_cases(*_AXIS))
def log_softmax(x: Value, *, axis: int) -> Value:
    """x - log(sum(exp(x))) along `axis`, of floats; the maximum is subtracted first."""
    wide = widen(x)
    shifted = build("sub", wide, apply("reduce_max", wide, axes=(axis,), keepdims=True))
    return cast(build("sub", shifted, apply("log", _sum(apply("exp", shifted), (axis,)))), x.dtype)


@composite(samples=float_cases(*_AXIS))
def hardmax(x: Value, *, axis: int) -> Value:
    """1 at the first maximum along `axis`, 0 elsewhere."""
    top = apply("argmax", x, axes=(axis,), keepdims=True)
    shape = (1,) * axis + (x.shape[axis],) + (1,) * (x.type.rank - axis - 1)
    return cast(apply("eq", apply("iota", shape=shape, axis=axis, dtype=top.dtype), top), x.dtype)


@composite(samples=float_cases((((5, 37),), {"axis": 1, "p": 2}), (((3, 4, 17),), {"axis": 1, "p": 1})))
def lp_norm(x: Value, *, axis: int, p: int = 2) -> Value:
    """x divided by its p-norm (p 1 or 2) along `axis`, of floats; 0 where the norm is 0."""
    wide = widen(x)
    norm = apply("l1" if p == 1 else "l2", wide, axes=(axis,), keepdims=True)
    safe = build("where", build("eq", norm, 0.0), 1.0, norm)
    return cast(build("div", wide, safe), x.dtype)


# --- norms ------------------------------------------------------------------------------------------------------------------


def _standardized(x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over the axes of a wide operand, the variance by a second pass."""
    centred = build("sub", x, _mean(x, axes))
    variance = _mean(build("mul", centred, centred), axes)
    return build("mul", centred, _inverse_root(variance, epsilon))


def _inverse_root(variance: Value, epsilon: float) -> Value:
    return apply("reciprocal", apply("sqrt", build("add", variance, epsilon)))


def _affine(x: Value, scale: Value, bias: Value | None, like: Value) -> Value:
    """x * scale + bias in x's dtype, rounded to the dtype of `like`."""
    y = build("mul", x, cast(scale, x.dtype))
    return cast(build("add", y, cast(bias, x.dtype)) if bias is not None else y, like.dtype)


def _per_channel(v: Value, rank: int) -> Value:
    """f[c] as f[c, 1, ...], to broadcast along axis 1 of a tensor of that rank."""
    if v.type.rank != 1:
        raise ShapeError(f"a per-channel operand has one axis, got {v.type}")
    return reshape(v, (*v.shape, *(1,) * (rank - 2)))


@composite(
    samples=float_cases(
        (((5, 37), (37,), (37,)), {"axis": 1, "epsilon": 1e-5}),
        (((3, 4, 17), (4, 17), (4, 17)), {"axis": 1, "epsilon": 1e-3}),
        (((3, 4, 17), (17,)), {"axis": 2}),
    )
)
def layer_norm(x: Value, scale: Value, bias: Value | None = None, *, axis: int, epsilon: float = 1e-5) -> Value:
    """x standardised over the axes from `axis` on, times scale plus bias (optional), which broadcast to those axes."""
    return _affine(_standardized(widen(x), tuple(range(axis, x.type.rank)), epsilon), scale, bias, x)


@composite(samples=float_cases((((5, 37), (37,)), {"axis": 1, "epsilon": 1e-5}), (((3, 4, 17), (4, 17)), {"axis": 1})))
def rms_norm(x: Value, scale: Value, *, axis: int, epsilon: float = 1e-5) -> Value:
    """x / sqrt(mean(x * x) + epsilon) over the axes from `axis` on, times scale."""
    wide = widen(x)
    square = _mean(build("mul", wide, wide), tuple(range(axis, x.type.rank)))
    return _affine(build("mul", wide, _inverse_root(square, epsilon)), scale, None, x)


def _batch_norm_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in FLOATS:
        for shape in ((2, 5, 7, 3), (4, 17), (2, 3, 19)):
            c = shape[1:2]
            yield Sample((*normal(rng, dtype, shape, c, c, c), rng.uniform(0.5, 2, c).astype(dtype)), {"epsilon": 1e-5})


@composite(samples=_batch_norm_samples)
def batch_norm(x: Value, scale: Value, bias: Value, average: Value, variance: Value, *, epsilon: float = 1e-5) -> Value:
    """(x - average) / sqrt(variance + epsilon) * scale + bias, each of them f[c] for axis 1 of x."""
    wide = widen(x)
    scale, bias, average, variance = (cast(v, wide.dtype) for v in (scale, bias, average, variance))
    factor = build("mul", scale, _inverse_root(variance, epsilon))
    offset = build("sub", bias, build("mul", average, factor))
    rank = x.type.rank
    return cast(build("add", build("mul", wide, _per_channel(factor, rank)), _per_channel(offset, rank)), x.dtype)


@composite(samples=float_cases((((2, 3, 5, 7), (3,), (3,)), {"epsilon": 1e-5}), (((2, 4, 19), (4,), (4,)), {})))
def instance_norm(x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    """x[n, c, ...] standardised over all but its first two axes, times scale[c] plus bias[c]."""
    rank = x.type.rank
    y = _standardized(widen(x), tuple(range(2, rank)), epsilon)
    return _affine(y, _per_channel(scale, rank), _per_channel(bias, rank), x)


@composite(samples=float_cases((((2, 6, 5, 7), (6,), (6,)), {"groups": 3}), (((1, 4, 19), (4,), (4,)), {"groups": 1, "epsilon": 1e-3})))
def group_norm(x: Value, scale: Value, bias: Value, *, groups: int, epsilon: float = 1e-5) -> Value:
    """x[n, c, ...] standardised over each of `groups` runs of channels, times scale[c] plus bias[c]."""
    rank, (n, c, *spatial) = x.type.rank, x.shape
    grouped = reshape(widen(x), (n, groups, c // groups, *spatial))
    y = reshape(_standardized(grouped, tuple(range(2, rank + 1)), epsilon), x.shape)
    return _affine(y, _per_channel(scale, rank), _per_channel(bias, rank), x)
