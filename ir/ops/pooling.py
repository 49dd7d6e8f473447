"""Composites over sliding windows: pools, local response normalisation, and convolution turned around.

x is [n, c, *spatial]; kernel, strides, pads ((low, high), ...) and dilations have one entry for each spatial axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dims import Dim, dim_product
from ..errors import ShapeError
from ..graph import Value
from ..types import i64
from .contraction import conv_sizes
from .nn import FLOATS, float_cases, normal
from .operators import broadcast, build, cast, narrow, reshape, scalar, size, transpose, widen
from .registry import Sample, apply, composite

Pads = tuple[tuple[Dim, Dim], ...]


def _pool_samples(**extra: Any) -> Callable[[np.random.Generator], Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for dtype in FLOATS:
            two = {"kernel": (3, 2), "strides": (2, 2), "pads": ((1, 0), (0, 1)), "dilations": (1, 1)} | extra
            yield Sample(normal(rng, dtype, (2, 3, 7, 10)), two)
            yield Sample(normal(rng, dtype, (1, 5, 8, 9)), two | {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (2, 1)})
            yield Sample(
                normal(rng, dtype, (2, 4, 19)), {"kernel": (4,), "strides": (3,), "pads": ((1, 2),), "dilations": (1,)} | extra
            )

    return samples


def _windows(x: Value, kernel: tuple[Dim, ...], strides: tuple[int, ...], pads: Pads, dilations: tuple[int, ...], fill: float) -> Value:
    """x's windows [n, c, *positions, *kernel].  Raises ShapeError where they do not fit."""
    conv_sizes(x.shape[2:], kernel, strides, pads, dilations)
    low, high = (tuple(p[side] for p in pads) for side in (0, 1))
    axes = tuple(range(2, x.type.rank))
    return apply("window", x, axes=axes, kernel=kernel, strides=strides, dilations=dilations, low=low, high=high, fill=fill)


def _window_axes(x: Value) -> tuple[int, ...]:
    return tuple(range(x.type.rank, 2 * x.type.rank - 2))


def _max_pool_samples(rng: np.random.Generator) -> Iterable[Sample]:
    yield from _pool_samples()(rng)
    x = rng.integers(-99, 99, (1, 2, 9, 9)).astype(np.int8)
    yield Sample((x,), {"kernel": (3, 3), "strides": (2, 2), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)})


@composite(samples=_max_pool_samples)
def max_pool(x: Value, *, kernel: tuple[Dim, ...], strides: tuple[int, ...], pads: Pads, dilations: tuple[int, ...]) -> Value:
    """The largest element of each window; outside counts as -inf, or the dtype's least value."""
    return apply("reduce_max", _windows(x, kernel, strides, pads, dilations, -math.inf), axes=_window_axes(x), keepdims=False)


@composite(samples=_pool_samples())
def max_pool_indices(
    x: Value,
    *,
    kernel: tuple[Dim, ...],
    strides: tuple[int, ...],
    pads: Pads,
    dilations: tuple[int, ...],
    column_major: bool = False,
) -> Value:
    """Where `max_pool` finds its elements: their row-major position in x, as i64 (column-major within one channel's plane)."""
    spatial, rank = x.shape[2:], x.type.rank
    count = dim_product(x.shape)
    places = apply("iota", shape=(count,), axis=0, dtype=i64)
    if column_major:
        places = reshape(places, (*x.shape[:2], *reversed(spatial)))
        places = transpose(places, (0, 1, *reversed(range(2, rank))))
    else:
        places = reshape(places, x.shape)
    values = _windows(x, kernel, strides, pads, dilations, -math.inf)
    places = _windows(places, kernel, strides, pads, dilations, 0)
    flat = (*values.shape[:rank], dim_product(kernel))
    best = apply("argmax", reshape(values, flat), axes=(rank,), keepdims=True)
    return reshape(apply("gather_elements", reshape(places, flat), best, axis=rank), values.shape[:rank])


def _avg_pool_samples(rng: np.random.Generator) -> Iterable[Sample]:
    yield from _pool_samples()(rng)
    yield from _pool_samples(count_include_pad=True)(rng)
    attrs = {"kernel": (3, 3), "strides": (2, 2), "pads": ((1, 2), (1, 2)), "dilations": (1, 1), "uncounted": (1, 1)}
    yield Sample(normal(rng, np.float32, (1, 2, 8, 8)), attrs | {"count_include_pad": True})


@composite(samples=_avg_pool_samples)
def avg_pool(
    x: Value,
    *,
    kernel: tuple[Dim, ...],
    strides: tuple[int, ...],
    pads: Pads,
    dilations: tuple[int, ...],
    count_include_pad: bool = False,
    uncounted: tuple[Dim, ...] = (),
) -> Value:
    """The mean of each window's elements inside x, or with `count_include_pad` inside x and its pads, of floats.

    `uncounted`: how much of each high pad was added to round the result's size up, and never counts.
    """
    wide = widen(x)
    total = apply("reduce_sum", _windows(wide, kernel, strides, pads, dilations, 0), axes=_window_axes(x), keepdims=False)
    uncounted = uncounted or (0,) * len(kernel)
    outside = [(0, u) if count_include_pad else (low, high) for (low, high), u in zip(pads, uncounted, strict=True)]
    if all(p == (0, 0) for p in outside):
        return cast(build("div", total, size(dim_product(kernel), wide.dtype)), x.dtype)
    inside = [d + low + high - u if count_include_pad else d for d, (low, high), u in zip(x.shape[2:], pads, uncounted, strict=True)]
    ones = broadcast(scalar(1, wide.dtype), (1, 1, *inside))
    counts = _windows(ones, kernel, strides, tuple(outside), dilations, 0)
    counts = apply("reduce_sum", counts, axes=_window_axes(x), keepdims=False)
    return cast(build("div", total, counts), x.dtype)


@composite(samples=_pool_samples(p=2))
def lp_pool(
    x: Value, *, kernel: tuple[Dim, ...], strides: tuple[int, ...], pads: Pads, dilations: tuple[int, ...], p: int = 2
) -> Value:
    """The p-norm of each window, of floats; outside counts as 0."""
    power = _absolute_power(widen(x), p)
    total = apply("reduce_sum", _windows(power, kernel, strides, pads, dilations, 0), axes=_window_axes(x), keepdims=False)
    return cast(_root(total, p), x.dtype)


def _absolute_power(x: Value, p: int) -> Value:
    return build("mul", x, x) if p == 2 else apply("abs", x) if p == 1 else build("pow", apply("abs", x), float(p))


def _root(x: Value, p: int) -> Value:
    return apply("sqrt", x) if p == 2 else x if p == 1 else build("pow", x, 1 / p)


_IMAGES = ((((2, 3, 5, 7),), {}), (((1, 4, 19),), {}))


def _spatial(x: Value) -> tuple[int, ...]:
    if x.type.rank < 3:
        raise ShapeError(f"needs spatial axes after [n, c], got {x.type}")
    return tuple(range(2, x.type.rank))


@composite(samples=float_cases(*_IMAGES))
def global_max_pool(x: Value) -> Value:
    """The largest element of each channel, the spatial axes kept with size 1."""
    return apply("reduce_max", x, axes=_spatial(x), keepdims=True)


@composite(samples=float_cases(*_IMAGES))
def global_avg_pool(x: Value) -> Value:
    """The mean of each channel, the spatial axes kept with size 1."""
    return apply("mean", x, axes=_spatial(x), keepdims=True)


@composite(samples=float_cases(*_IMAGES))
def global_lp_pool(x: Value, *, p: int = 2) -> Value:
    """The p-norm of each channel, the spatial axes kept with size 1, of floats."""
    total = apply("reduce_sum", _absolute_power(widen(x), p), axes=_spatial(x), keepdims=True)
    return cast(_root(total, p), x.dtype)


@composite(samples=float_cases((((2, 7, 3, 5),), {"size": 3}), (((1, 4, 9),), {"size": 4, "alpha": 0.1, "beta": 0.5, "bias": 2.0})))
def lrn(x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    """x / (bias + alpha / size * the sum of squares over `size` neighbouring channels) ** beta, of floats."""
    wide = widen(x)
    low, high = (size - 1) // 2, size // 2
    square = build("mul", wide, wide)
    near = apply("window", square, axes=(1,), kernel=(size,), strides=(1,), dilations=(1,), low=(low,), high=(high,), fill=0.0)
    total = apply("reduce_sum", near, axes=(x.type.rank,), keepdims=False)
    scale = build("pow", build("add", build("mul", total, alpha / size), bias), -beta)
    return cast(build("mul", wide, scale), x.dtype)


# --- transposed convolution -------------------------------------------------------------------------------------------------


def _conv_transpose_samples(rng: np.random.Generator) -> Iterable[Sample]:
    plain: dict[str, Any] = {
        "strides": (2, 2),
        "pads": ((1, 1), (0, 1)),
        "dilations": (1, 1),
        "groups": 1,
        "output_padding": (1, 0),
    }
    for dtype in FLOATS:
        yield Sample(normal(rng, dtype, (2, 3, 5, 4), (3, 5, 3, 3)), plain)
        yield Sample(normal(rng, dtype, (1, 4, 5, 6), (4, 3, 2, 3)), plain | {"groups": 2, "strides": (1, 3), "dilations": (2, 1)})
        exact = {"strides": (2, 3), "pads": ((0, 0), (0, 0)), "output_padding": (0, 0)}
        yield Sample(normal(rng, dtype, (2, 4, 5, 3), (4, 3, 2, 3)), plain | exact | {"groups": 2})
    one = {"strides": (2,), "pads": ((3, 2),), "dilations": (1,), "groups": 1, "output_padding": (0,)}
    yield Sample(normal(rng, np.float32, (1, 2, 7), (2, 3, 3)), one)


@composite(samples=_conv_transpose_samples)
def conv_transpose(
    x: Value,
    w: Value,
    *,
    strides: tuple[int, ...],
    pads: Pads,
    dilations: tuple[int, ...],
    groups: int = 1,
    output_padding: tuple[Dim, ...] = (),
) -> Value:
    """The gradient of a convolution: x[n, c, *spatial] with w[c, o / groups, *kernel] gives [n, o, *larger].

    Each spatial size becomes stride * (size - 1) + dilation * (kernel - 1) + 1 - low - high + output_padding.
    """
    spatial = len(strides)
    if x.type.rank != w.type.rank or x.type.rank != spatial + 2:
        raise ShapeError(f"{x.type} and {w.type} need {spatial + 2} axes each, for {spatial} strides")
    output_padding = output_padding or (0,) * spatial
    channels, per_group, *kernel = w.shape
    no_pads = all(p == (0, 0) for p in pads) and all(p == 0 for p in output_padding)
    split = reshape(w, (groups, channels // groups, per_group, *kernel))
    if no_pads and tuple(kernel) == tuple(strides) and all(d == 1 for d in dilations):
        return _unfold(x, split, groups)
    axes = tuple(range(2, spatial + 2))
    turned = reshape(transpose(split, (0, 2, 1, *range(3, spatial + 3))), (groups * per_group, channels // groups, *kernel))
    turned = apply(
        "slice",
        turned,
        starts=(0, 0, *(k - 1 for k in kernel)),
        stops=(*turned.shape[:2], *(-1 for _ in kernel)),
        steps=(1, 1, *(-1 for _ in kernel)),
    )
    margins = [
        (d * (k - 1) - low, d * (k - 1) - high + extra)
        for d, k, (low, high), extra in zip(dilations, kernel, pads, output_padding, strict=True)
    ]
    spread = apply("dilate", x, axes=axes, factors=strides) if any(s != 1 for s in strides) else x
    grown = tuple(tuple(0 if isinstance(m, int) and m < 0 else m for m in pair) for pair in margins)
    y = apply("conv", spread, turned, strides=(1,) * spatial, pads=grown, dilations=dilations, groups=groups)
    for axis, (low, high) in zip(axes, margins, strict=True):
        cut_low, cut_high = (-m if isinstance(m, int) and m < 0 else 0 for m in (low, high))
        y = narrow(y, axis, cut_low, y.shape[axis] - cut_high)
    return y


def _unfold(x: Value, split: Value, groups: int) -> Value:
    """A transposed convolution whose windows tile the result: a 1x1 convolution and a permutation."""
    per_group, kernel = split.shape[2], split.shape[3:]
    count = len(kernel)
    ones = (1,) * count
    weights = transpose(split, (0, 2, *range(3, count + 3), 1))
    weights = reshape(weights, (groups * per_group * dim_product(kernel), split.shape[1], *ones))
    y = apply("conv", x, weights, strides=ones, pads=((0, 0),) * count, dilations=ones, groups=groups)
    n, outputs = x.shape[0], groups * per_group
    y = reshape(y, (n, outputs, *kernel, *x.shape[2:]))
    order = [axis for k in range(count) for axis in (2 + count + k, 2 + k)]
    larger = tuple(d * k for d, k in zip(x.shape[2:], kernel, strict=True))
    return reshape(transpose(y, (0, 1, *order)), (n, outputs, *larger))
