"""A detector of the YOLOv8-nano kind: SiLU convolutions, CSP blocks, SPPF, a top-down and bottom-up neck, decoupled heads.

Batch normalisation is folded already, as in the files that people deploy.  Boxes come out as distances in cells (the mean of a
softmax over 16 bins a side), classes as probabilities; non-maximum suppression is left to the user.
"""

from __future__ import annotations

import numpy as np

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value, const_value
from .layers import Weights, channels, conv, max_pool, split

BINS = 16


def conv_silu(w: Weights, x: Value, features: int, kernel: int, *, stride: int = 1) -> Value:
    return ops.silu(conv(w, x, features, kernel, stride=stride))


def csp(w: Weights, x: Value, features: int, count: int, *, shortcut: bool) -> Value:
    """Cross-stage partial block: half the channels pass by, half go through bottlenecks, all stages are concatenated."""
    half = features // 2
    kept, y = split(conv_silu(w, x, features, 1), (half, half), axis=1)
    parts = [kept, y]
    for _ in range(count):
        z = conv_silu(w, conv_silu(w, y, half, 3), half, 3)
        y = ops.add(y, z) if shortcut else z
        parts.append(y)
    return conv_silu(w, ops.concat(*parts, axis=1), features, 1)


def sppf(w: Weights, x: Value) -> Value:
    """Spatial pyramid pooling: three 5x5 poolings in a row and all that they see."""
    parts = [conv_silu(w, x, channels(x) // 2, 1)]
    for _ in range(3):
        parts.append(max_pool(parts[-1], 5, 1))
    return conv_silu(w, ops.concat(*parts, axis=1), channels(x), 1)


def upsample(x: Value) -> Value:
    """Nearest-neighbour, twice the size, with the attributes that exporters write."""
    batch, c, height, width = x.shape
    return ops.resize_nearest(x, shape=(batch, c, 2 * height, 2 * width), coordinates="asymmetric", rounding="floor")


def head(w: Weights, x: Value, box_width: int, class_width: int, classes: int) -> Value:
    """f32[batch,c,h,w] -> f32[batch, 4 + classes, h*w]: four distances and the class probabilities of every cell."""
    batch, _, height, width = x.shape
    box = conv_silu(w, conv_silu(w, x, box_width, 3), box_width, 3)
    box = ops.reshape(conv(w, box, 4 * BINS, 1, gain=1.0), shape=(batch, 4, BINS, height * width))
    bins = const_value(np.arange(BINS, dtype=np.float32).reshape(1, 1, BINS, 1))
    distances = ops.reduce_sum(ops.mul(ops.softmax(box, axis=2), bins), axes=(2,), keepdims=False)
    label = conv_silu(w, conv_silu(w, x, class_width, 3), class_width, 3)
    label = ops.reshape(conv(w, label, classes, 1, gain=1.0), shape=(batch, classes, height * width))
    return ops.concat(distances, ops.sigmoid(label), axis=1)


def yolo(size: int = 320, width: int = 16, depths: tuple[int, int, int, int] = (1, 2, 2, 1), classes: int = 80) -> Graph:
    """image f32[batch,3,size,size] -> predictions f32[batch,4+classes,cells] over strides 8, 16 and 32."""

    def yolo(image: Value) -> dict[str, Value]:
        w = Weights(8)
        x = conv_silu(w, image, width, 3, stride=2)
        levels = []
        for k, depth in enumerate(depths):
            x = conv_silu(w, x, width << k + 1, 3, stride=2)
            x = csp(w, x, channels(x), depth, shortcut=True)
            levels.append(x)
        deep, (_, shallow, middle, _) = sppf(w, x), levels

        middle = csp(w, ops.concat(upsample(deep), middle, axis=1), channels(middle), depths[0], shortcut=False)
        shallow = csp(w, ops.concat(upsample(middle), shallow, axis=1), channels(shallow), depths[0], shortcut=False)
        down = conv_silu(w, shallow, channels(shallow), 3, stride=2)
        middle = csp(w, ops.concat(down, middle, axis=1), channels(middle), depths[0], shortcut=False)
        down = conv_silu(w, middle, channels(middle), 3, stride=2)
        deep = csp(w, ops.concat(down, deep, axis=1), channels(deep), depths[0], shortcut=False)

        widths = max(width, 4 * BINS), max(4 * width, min(classes, 100))
        return {"predictions": ops.concat(*(head(w, x, *widths, classes) for x in (shallow, middle, deep)), axis=2)}

    return trace(yolo, spec("f32", ("batch", 3, size, size)))
