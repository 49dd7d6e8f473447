"""Weights of 8 or 4 bits: symmetric, one scale for each output channel or block; 8 bits from -127 to 127, 4 bits from -8 to 7.

`max` scales reach the largest weight of a channel.  `mse` scales are those of some candidates with the least square error: a few large
weights are clipped so that all others get a finer step (as in R. Banner et al., "Post training 4-bit quantization of convolutional
networks for rapid-deployment", NeurIPS 2019, by search instead of a formula).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.errors import QuantError
from ...ir.graph import Value, const_value
from ...ir.ops.registry import apply
from ...ir.types import f32, i8
from ..values import scalar

LARGEST = 127  # -128 has no counterpart above zero
CANDIDATES = {8: np.linspace(1.0, 0.4, 80), 4: np.linspace(1.0, 0.5, 26)}  # by bits, of the largest weight
ROWS_AT_ONCE = 1 << 16  # weights that are searched together, so that they stay in a cache
LEAST = 1e-6  # of the largest scale: below it, channels are as good as zero, and products of scales must stay normal numbers


@dataclass(frozen=True)
class Quantized:
    """Integers (i8), and one scale for each channel (f64, 1-D, each exactly an f32)."""

    integers: np.ndarray
    scales: np.ndarray


def weights_of(w: Value) -> np.ndarray | None:
    """Constant weights of a contraction: f32, or i8 where integers are cast to f32 (`narrow.py` leaves them so); None for others."""
    if w.dtype is not f32:
        return None
    if w.is_const:
        return w.array if w.array.size else None
    source = w.node.inputs[0] if w.node.op == "cast" else w
    return source.array if source.is_const and source.dtype is i8 and source.array.size else None


def dequantized(q: Quantized, channel: int, like: Value) -> Value:
    """Quantized weights as f32 again, for a graph."""
    shape = [1] * like.type.rank
    shape[channel] = -1
    scales = const_value(q.scales.reshape(shape).astype(np.float32))
    return apply("dequantize", const_value(q.integers, like.node.loc), scales, scalar(0, i8))


def quantized_weights(w: np.ndarray, channel: int, method: str = "max", least: np.ndarray | None = None, bits: int = 8) -> Quantized:
    """Weights as integers; what is i8 already stays so.

    channel: the axis of output channels; least: lower bounds of the scales; bits: 8 or 4, of integers that are i8 in either case.

    Raises QuantError for weights that are not finite and a method that does not exist.
    """
    if w.dtype == np.int8:
        return Quantized(w, np.ones(w.shape[channel]))
    if not np.isfinite(w).all():
        raise QuantError("the weights hold infinities or NaN")
    rows = np.moveaxis(w, channel, 0).reshape(w.shape[channel], -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0) / _limits(bits)[1]
    if method == "mse":
        largest = _least_error(rows, largest, bits)
    elif method != "max":
        raise QuantError(f"there is no method {method!r} for weights; there are: max, mse")
    floor = max(LEAST * largest.max(initial=0), 2.0**-60)
    scales = np.maximum(largest, floor if least is None else np.maximum(floor, least)).astype(np.float32).astype(np.float64)
    integers = rounded(rows, scales, bits).reshape(np.moveaxis(w, channel, 0).shape)
    return Quantized(np.ascontiguousarray(np.moveaxis(integers, 0, channel)).astype(np.int8), scales)


def rounded(rows: np.ndarray, scales: np.ndarray, bits: int = 8) -> np.ndarray:
    """Rows divided by their scales, as whole numbers in range."""
    return np.clip(np.rint(rows / scales[:, None]), *_limits(bits))


def _limits(bits: int) -> tuple[int, int]:
    return (-LARGEST, LARGEST) if bits == 8 else (-8, 7)  # of sixteen steps one is too many to lose


def _least_error(rows: np.ndarray, largest: np.ndarray, bits: int) -> np.ndarray:
    found = largest.copy()
    step = max(1, ROWS_AT_ONCE // max(1, rows.shape[1]))
    for begin in range(0, len(rows), step):
        some = slice(begin, begin + step)
        part, best = rows[some], np.full(len(rows[some]), np.inf)
        for factor in CANDIDATES[bits]:
            scales = np.maximum(largest[some] * factor, np.finfo(np.float64).tiny)
            error = np.square(rounded(part, scales, bits) * scales[:, None] - part).sum(axis=1)
            found[some] = np.where(error < best, largest[some] * factor, found[some])
            best = np.minimum(error, best)
    return found
