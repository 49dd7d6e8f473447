"""Resizing, one axis after another: each a gather (nearest; whole factors repeat) or a weighted sum of gathers (linear, cubic).

The source coordinate of each result position is computed in f32 from an iota, so that sizes may be symbolic; where they are
static, positions and weights fold to constants.  These attributes are common to all:

* `shape`: the result's sizes.
* `scales`: a factor for each axis, either a number or a pair of sizes whose quotient it is.  It may differ from the ratio of the
  sizes before and after, which is meant where there are no scales.
* `coordinates`: where a result position lies in the source, one of `COORDINATES`, as ONNX names and defines them.
* `roi`, `extrapolation_value`: for "tf_crop_and_resize" the starts and then the ends of the part of each axis that is resized, as
  fractions of its last position, and what lies beyond the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from ..dims import Dim, floordiv
from ..errors import ShapeError, UnsupportedOp
from ..graph import Value
from ..types import f32, i64
from .nn import FLOATS, normal
from .operators import build, cast, reshape, scalar, size
from .registry import Sample, apply, composite

Scale: TypeAlias = "float | tuple[Dim, Dim]"

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
_ROUNDINGS: dict[str, Callable[[Value], Value]] = {
    "round_prefer_floor": lambda x: apply("ceil", build("sub", x, 0.5)),
    "round_prefer_ceil": lambda x: apply("floor", build("add", x, 0.5)),
    "floor": lambda x: apply("floor", x),
    "ceil": lambda x: apply("ceil", x),
}


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized: by numerator / denominator, from the part between the fractions `start` and `end`."""

    axis: int
    before: Dim
    after: Dim
    numerator: float | Dim
    denominator: Dim
    coordinates: str
    start: float
    end: float

    @property
    def scale(self) -> Value:
        """The scale as a scalar f32."""
        if isinstance(self.numerator, float):
            return scalar(self.numerator, f32)
        return build("div", size(self.numerator, f32), size(self.denominator, f32))

    @property
    def extent(self) -> Value:
        """The size after as a scalar f32, not rounded down to a whole number."""
        exact = (self.numerator, self.denominator) == (self.after, self.before)
        return size(self.after, f32) if exact else build("mul", self.scale, size(self.before, f32))

    @property
    def last(self) -> Value:
        """The last position of the source as a scalar f32."""
        return build("sub", size(self.before, f32), 1.0)


def _axes(x: Value, shape: tuple[Dim, ...], scales: Sequence[Scale], coordinates: str, roi: Sequence[float]) -> list[_Axis]:
    """The axes along which something moves."""
    rank = x.type.rank
    if len(shape) != rank or len(scales) not in (0, rank):
        raise ShapeError(f"needs a size, and a scale or no scales, for each axis of {x.type}")
    if coordinates not in COORDINATES:
        raise ShapeError(f"the coordinates are one of {', '.join(COORDINATES)}, not {coordinates!r}")
    if len(roi) != (2 * rank if coordinates == "tf_crop_and_resize" else 0):
        raise ShapeError(f"tf_crop_and_resize, and nothing else, needs a roi with a start and an end for each axis of {x.type}")
    if any(isinstance(s, float) and not 0 < s < math.inf for s in scales):
        raise ShapeError(f"the scales must be positive numbers, not {scales}")
    axes = []
    for k, (before, after) in enumerate(zip(x.shape, shape, strict=True)):
        if before == 0 and after != 0:
            raise ShapeError(f"axis {k} is empty and cannot be resized to {after}")
        scale = scales[k] if scales else (after, before)
        numerator, denominator = scale if isinstance(scale, tuple) else (float(scale), 1)
        part = (roi[k], roi[k + rank]) if roi else (0.0, 1.0)
        if before != after or (before != 0 and (numerator != denominator or part != (0.0, 1.0))):
            axes.append(_Axis(k, before, after, numerator, denominator, coordinates, *part))
    return axes


def _source(a: _Axis) -> Value:
    """f32[after]: where in the source each result position lies."""
    position = apply("iota", shape=(a.after,), axis=0, dtype=f32)
    if a.coordinates == "asymmetric":
        return build("div", position, a.scale)
    if a.coordinates in ("align_corners", "tf_crop_and_resize"):
        span = build("max", build("sub", a.extent, 1.0), 1.0)
        if a.coordinates == "align_corners":
            return build("div", build("mul", position, a.last), span)
        step = build("div", build("mul", a.last, a.end - a.start), span)
        spread = build("add", build("mul", position, step), build("mul", a.last, a.start))
        return build("where", build("gt", a.extent, 1.0), spread, build("mul", a.last, (a.start + a.end) / 2))
    centred = build("sub", build("div", build("add", position, 0.5), a.scale), 0.5)
    if a.coordinates == "pytorch_half_pixel":
        return build("where", build("gt", a.extent, 1.0), centred, 0.0)
    if a.coordinates == "half_pixel":
        return centred
    lost = build("sub", 1.0, build("div", size(a.after, f32), a.extent))  # the part that rounding the size down cut off
    return build("add", centred, build("mul", lost, build("mul", size(a.before, f32), 0.5)))


def _take(x: Value, a: _Axis, position: Value) -> Value:
    """The elements at f32 positions along the axis, those outside being the nearest ones inside."""
    at = build("clip", cast(position, i64), scalar(0, i64), build("sub", size(a.before, i64), 1))
    return apply("gather", x, at, axis=a.axis)


def _along(a: _Axis, vector: Value, x: Value) -> Value:
    """A vector over the result positions of an axis, shaped to broadcast against x."""
    return reshape(vector, (a.after, *(1,) * (x.type.rank - a.axis - 1)))


def _extrapolated(x: Value, axes: list[_Axis], value: float) -> Value:
    """The result with the value wherever tf_crop_and_resize leaves the source."""
    for a in axes:
        if a.coordinates == "tf_crop_and_resize":
            source = _source(a)
            beyond = build("or", build("lt", source, 0.0), build("gt", source, a.last))
            x = build("where", _along(a, beyond, x), value, x)
    return x


def _samples(*cases: dict[str, Any]) -> Callable[[np.random.Generator], Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for attrs in cases:
            for dtype in FLOATS:
                yield Sample(normal(rng, dtype, (2, 3, 5, 6)), attrs)

    return samples


_SIZES = {"shape": (2, 3, 10, 4)}
_CROP = {"coordinates": "tf_crop_and_resize", "roi": (0.0, 0.0, 0.4, -0.2, 1.0, 1.0, 0.6, 0.8), "extrapolation_value": 1.5}
_SYMMETRIC = {"shape": (2, 3, 7, 3), "scales": (1.0, 1.0, 1.5, (13, 24)), "coordinates": "half_pixel_symmetric"}
_MOVED = {"shape": (2, 3, 5, 6), "scales": (1.0, 1.0, 1.15, 1.0)}


def _repeats(a: _Axis, rounding: str) -> Dim | None:
    """n where every element is repeated n times: whole factors that round to the pixel they lie in."""
    factor = floordiv(a.after, a.before)
    whole = factor * a.before == a.after and factor * a.denominator == a.numerator
    centred = a.coordinates in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel") and rounding.startswith("round")
    return factor if whole and (centred or (a.coordinates, rounding) == ("asymmetric", "floor")) else None


@composite(
    samples=_samples(
        _SIZES,
        {"shape": (2, 3, 10, 18), "coordinates": "asymmetric", "rounding": "floor"},
        {"shape": (2, 3, 7, 3), "scales": (1.0, 1.0, 1.4, 0.5), "coordinates": "asymmetric", "rounding": "ceil"},
        _SIZES | {"coordinates": "align_corners", "rounding": "round_prefer_ceil"},
        _SYMMETRIC,
        _MOVED,
        _SIZES | _CROP,
    )
)
def resize_nearest(
    x: Value,
    *,
    shape: tuple[Dim, ...],
    scales: tuple[Scale, ...] = (),
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
    roi: tuple[float, ...] = (),
    extrapolation_value: float = 0.0,
) -> Value:
    """The nearest element of x, of any dtype; rounding: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil"."""
    if rounding not in _ROUNDINGS:
        raise ShapeError(f"the rounding is one of {', '.join(_ROUNDINGS)}, not {rounding!r}")
    axes = _axes(x, shape, scales, coordinates, roi)
    times = {a.axis: n for a in axes if (n := _repeats(a, rounding)) is not None}
    if times:
        x = apply("repeat", x, repeats=tuple(times.get(k, 1) for k in range(x.type.rank)))
    for a in axes:
        if a.axis not in times:
            x = _take(x, a, _ROUNDINGS[rounding](_source(a)))
    return _extrapolated(x, axes, extrapolation_value)


@dataclass(frozen=True)
class _Kernel:
    """How weights follow from distances: `weight` of a distance up to `reach`, where it is 0, and the options of the sum."""

    reach: int
    weight: Callable[[Value], Value]
    antialias: bool
    exclude_outside: bool


def _shrink(a: _Axis, kernel: _Kernel) -> Fraction | None:
    """What distances are multiplied by where antialias widens the kernel; None where it does not.  Raises UnsupportedOp."""
    if not kernel.antialias:
        return None
    if not isinstance(a.numerator, int | float) or not isinstance(a.denominator, int):
        raise UnsupportedOp(f"antialias needs static sizes or scales, not an axis of {a.before} resized to {a.after}")
    scale = Fraction(a.numerator) / a.denominator
    return scale if 0 < scale < 1 else None


def _weights(a: _Axis, source: Value, kernel: _Kernel) -> list[tuple[Value, Value]]:
    """For each element that a result position sums, its f32[after] position and weight."""
    shrink = _shrink(a, kernel)
    reach = math.ceil(kernel.reach / (shrink or 1))
    base = apply("floor", source)
    taps = []
    for offset in range(1 - reach, reach + 1):
        at = build("add", base, float(offset))
        distance = apply("abs", build("sub", source, at))
        if shrink is not None:
            distance = build("min", build("mul", distance, float(shrink)), float(kernel.reach))
        weight = kernel.weight(distance)
        if kernel.exclude_outside:
            weight = build("where", build("and", build("ge", at, 0.0), build("le", at, a.last)), weight, 0.0)
        taps.append((at, weight))
    if shrink is None and not kernel.exclude_outside:
        return taps
    total = taps[0][1]
    for _, weight in taps[1:]:
        total = build("add", total, weight)
    return [(at, build("div", weight, total)) for at, weight in taps]


def _weighted(x: Value, axes: list[_Axis], kernel: _Kernel, extrapolation_value: float) -> Value:
    """Sums over the elements around each source coordinate, weighted by the kernel of their distance."""
    wide = cast(x, f32) if x.dtype.bits < 32 or x.dtype.is_int else x
    for a in axes:
        total: Value | None = None
        for at, weight in _weights(a, _source(a), kernel):
            part = build("mul", _take(wide, a, at), cast(_along(a, weight, wide), wide.dtype))
            total = part if total is None else build("add", total, part)
        assert total is not None
        wide = total
    wide = _extrapolated(wide, axes, extrapolation_value)
    return cast(apply("round", wide) if x.dtype.is_int else wide, x.dtype)


@composite(
    samples=_samples(
        _SIZES,
        {"shape": (2, 3, 7, 3), "scales": (1.0, 1.0, 1.4, 0.5), "coordinates": "asymmetric"},
        _SIZES | {"coordinates": "align_corners"},
        {"shape": (2, 3, 1, 13), "coordinates": "pytorch_half_pixel"},
        _SYMMETRIC,
        _MOVED | {"exclude_outside": True},
        _SIZES | _CROP,
        {"shape": (2, 3, 10, 2), "scales": (1.0, 1.0, 2.0, 0.4), "antialias": True},
    )
)
def resize_linear(
    x: Value,
    *,
    shape: tuple[Dim, ...],
    scales: tuple[Scale, ...] = (),
    coordinates: str = "half_pixel",
    roi: tuple[float, ...] = (),
    extrapolation_value: float = 0.0,
    antialias: bool = False,
    exclude_outside: bool = False,
) -> Value:
    """Linear interpolation along each resized axis, the edges continued outwards; integers are rounded half to even.

    antialias widens the triangle of weights where an axis shrinks; its scale must then be static.  exclude_outside gives no
    weight to what lies outside.  Raises UnsupportedOp.
    """
    kernel = _Kernel(1, lambda d: build("sub", 1.0, d), antialias, exclude_outside)
    return _weighted(x, _axes(x, shape, scales, coordinates, roi), kernel, extrapolation_value)


@composite(
    samples=_samples(
        _SIZES,
        {"shape": (2, 3, 4, 13), "coefficient": -0.5},
        _SIZES | {"coordinates": "align_corners"},
        _SYMMETRIC | {"exclude_outside": True},
        _SIZES | _CROP,
        {"shape": (2, 3, 2, 4), "scales": (1.0, 1.0, 0.45, 0.7), "antialias": True, "exclude_outside": True},
    )
)
def resize_cubic(
    x: Value,
    *,
    shape: tuple[Dim, ...],
    scales: tuple[Scale, ...] = (),
    coordinates: str = "half_pixel",
    coefficient: float = -0.75,
    roi: tuple[float, ...] = (),
    extrapolation_value: float = 0.0,
    antialias: bool = False,
    exclude_outside: bool = False,
) -> Value:
    """Cubic convolution along each resized axis, the edges continued outwards; integers are rounded and saturate.

    antialias and exclude_outside are those of resize_linear.  Raises UnsupportedOp.
    """
    kernel = _Kernel(2, lambda d: apply("cubic_kernel", d, coefficient=coefficient), antialias, exclude_outside)
    return _weighted(x, _axes(x, shape, scales, coordinates, roi), kernel, extrapolation_value)


def _distances(rng: np.random.Generator) -> Iterable[Sample]:
    for coefficient in (-0.75, -0.5):
        yield Sample((rng.uniform(0, 2, (3, 7)).astype(np.float32),), {"coefficient": coefficient})


@composite(samples=_distances)
def cubic_kernel(distance: Value, *, coefficient: float = -0.75) -> Value:
    """The weight that cubic convolution gives to an element at a distance from 0 to 2."""
    c = coefficient
    near, far = (_polynomial(distance, factors) for factors in ((c + 2, -c - 3, 0.0, 1.0), (c, -5 * c, 8 * c, -4 * c)))
    return build("where", build("le", distance, 1.0), near, far)


def _polynomial(x: Value, factors: tuple[float, ...]) -> Value:
    total = build("add", build("mul", x, factors[0]), factors[1])
    for f in factors[2:]:
        total = build("add", build("mul", total, x), f)
    return total
