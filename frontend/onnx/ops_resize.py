"""Resize and Upsample: what ONNX says in attributes and operands, said in the attributes of one resize op."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ...ir.dims import Dim, floordiv
from ...ir.errors import ModelError, ShapeError, UnsupportedOp
from ...ir.graph import Value
from ...ir.ops.resize import COORDINATES, Scale
from .registry import Operand, Site, Tensor, onnx_op
from .symbolic import Element, Ratio, largest


def resized(n: Site, x: Tensor, shape: Sequence[Dim], scales: Sequence[Scale], roi: Sequence[float] = ()) -> Value:
    """The resize op for the node's mode; no scales mean the ratio of the sizes."""
    coordinates = n.text("coordinate_transformation_mode", "half_pixel" if n.op == "Resize" and n.version > 10 else "asymmetric")
    if coordinates not in COORDINATES:
        raise UnsupportedOp(f"coordinate_transformation_mode {coordinates!r} is not supported")
    common = {"shape": tuple(shape), "scales": tuple(scales), "coordinates": coordinates}
    if roi:
        common |= {"roi": tuple(roi), "extrapolation_value": n.number("extrapolation_value")}
    mode = n.text("mode", "nearest")
    if mode == "nearest":
        rounding = n.text("nearest_mode", "round_prefer_floor" if n.version > 10 else "floor")
        return n.apply("resize_nearest", x, **common, rounding=rounding)
    common |= {key: True for key in ("antialias", "exclude_outside") if n.integer(key)}
    if mode == "cubic":
        return n.apply("resize_cubic", x, **common, coefficient=n.number("cubic_coeff_a", -0.75))
    if mode in ("linear", "bilinear"):
        return n.apply("resize_linear", x, **common)
    raise ModelError(f"mode {mode!r} does not exist")


def by_scales(n: Site, x: Tensor, factors: Sequence[Element], where: Sequence[int], roi: Sequence[float] = ()) -> Value:
    """Resized by a factor for each of the axes `where`."""
    if len(factors) != len(where):
        raise ShapeError(f"{len(factors)} scales for {len(where)} axes")
    shape: list[Dim] = list(x.shape)
    scales: list[Scale] = [1.0] * x.rank
    for axis, factor in zip(where, factors, strict=True):
        if isinstance(factor, Ratio):
            numerator, denominator = factor.size * factor.factor.numerator, factor.factor.denominator
            scales[axis] = (numerator, denominator)
        else:
            scale = np.float32(factor)  # type: ignore[arg-type]
            if not 0 < scale < math.inf:
                raise ShapeError(f"the scale {scale} is not a positive number")
            scales[axis] = float(scale)
            exact = Fraction(str(scale))  # the shortest decimal that is this f32: what its author wrote
            numerator, denominator = exact.numerator, exact.denominator
        shape[axis] = floordiv(x.shape[axis] * numerator, denominator)
    return resized(n, x, shape, scales, roi)


def elements(n: Site, scales: Tensor) -> list[Element]:
    return list(scales.contents.flat) if scales.contents is not None else n.known(scales, "the scales").ravel().tolist()


@onnx_op("Resize", since=11)
def resize(n: Site, x: Tensor, roi: Operand = None, scales: Operand = None, sizes: Operand = None) -> Value:
    where = n.axes(n.integers("axes") or tuple(range(x.rank)), x.rank)
    crop: list[float] = []
    if n.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        if roi is None or roi.type.size != 2 * len(where):
            raise ModelError("tf_crop_and_resize needs a roi with a start and an end for each axis")
        crop = [0.0] * x.rank + [1.0] * x.rank
        for k, number in enumerate(n.known(roi, "roi").ravel().tolist()):
            crop[where[k] if k < len(where) else x.rank + where[k - len(where)]] = number
    if sizes is None or sizes.type.size == 0:
        if scales is None or scales.type.size == 0:
            raise ModelError("it needs scales or sizes")
        return by_scales(n, x, elements(n, scales), where, crop)
    wanted = n.dims(sizes, "a size")
    if len(wanted) != len(where):
        raise ShapeError(f"{len(wanted)} sizes for {len(where)} axes")
    shape: list[Dim] = list(x.shape)
    for axis, after in zip(where, wanted, strict=True):
        shape[axis] = largest(after, 0)
    policy = n.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return resized(n, x, shape, (), crop)
    ratios = [(after, x.shape[axis]) for after, axis in zip(wanted, where, strict=True)]
    if any(not isinstance(d, int) for pair in ratios for d in pair):
        raise UnsupportedOp("keep_aspect_ratio_policy needs static sizes")
    pick = min if policy == "not_larger" else max
    shared = pick(Fraction(after, before) for after, before in ratios)  # type: ignore[arg-type]
    common: list[Scale] = [1.0] * x.rank
    for axis in where:
        common[axis] = (shared.numerator, shared.denominator)
        shape[axis] = floordiv(2 * x.shape[axis] * shared.numerator + shared.denominator, 2 * shared.denominator)
    return resized(n, x, shape, common, crop)


@onnx_op("Resize", since=10)
@onnx_op("Upsample", since=9)
def upsample(n: Site, x: Tensor, scales: Tensor) -> Value:
    return by_scales(n, x, elements(n, scales), range(x.rank))


@onnx_op("Upsample", since=7)
def upsample_by_attribute(n: Site, x: Tensor) -> Value:
    return by_scales(n, x, n.attr("scales") or (), range(x.rank))
