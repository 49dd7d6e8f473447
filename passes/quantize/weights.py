"""8-bit weights: symmetric, from -127 to 127, one scale for each output channel.

`max` scales reach the largest weight of a channel.  `mse` scales are those of 80 candidates with the least square error: a few large
weights are clipped so that all others get a finer step (as in R. Banner et al., "Post training 4-bit quantization of convolutional
networks for rapid-deployment", NeurIPS 2019, by search instead of a formula).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ...ir.errors import QuantError
from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.ops.registry import apply, apply_node
from ...ir.types import f32, i8
from ..values import scalar

LEAST_BYTES = (
    1 << 18
)  # of f32 weights that are worth storing as bytes where nothing else is quantized: smaller ones stay in a near cache
LARGEST = 127  # -128 has no counterpart above zero
CANDIDATES = np.linspace(1.0, 0.4, 80)  # of the largest weight
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


def with_weights_only(graph: Graph, contractions: Collection[Node], method: str = "max") -> Graph:
    """The graph with large weights of matmuls as bytes, which is what bounds them where rows are few; all else stays f32."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        x, w = inputs if node in contractions and node.op == "matmul" else (None, None)
        if x is None or w is None or not w.is_const or w.type.rank != 2 or w.array.nbytes < LEAST_BYTES:
            return None
        return apply_node("matmul", (x, dequantized(quantized_weights(w.array, 1, method), 1, w)), node.attrs, node.loc).outputs[0]

    return rewrite(graph, rule)


def dequantized(q: Quantized, channel: int, like: Value) -> Value:
    """Quantized weights as f32 again, for a graph."""
    shape = [1] * like.type.rank
    shape[channel] = -1
    scales = const_value(q.scales.reshape(shape).astype(np.float32))
    return apply("dequantize", const_value(q.integers, like.node.loc), scales, scalar(0, i8))


def quantized_weights(w: np.ndarray, channel: int, method: str = "max", least: np.ndarray | None = None) -> Quantized:
    """Weights as integers; what is i8 already stays so.  channel: the axis of output channels; least: lower bounds of the scales.

    Raises QuantError for weights that are not finite and a method that does not exist.
    """
    if w.dtype == np.int8:
        return Quantized(w, np.ones(w.shape[channel]))
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
