"""Resizing, one axis after another: each a gather (nearest) or a weighted sum of gathers (linear, cubic).

The source coordinate of each result position is computed in f32 from an iota, so that sizes may be symbolic; where they are
static, positions and weights fold to constants.  `shape` is the result's; `scales` has a factor for each axis, or is empty
where the ratio of the sizes is meant.  coordinates: "half_pixel", "pytorch_half_pixel", "align_corners" or "asymmetric".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dims import Dim, floordiv
from ..errors import ShapeError
from ..graph import Value
from ..types import f32, i64
from .nn import FLOATS, normal
from .operators import broadcast, build, cast, reshape, scalar, size
from .registry import Sample, apply, composite

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDINGS: dict[str, Callable[[Value], Value]] = {
    "round_prefer_floor": lambda x: apply("ceil", build("sub", x, 0.5)),
    "round_prefer_ceil": lambda x: apply("floor", build("add", x, 0.5)),
    "floor": lambda x: apply("floor", x),
    "ceil": lambda x: apply("ceil", x),
}


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized; `scale` is a scalar f32."""

    axis: int
    before: Dim
    after: Dim
    scale: Value


def _axes(x: Value, shape: tuple[Dim, ...], scales: tuple[float, ...], coordinates: str) -> list[_Axis]:
    if len(shape) != x.type.rank or len(scales) not in (0, x.type.rank):
        raise ShapeError(f"needs a size, and a scale or no scales, for each axis of {x.type}")
    if coordinates not in _COORDINATES:
        raise ShapeError(f"the coordinates are one of {', '.join(_COORDINATES)}, not {coordinates!r}")
    axes = []
    for k, (before, after) in enumerate(zip(x.shape, shape, strict=True)):
        if before != after:
            scale = scalar(scales[k], f32) if scales else build("div", size(after, f32), size(before, f32))
            axes.append(_Axis(k, before, after, scale))
    return axes


def _source(a: _Axis, coordinates: str) -> Value:
    """f32[after]: where in the source each result position lies."""
    position = apply("iota", shape=(a.after,), axis=0, dtype=f32)
    if coordinates == "asymmetric":
        return build("div", position, a.scale)
    if coordinates == "align_corners":
        span = build("max", build("sub", size(a.after, f32), 1.0), 1.0)
        return build("div", build("mul", position, build("sub", size(a.before, f32), 1.0)), span)
    centred = build("sub", build("div", build("add", position, 0.5), a.scale), 0.5)
    if coordinates == "half_pixel":
        return centred
    return build("where", build("gt", size(a.after, f32), 1.0), centred, 0.0)


def _take(x: Value, a: _Axis, position: Value) -> Value:
    """The elements at f32 positions along the axis, those outside being the nearest ones inside."""
    at = build("clip", cast(position, i64), scalar(0, i64), build("sub", size(a.before, i64), 1))
    return apply("gather", x, at, axis=a.axis)


def _samples(*cases: dict[str, Any]) -> Callable[[np.random.Generator], Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for attrs in cases:
            for dtype in FLOATS:
                yield Sample(normal(rng, dtype, (2, 3, 5, 6)), attrs)

    return samples


_SIZES = {"shape": (2, 3, 10, 4)}


def _repeats(a: _Axis, scales: tuple[float, ...], coordinates: str, rounding: str) -> Dim | None:
    """n where every element is repeated n times: whole factors that round to the pixel they lie in."""
    factor = floordiv(a.after, a.before)
    whole = factor * a.before == a.after and (not scales or scales[a.axis] == factor)
    inside = (coordinates, rounding[:5]) in (("asymmetric", "floor"), ("half_pixel", "round"), ("pytorch_half_pixel", "round"))
    return factor if whole and inside else None


@composite(
    samples=_samples(
        _SIZES,
        {"shape": (2, 3, 10, 18), "coordinates": "asymmetric", "rounding": "floor"},
        {"shape": (2, 3, 7, 3), "scales": (1.0, 1.0, 1.4, 0.5), "coordinates": "asymmetric", "rounding": "ceil"},
        _SIZES | {"coordinates": "align_corners", "rounding": "round_prefer_ceil"},
    )
)
def resize_nearest(
    x: Value,
    *,
    shape: tuple[Dim, ...],
    scales: tuple[float, ...] = (),
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
) -> Value:
    """The nearest element of x, of any dtype; rounding: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil"."""
    if rounding not in _ROUNDINGS:
        raise ShapeError(f"the rounding is one of {', '.join(_ROUNDINGS)}, not {rounding!r}")
    for a in _axes(x, shape, scales, coordinates):
        times = _repeats(a, scales, coordinates, rounding)
        if times is None:
            x = _take(x, a, _ROUNDINGS[rounding](_source(a, coordinates)))
        else:  # without a lookup: a new axis beside the old one
            before, after = x.shape[: a.axis + 1], x.shape[a.axis + 1 :]
            spread = broadcast(reshape(x, (*before, 1, *after)), (*before, times, *after))
            x = reshape(spread, (*x.shape[: a.axis], a.after, *after))
    return x


def _weighted(x: Value, axes: list[_Axis], coordinates: str, reach: int, kernel: Callable[[Value], Value]) -> Value:
    """Sums over the 2 * reach elements around each source coordinate, weighted by the kernel of their distance."""
    wide = cast(x, f32) if x.dtype.bits < 32 or x.dtype.is_int else x
    rank = x.type.rank
    for a in axes:
        source = _source(a, coordinates)
        base = apply("floor", source)
        total: Value | None = None
        for offset in range(1 - reach, reach + 1):
            at = build("add", base, float(offset))
            weight = reshape(kernel(apply("abs", build("sub", source, at))), (a.after, *(1,) * (rank - a.axis - 1)))
            part = build("mul", _take(wide, a, at), cast(weight, wide.dtype))
            total = part if total is None else build("add", total, part)
        assert total is not None
        wide = total
    return cast(apply("round", wide) if x.dtype.is_int else wide, x.dtype)


@composite(
    samples=_samples(
        _SIZES,
        {"shape": (2, 3, 7, 3), "scales": (1.0, 1.0, 1.4, 0.5), "coordinates": "asymmetric"},
        _SIZES | {"coordinates": "align_corners"},
        {"shape": (2, 3, 1, 13), "coordinates": "pytorch_half_pixel"},
    )
)
def resize_linear(x: Value, *, shape: tuple[Dim, ...], scales: tuple[float, ...] = (), coordinates: str = "half_pixel") -> Value:
    """Linear interpolation along each resized axis, the edges continued outwards; integers are rounded half to even."""
    return _weighted(x, _axes(x, shape, scales, coordinates), coordinates, 1, lambda d: build("sub", 1.0, d))


@composite(samples=_samples(_SIZES, {"shape": (2, 3, 4, 13), "coefficient": -0.5}, _SIZES | {"coordinates": "align_corners"}))
def resize_cubic(
    x: Value,
    *,
    shape: tuple[Dim, ...],
    scales: tuple[float, ...] = (),
    coordinates: str = "half_pixel",
    coefficient: float = -0.75,
) -> Value:
    """Cubic convolution along each resized axis, the edges continued outwards; integers are rounded and saturate."""
    c = coefficient

    def kernel(d: Value) -> Value:
        near, far = (_polynomial(d, factors) for factors in ((c + 2, -c - 3, 0.0, 1.0), (c, -5 * c, 8 * c, -4 * c)))
        return build("where", build("le", d, 1.0), near, far)  # no distance exceeds 2

    return _weighted(x, _axes(x, shape, scales, coordinates), coordinates, 2, kernel)


def _polynomial(x: Value, factors: tuple[float, ...]) -> Value:
    total = build("add", build("mul", x, factors[0]), factors[1])
    for f in factors[2:]:
        total = build("add", build("mul", total, x), f)
    return total
