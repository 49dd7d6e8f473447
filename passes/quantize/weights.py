"""8-bit weights: symmetric, from -127 to 127, one scale for each output channel.

`max` scales reach the largest weight of a channel.  `mse` scales are those of 80 candidates with the least square error: a few large
weights are clipped so that all others get a finer step (as in R. Banner et al., "Post training 4-bit quantization of convolutional
networks for rapid-deployment", NeurIPS 2019, by search instead of a formula).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.errors import QuantError

LARGEST = 127  # -128 has no counterpart above zero
CANDIDATES = np.linspace(1.0, 0.4, 80)  # of the largest weight
LEAST = 1e-6  # of the largest scale: below it, channels are as good as zero, and products of scales must stay normal numbers


@dataclass(frozen=True)
class Quantized:
    """Integers (i8), and one scale for each channel (f64, 1-D, each exactly an f32)."""

    integers: np.ndarray
    scales: np.ndarray


def quantized_weights(w: np.ndarray, channel: int, method: str = "max", least: np.ndarray | None = None) -> Quantized:
    """Weights as integers.  channel: the axis of output channels; least: lower bounds of the scales.

    Raises QuantError for weights that are not finite and a method that does not exist.
    """
    if not np.isfinite(w).all():
        raise QuantError("the weights hold infinities or NaN")
    rows = np.moveaxis(w, channel, 0).reshape(w.shape[channel], -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0) / LARGEST
    if method == "mse":
        largest = _least_error(rows, largest)
    elif method != "max":
        raise QuantError(f"there is no method {method!r} for weights; there are: max, mse")
    floor = max(LEAST * largest.max(initial=0), 2.0**-60)
    scales = np.maximum(largest, floor if least is None else np.maximum(floor, least)).astype(np.float32).astype(np.float64)
    integers = rounded(rows, scales).reshape(np.moveaxis(w, channel, 0).shape)
    return Quantized(np.ascontiguousarray(np.moveaxis(integers, 0, channel)).astype(np.int8), scales)


def rounded(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows divided by their scales, as whole numbers in range."""
    return np.clip(np.rint(rows / scales[:, None]), -LARGEST, LARGEST)


def _least_error(rows: np.ndarray, largest: np.ndarray) -> np.ndarray:
    best, found = np.full(len(rows), np.inf), largest
    for factor in CANDIDATES:
        scales = np.maximum(largest * factor, np.finfo(np.float64).tiny)
        error = np.square(rounded(rows, scales) * scales[:, None] - rows).sum(axis=1)
        found = np.where(error < best, largest * factor, found)
        best = np.minimum(error, best)
    return found
