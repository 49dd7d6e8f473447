"""Operators that sample images: GridSample, Col2Im, RoiAlign, NonMaxSuppression."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...ir.dims import Dim, dim_product, floordiv
from ...ir.errors import ModelError, UnsupportedOp
from ...ir.graph import Value
from ...ir.ops.operators import size as size_of
from ...ir.types import f32, i64
from .ops_nn import spatial
from .registry import Operand, Site, Tensor, onnx_op


def number(n: Site, v: float) -> Value:
    return n.const(v, f32)


# sampling


def flat_gather(n: Site, pixels: Value, places: list[Value], sizes: tuple[Dim, ...]) -> Value:
    """Rows [batch, points, channels] of pixels [batch, all positions, channels] at whole coordinates, one f32 value an axis."""
    linear = n.cast(places[0], i64)
    for place, size in zip(places[1:], sizes[1:], strict=True):
        extent = n.reshape(n.apply("sizes", dims=(size,)), ()) if not isinstance(size, int) else n.const(size, i64)
        linear = n.apply("add", n.apply("mul", linear, extent), n.cast(place, i64))
    return n.apply("gather_nd", pixels, n.reshape(linear, (*linear.shape, 1)), batch_dims=1)


def clamped(n: Site, x: Value, size: Dim) -> Value:
    return n.apply("clip", x, number(n, 0), n.apply("sub", size_of(size, f32), number(n, 1)))


def reflected(n: Site, x: Value, low: Value, high: Value) -> Value:
    """x mirrored at both borders as often as it takes."""
    extent = n.apply("max", n.apply("sub", high, low), number(n, 1e-6))
    distance = n.apply("abs", n.apply("sub", x, low))
    times = n.apply("floor", n.apply("div", distance, extent))
    rest = n.apply("sub", distance, n.apply("mul", times, extent))
    even = n.apply("eq", n.apply("mod", times, number(n, 2)), number(n, 0))
    return n.apply("where", even, n.apply("add", low, rest), n.apply("sub", high, rest))


def borders(n: Site, size: Dim, align: bool) -> tuple[Value, Value]:
    last = n.apply("sub", size_of(size, f32), number(n, 1))
    half = number(n, 0.5)
    return (number(n, 0), last) if align else (number(n, -0.5), n.apply("add", last, half))


@onnx_op("GridSample")
def grid_sample(n: Site, x: Tensor, grid: Tensor) -> Value:
    mode = n.text("mode", "linear").removeprefix("bi")
    padding, align = n.text("padding_mode", "zeros"), bool(n.integer("align_corners"))
    sizes, rank = x.shape[2:], x.rank - 2
    batch, channels = x.shape[:2]
    points = dim_product(grid.shape[1:-1])
    flat = n.reshape(n.cast(grid, f32), (batch, points, rank))
    pixels = n.transpose(n.reshape(n.cast(x, f32), (batch, channels, dim_product(sizes))), (0, 2, 1))
    coordinates = []
    for k, size in enumerate(sizes):
        unit = n.reshape(n.slice_axis(flat, 2, rank - 1 - k, rank - k), (batch, points))  # the grid names the last axis first
        extent, one, half = size_of(size, f32), number(n, 1), number(n, 0.5)
        shifted = n.apply("add", unit, one)
        if align:
            c = n.apply("mul", n.apply("mul", shifted, half), n.apply("sub", extent, one))
        else:
            c = n.apply("mul", n.apply("sub", n.apply("mul", shifted, extent), one), half)
        if mode == "nearest":
            c = n.apply("round", c)
        if padding == "border":
            c = clamped(n, c, size)
        elif padding == "reflection":
            c = reflected(n, c, *borders(n, size, align))
        coordinates.append(c)
    offsets, weights = taps(n, coordinates, mode)
    total = None
    for choice in itertools.product(range(len(offsets[0])), repeat=rank):
        places, weight, inside = [], None, None
        for k, size in enumerate(sizes):
            at = offsets[k][choice[k]]
            if padding == "zeros":
                whole = n.apply("and", n.apply("ge", at, number(n, 0)), n.apply("lt", at, size_of(size, f32)))
                inside = whole if inside is None else n.apply("and", inside, whole)
            elif padding == "reflection":
                at = n.apply("round", reflected(n, at, *borders(n, size, align)))
            places.append(clamped(n, at, size))
            factor = weights[k][choice[k]]
            weight = factor if weight is None or factor is None else n.apply("mul", weight, factor)
        part = flat_gather(n, pixels, places, sizes)
        if inside is not None:
            part = n.apply("where", n.reshape(inside, (batch, points, 1)), part, number(n, 0))
        if weight is not None:
            part = n.apply("mul", part, n.reshape(weight, (batch, points, 1)))
        total = part if total is None else n.apply("add", total, part)
    assert total is not None
    result = n.reshape(n.transpose(total, (0, 2, 1)), (batch, channels, *grid.shape[1:-1]))
    return n.cast(result, x.dtype)


def taps(n: Site, coordinates: list[Value], mode: str) -> tuple[list[list[Value]], list[list[Value | None]]]:
    """For each axis the whole positions around its coordinate, and their weights (None for a single one)."""
    if mode == "nearest":
        return [[c] for c in coordinates], [[None] for _ in coordinates]
    if mode not in ("linear", "cubic"):
        raise ModelError(f"mode {mode!r} does not exist")
    places: list[list[Value]] = []
    weights: list[list[Value | None]] = []
    for c in coordinates:
        base = n.apply("floor", c)
        around = [n.apply("add", base, number(n, k)) for k in (range(2) if mode == "linear" else range(-1, 3))]
        places.append(around)
        distances = [n.apply("abs", n.apply("sub", c, at)) for at in around]
        if mode == "linear":
            weights.append([n.apply("sub", number(n, 1), d) for d in distances])
        else:
            weights.append([n.apply("cubic_kernel", d) for d in distances])
    return places, weights


@onnx_op("RoiAlign")
def roi_align(n: Site, x: Tensor, rois: Tensor, batches: Tensor) -> Value:
    ratio, mode = n.integer("sampling_ratio"), n.text("mode", "avg")
    if ratio < 1:
        raise UnsupportedOp("sampling_ratio must be given: its default depends on the sizes of the boxes")
    rows, columns = n.integer("output_height", 1), n.integer("output_width", 1)
    half = n.text("coordinate_transformation_mode", "half_pixel" if n.version >= 16 else "output_half_pixel") == "half_pixel"
    count, (batch, channels, height, width) = rois.shape[0], x.shape
    scaled = n.apply("mul", n.cast(rois, f32), number(n, n.number("spatial_scale", 1.0)))
    if half:
        scaled = n.apply("sub", scaled, number(n, 0.5))
    axes = []
    for k, (bins, size) in enumerate(((rows, height), (columns, width))):
        low, high = (n.slice_axis(scaled, 1, c, c + 1) for c in (1 - k, 3 - k))
        extent = n.apply("sub", high, low)
        if not half:
            extent = n.apply("max", extent, number(n, 1))
        steps = n.const((np.arange(bins * ratio, dtype=np.float32) + 0.5) / (bins * ratio))
        axes.append((n.apply("add", low, n.apply("mul", extent, steps)), size))  # [count, bins * ratio]
    grid = (count, rows * ratio, columns * ratio)
    c_y = n.broadcast(n.reshape(axes[0][0], (count, rows * ratio, 1)), grid)
    c_x = n.broadcast(n.reshape(axes[1][0], (count, 1, columns * ratio)), grid)
    points = rows * ratio * columns * ratio
    inside, places, weights = None, [], []
    for c, size in ((c_y, height), (c_x, width)):
        near = n.apply("and", n.apply("ge", c, number(n, -1)), n.apply("le", c, size_of(size, f32)))
        inside = near if inside is None else n.apply("and", inside, near)
        limited = clamped(n, c, size)
        base = n.apply("floor", limited)
        fraction = n.apply("sub", limited, base)
        places.append([base, clamped(n, n.apply("add", base, number(n, 1)), size)])
        weights.append([n.apply("sub", number(n, 1), fraction), fraction])
    assert inside is not None
    pixels = n.transpose(n.reshape(n.cast(x, f32), (batch, channels, dim_product((height, width)))), (0, 2, 1))
    own = n.apply("gather", pixels, batches, axis=0)
    parts = []
    for j, k in itertools.product(range(2), repeat=2):
        both = [n.reshape(v, (count, points)) for v in (places[0][j], places[1][k])]
        weight = n.reshape(n.apply("mul", weights[0][j], weights[1][k]), (count, points, 1))
        parts.append(n.apply("mul", flat_gather(n, own, both, (height, width)), weight))
    kept = n.reshape(inside, (count, points, 1))
    bins_shape = (count, rows, ratio, columns, ratio, channels)
    join = "max" if mode == "max" else "add"
    total = parts[0]
    for part in parts[1:]:
        total = n.apply(join, total, part)
    total = n.reshape(n.apply("where", kept, total, number(n, 0)), bins_shape)
    pooled = n.apply("reduce_max" if mode == "max" else "mean", total, axes=(2, 4), keepdims=False)
    return n.cast(n.transpose(pooled, (0, 3, 1, 2)), x.dtype)


# the rest


@onnx_op("Col2Im")
def col2im(n: Site, x: Tensor, image: Tensor, block: Tensor) -> Value:
    """Columns added back into an image: a transposed convolution whose weights place each column's entries."""
    kernel, wanted = n.known_ints(block, "block_shape"), n.dims(image, "image_shape")
    rank, taps_count = len(kernel), math.prod(kernel)
    strides, dilations = spatial(n, "strides", rank), spatial(n, "dilations", rank)
    pads = n.integers("pads") or (0,) * (2 * rank)
    counts = [floordiv(d + pads[k] + pads[k + rank] - dilations[k] * (kernel[k] - 1) - 1, strides[k]) + 1 for k, d in enumerate(wanted)]
    extra = [
        wanted[k] + pads[k] + pads[k + rank] - ((counts[k] - 1) * strides[k] + dilations[k] * (kernel[k] - 1) + 1) for k in range(rank)
    ]
    channels = floordiv(x.shape[1], taps_count)
    if not isinstance(channels, int):
        raise UnsupportedOp("the number of channels must be static")
    weights = np.tile(np.eye(taps_count, dtype=x.dtype.np), (channels, 1)).reshape(channels * taps_count, 1, *kernel)
    columns = n.reshape(x, (x.shape[0], x.shape[1], *counts))
    return n.apply(
        "conv_transpose", columns, n.const(weights), strides=strides, dilations=dilations, groups=channels,
        pads=tuple((pads[k], pads[k + rank]) for k in range(rank)), output_padding=tuple(extra),
    )  # fmt: skip


@onnx_op("NonMaxSuppression")
def non_max_suppression(
    n: Site, boxes: Tensor, scores: Tensor, most: Operand = None, overlap: Operand = None, least: Operand = None
) -> Value:
    limits = [
        n.reshape(n.cast(v, dtype), (1,)) if v is not None else n.const([default], dtype)
        for v, default, dtype in ((most, 0, i64), (overlap, 0.0, f32), (least, -math.inf, f32))
    ]
    rows, count = n.apply_all("nms", boxes, scores, *limits, center_point_box=bool(n.integer("center_point_box")))
    return n.apply("bind_size", rows, count, axis=0, symbol=str(n.symbols()))
