"""Which 3x3 convolutions Winograd's algorithm computes faster, by a count of cycles.

The counts are those of one core that has two multiply-adds of 16 lanes a cycle, whatever the target, and of one image, whatever the
batch: the choice, and with it the bits of a result, is the same on every processor and in every batch.
"""

from __future__ import annotations

import math

from ...ir.dims import Dim
from ...ir.graph import Node
from ...ir.ops.winograd import PAIRS
from ...ir.types import f32
from ..target import Target
from .winograd import MOST_ROWS, SECOND_LEVEL, grouping, tile_rows

LANES = 16
PRODUCTS = 2 * LANES  # in a cycle
ASSUMED = 64  # height and width that only a run tells
PATCH, RESULT = 9, 5  # cycles of the transforms for one vector at one position: bound by the second-level cache
FETCHED = 12  # bytes a cycle of panels from beyond the second-level cache
WORTH = 0.9  # of the cycles of the plain sum


def winograd_tile(node: Node, target: Target) -> int | None:
    """m of the F(m) that computes a convolution fastest, or None where that is the plain sum."""
    x, w = node.inputs
    attrs = node.attrs
    plain = attrs["strides"] == (1, 1) and attrs["dilations"] == (1, 1) and attrs.get("groups", 1) == 1
    if target.kind != "cpu" or x.dtype is not f32 or not w.is_const or w.shape[2:] != (3, 3) or not plain:
        return None
    outputs, channels, *_ = w.shape
    first = attrs.get("layout", "channels_first") == "channels_first"
    height, width = (_assumed(d) for d in (node.types[0].shape[2:] if first else node.types[0].shape[1:3]))
    if not (isinstance(outputs, int) and isinstance(channels, int)) or not outputs * channels * height * width:
        return None
    cost = {m: _cycles(m, height, width, channels, outputs) for m in PAIRS}
    best = min(cost, key=lambda m: cost[m])
    return best if cost[best] < WORTH * _plain_cycles(height, width, channels, outputs) else None


def _assumed(d: Dim) -> int:
    return d if isinstance(d, int) else ASSUMED


def _vectors(n: int) -> int:
    return -(-n // LANES)


def _fetched(nbytes: int) -> float:
    return nbytes / FETCHED if nbytes > SECOND_LEVEL else 0.0


def _plain_cycles(height: int, width: int, channels: int, outputs: int) -> float:
    columns = _vectors(outputs) * LANES
    return 9 * channels * columns * height * width / PRODUCTS + _fetched(9 * channels * columns * f32.itemsize)


def _cycles(m: int, height: int, width: int, channels: int, outputs: int) -> float:
    positions, columns = (m + 2) ** 2, _vectors(outputs) * LANES
    tiles = math.ceil(height / m) * math.ceil(width / m)
    nbytes = positions * channels * columns * f32.itemsize
    rows = tile_rows(tiles, MOST_ROWS)
    groups = grouping(positions, channels, nbytes, tiles, rows)
    blocks = math.ceil(tiles / (rows * groups))
    products = positions * channels * columns * math.ceil(tiles / rows) * rows / PRODUCTS
    transforms = tiles * positions * (_vectors(channels) * PATCH + _vectors(outputs) * RESULT)
    return products + transforms + blocks * _fetched(nbytes)
