"""Resize and Upsample: one axis after another, each a gather (nearest) or a weighted sum of gathers (linear, cubic, antialias).

The source coordinate of each output position is computed in f32 from an iota, so that sizes may be symbolic; where they are
static the positions and weights fold to constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ...ir.dims import Dim, floordiv
from ...ir.errors import ModelError, ShapeError, UnsupportedOp
from ...ir.graph import Value
from ...ir.types import f32, i64
from .registry import Operand, Site, Tensor, onnx_op
from .symbolic import Ratio, as_dim, largest


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: sizes before and after, the scale as a scalar f32 value, and the crop for tf_crop_and_resize.

    same: the scale is 1; another scale moves the coordinates even where the size, rounded down, stays.
    """

    axis: int
    before: Dim
    after: Dim
    scale: Value
    same: bool
    start: float = 0.0
    end: float = 1.0


def size_value(n: Site, d: Dim) -> Value:
    """A size as a scalar f32."""
    if isinstance(d, int):
        return n.const(d, f32)
    return n.cast(n.reshape(n.apply("sizes", dims=(d,)), ()), f32)


def _source(n: Site, a: Axis, mode: str) -> Value:
    """f32[after]: the coordinate in the source of each output position."""
    position = n.apply("iota", shape=(a.after,), axis=0, dtype=f32)
    one, half, zero = n.const(1, f32), n.const(0.5, f32), n.const(0, f32)
    if mode == "asymmetric":
        return n.apply("div", position, a.scale)
    before = size_value(n, a.before)
    after = n.apply("mul", a.scale, before)  # not rounded down to the size
    if mode == "align_corners":
        span = n.apply("max", n.apply("sub", after, one), one)
        return n.apply("div", n.apply("mul", position, n.apply("sub", before, one)), span)
    if mode == "tf_crop_and_resize":
        extent = n.apply("sub", before, one)
        first = n.apply("mul", n.const(a.start, f32), extent)
        if a.after == 1:
            middle = n.apply("mul", n.const((a.start + a.end) / 2, f32), extent)
            return n.broadcast(n.reshape(middle, (1,)), (1,))
        step = n.apply("div", n.apply("mul", n.const(a.end - a.start, f32), extent), n.apply("sub", after, one))
        return n.apply("add", first, n.apply("mul", position, step))
    centred = n.apply("sub", n.apply("div", n.apply("add", position, half), a.scale), half)
    if mode == "half_pixel":
        return centred
    if mode == "pytorch_half_pixel":
        return n.apply("where", n.apply("gt", after, one), centred, zero)
    if mode == "half_pixel_symmetric":
        adjustment = n.apply("div", size_value(n, a.after), after)
        centre = n.apply("div", before, n.const(2, f32))
        offset = n.apply("mul", centre, n.apply("sub", one, adjustment))
        return n.apply("add", offset, centred)
    raise UnsupportedOp(f"coordinate_transformation_mode {mode!r} is not supported")


def _nearest(n: Site, a: Axis, x: Value, source: Value, rounding: str) -> Value:
    half = n.const(0.5, f32)
    if rounding == "floor":
        at = n.apply("floor", source)
    elif rounding == "ceil":
        at = n.apply("ceil", source)
    elif rounding == "round_prefer_ceil":
        at = n.apply("floor", n.apply("add", source, half))
    else:
        at = n.apply("ceil", n.apply("sub", source, half))
    return n.apply("gather", x, _clamped(n, at, a.before), axis=a.axis)


def _clamped(n: Site, position: Value, size: Dim) -> Value:
    """A position as an index inside an axis of this size."""
    last = n.apply("sub", size_value(n, size), n.const(1, f32))
    return n.cast(n.apply("clip", position, n.const(0, f32), last), i64)


def cubic_weight(n: Site, distance: Value, coefficient: float) -> Value:
    """The cubic convolution kernel at |distance|."""
    d, c = n.apply("abs", distance), coefficient

    def number(v: float) -> Value:
        return n.const(v, f32)

    def horner(*factors: float) -> Value:
        total = number(factors[0])
        for f in factors[1:]:
            total = n.apply("add", n.apply("mul", total, d), number(f))
        return total

    near = horner(c + 2, -(c + 3), 0, 1)
    far = horner(c, -5 * c, 8 * c, -4 * c)
    outer = n.apply("where", n.apply("lt", d, number(2)), far, number(0))
    return n.apply("where", n.apply("le", d, number(1)), near, outer)


def _triangle(n: Site, distance: Value) -> Value:
    one = n.const(1, f32)
    return n.apply("max", n.apply("sub", one, n.apply("abs", distance)), n.const(0, f32))


def _interpolated(n: Site, a: Axis, x: Value, source: Value, mode: str) -> Value:
    """The weighted sum of the taps around each source coordinate."""
    coefficient = n.number("cubic_coeff_a", -0.75)
    antialias = n.integer("antialias") and not (isinstance(a.after, int) and isinstance(a.before, int) and a.after >= a.before)
    exclude = bool(n.integer("exclude_outside"))
    reach, shrink = (2 if mode == "cubic" else 1), None
    if antialias:
        if not isinstance(a.before, int) or not isinstance(a.after, int):
            raise UnsupportedOp("antialias needs static sizes")
        scale = float(n.known(Tensor(a.scale), "the scale").item())
        shrink = min(scale, 1.0)
        reach = int(-(-reach // shrink))
    base = n.apply("floor", source)
    taps = []
    for offset in range(1 - reach, reach + 1):
        at = n.apply("add", base, n.const(offset, f32))
        distance = n.apply("sub", source, at)
        if shrink is not None:
            distance = n.apply("mul", distance, n.const(shrink, f32))
        weight = cubic_weight(n, distance, coefficient) if mode == "cubic" else _triangle(n, distance)
        if exclude:
            inside = n.apply("and", n.apply("ge", at, n.const(0, f32)), n.apply("lt", at, size_value(n, a.before)))
            weight = n.apply("where", inside, weight, n.const(0, f32))
        taps.append((at, weight))
    total = None
    if exclude or antialias:
        for _, weight in taps:
            total = weight if total is None else n.apply("add", total, weight)
    result = None
    rank = x.type.rank
    for at, weight in taps:
        if total is not None:
            weight = n.apply("div", weight, total)
        shaped = n.reshape(weight, [a.after if k == a.axis else 1 for k in range(rank)])
        part = n.apply("mul", n.apply("gather", x, _clamped(n, at, a.before), axis=a.axis), shaped)
        result = part if result is None else n.apply("add", result, part)
    assert result is not None
    return result


def _outside(n: Site, a: Axis, rank: int, source: Value) -> Value:
    last = n.apply("sub", size_value(n, a.before), n.const(1, f32))
    out = n.apply("or", n.apply("lt", source, n.const(0, f32)), n.apply("gt", source, last))
    return n.reshape(out, [a.after if k == a.axis else 1 for k in range(rank)])


def resize_axes(n: Site, x: Tensor, axes: list[Axis]) -> Value:
    mode = n.text("mode", "nearest")
    transform = n.text("coordinate_transformation_mode", "half_pixel" if n.op == "Resize" and n.version > 10 else "asymmetric")
    if mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise ModelError(f"mode {mode!r} does not exist")
    value = x.value
    work = value if mode == "nearest" else n.cast(value, f32)
    outside = None
    for a in axes:
        if a.same and transform != "tf_crop_and_resize":
            continue
        source = _source(n, a, transform)
        if transform == "tf_crop_and_resize":
            beyond = _outside(n, a, x.rank, source)
            outside = beyond if outside is None else n.apply("or", outside, beyond)
        if mode == "nearest":
            work = _nearest(n, a, work, source, n.text("nearest_mode", "round_prefer_floor" if n.version > 10 else "floor"))
        else:
            work = _interpolated(n, a, work, source, "cubic" if mode == "cubic" else "linear")
    if outside is not None:
        work = n.apply("where", outside, n.scalar(n.number("extrapolation_value", 0.0), work), work)
    if work.dtype is not value.dtype:
        if value.dtype.is_int:
            low, high = n.const(value.dtype.min, f32), n.const(value.dtype.max, f32)
            work = n.apply("clip", n.apply("round", work), low, high)
        work = n.cast(work, value.dtype)
    return work


def _scaled(size: Dim, scale: object) -> Dim:
    """floor(size * scale) for a scale given as an exact decimal."""
    if isinstance(scale, Ratio):
        return floordiv(size * as_dim(scale.size) * scale.factor.numerator, scale.factor.denominator)
    factor = Fraction(str(scale))
    return floordiv(size * factor.numerator, factor.denominator)


def by_scales(n: Site, x: Tensor, scales: Tensor, where: tuple[int, ...], crop: list[tuple[float, float]]) -> Value:
    if scales.type.size != len(where):
        raise ShapeError(f"{scales.type.size} scales for {len(where)} axes")
    contents = scales.contents
    factors = list(contents.flat) if contents is not None else [float(v) for v in n.known(scales, "the scales").ravel()]
    axes = []
    for k, axis in enumerate(where):
        factor = factors[k]
        shown = factor if isinstance(factor, Ratio) else scale_text(float(factor))
        after = _scaled(x.shape[axis], shown)
        scale = n.reshape(n.slice_axis(scales, 0, k, k + 1), ()) if isinstance(factor, Ratio) else n.const(factor, f32)
        same = after == x.shape[axis] and (isinstance(factor, Ratio) or factor == 1)
        axes.append(Axis(axis, x.shape[axis], after, n.cast(scale, f32), same, *crop[k]))
    return resize_axes(n, x, axes)


def scale_text(scale: float) -> str:
    """The shortest decimal that is this f32."""
    return str(np.float32(scale))


@onnx_op("Resize", since=11)
def resize(n: Site, x: Tensor, roi: Operand = None, scales: Operand = None, sizes: Operand = None) -> Value:
    where = n.axes(n.integers("axes") or tuple(range(x.rank)), x.rank)
    crop = [(0.0, 1.0)] * len(where)
    if n.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        if roi is None or roi.type.size != 2 * len(where):
            raise ModelError("tf_crop_and_resize needs a roi with a start and an end for each axis")
        numbers = [float(v) for v in n.known(roi, "roi").ravel()]
        crop = [(numbers[k], numbers[k + len(where)]) for k in range(len(where))]
    if sizes is None or sizes.type.size == 0:
        if scales is None or scales.type.size == 0:
            raise ModelError("it needs scales or sizes")
        return by_scales(n, x, scales, where, crop)
    wanted = list(n.dims(sizes, "a size"))
    if len(wanted) != len(where):
        raise ShapeError(f"{len(wanted)} sizes for {len(where)} axes")
    policy = n.text("keep_aspect_ratio_policy", "stretch")
    shared: Value | None = None
    if policy != "stretch":
        ratios = [(w, x.shape[k]) for w, k in zip(wanted, where, strict=True)]
        if any(not isinstance(v, int) for pair in ratios for v in pair):
            raise UnsupportedOp("keep_aspect_ratio_policy needs static sizes")
        pick = min if policy == "not_larger" else max
        factor = pick(Fraction(w, d) for w, d in ratios)  # type: ignore[arg-type]
        wanted = [int(factor * x.shape[k] + Fraction(1, 2)) for k in where]  # type: ignore[operator]
        shared = n.const(float(factor), f32)
    axes = []
    for k, axis in enumerate(where):
        before, after = x.shape[axis], largest(wanted[k], 0)
        scale = shared if shared is not None else n.apply("div", size_value(n, after), size_value(n, before))
        axes.append(Axis(axis, before, after, scale, before == after, *crop[k]))
    return resize_axes(n, x, axes)


@onnx_op("Resize", since=10)
@onnx_op("Upsample", since=9)
def upsample(n: Site, x: Tensor, scales: Tensor) -> Value:
    return by_scales(n, x, scales, tuple(range(x.rank)), [(0.0, 1.0)] * x.rank)


@onnx_op("Upsample", since=7)
def upsample_by_attribute(n: Site, x: Tensor) -> Value:
    factors = n.attr("scales") or ()
    return by_scales(n, x, Tensor(n.const(list(factors), f32)), tuple(range(x.rank)), [(0.0, 1.0)] * x.rank)
