"""Absorbing per-channel arithmetic into weights: what follows a convolution or matmul with constant weights costs nothing.

    (x . w) * s          ->  x . (w * s)
    (x . w + b) * s      ->  x . (w * s) + b * s
    (x . w + b) + c      ->  x . w + (b + c)

for constants s of one value per output channel (or one in all); a division by s counts as a product with 1 / s.  This is how
batch norm disappears.  It is the one place where float arithmetic is reassociated: results differ by rounding.  A contraction
that something else reads too is left alone, since it would be computed twice.
"""

from __future__ import annotations

import numpy as np

from ..ir.graph import Constant, Graph, Node, Value, const_value, rewrite
from ..ir.ops.registry import apply, apply_node
from .values import use_counts


def absorb(graph: Graph) -> Graph:
    """The graph with scales and offsets of contractions moved into their weights and bias."""
    uses = use_counts(graph)

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op not in ("mul", "div", "add") or not inputs[1].is_const or not node.types[0].dtype.is_float:
            return None
        if uses[node.inputs[0].node] != 1 or inputs[0].type != node.types[0]:
            return None
        x, c = inputs
        if node.op == "add":
            return _joined_offsets(node, x, c)
        return _scaled(node, x, _factor(c, node.op == "div"), node.inputs[0].node, uses)

    return rewrite(graph, rule)


def _factor(c: Value, divides: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        wide = c.array.astype(np.float64)
        return 1 / wide if divides else wide


def _scaled(node: Node, x: Value, s: np.ndarray, original: Node, uses: dict[Node, int]) -> Value | None:
    """x * s by way of the weights; `original` is x's node in the graph that `uses` counts."""
    if _is_weighted(x.node):
        return _with_scaled_weights(x.node, s)
    if x.node.op != "add" or not x.node.inputs[1].is_const or original.op != "add":
        return None
    product, b = x.node.inputs
    if not _is_weighted(product.node) or uses[original.inputs[0].node] != 1 or product.type != x.type:
        return None
    scaled = _with_scaled_weights(product.node, s)
    offset = _constant(b.array.astype(np.float64) * s, b)
    if scaled is None or offset is None or offset.array.size > max(b.array.size, s.size):
        return None
    return apply("add", scaled, offset, loc=node.loc)


def _is_weighted(node: Node) -> bool:
    return node.op in ("conv", "matmul") and node.inputs[1].is_const and node.inputs[1].dtype.is_float


def _with_scaled_weights(product: Node, s: np.ndarray) -> Value | None:
    """The contraction with weights times s, if s has at most one value for each output channel."""
    x, w = product.inputs
    rank = product.types[0].rank
    first = product.op == "conv" and product.attrs.get("layout", "channels_first") == "channels_first"
    channel = 1 if first else rank - 1
    shape = (1,) * (rank - s.ndim) + s.shape
    if s.ndim > rank or any(d != 1 for k, d in enumerate(shape) if k != channel):
        return None
    per_channel = s.reshape(-1)
    if product.op == "conv":
        per_channel = per_channel.reshape(-1, *(1,) * (w.type.rank - 1))
    scaled = _constant(w.array.astype(np.float64) * per_channel, w)
    if scaled is None:
        return None
    return apply_node(product.op, (x, scaled), product.attrs, product.loc).outputs[0]


def _joined_offsets(node: Node, x: Value, c: Value) -> Value | None:
    if x.node.op != "add" or not x.node.inputs[1].is_const or not _is_weighted(x.node.inputs[0].node):
        return None
    product, b = x.node.inputs
    joined = _constant(b.array.astype(np.float64) + c.array, b)
    if joined is None or joined.array.size > max(b.array.size, c.array.size) or product.type != node.types[0]:
        return None
    return apply("add", product, joined, loc=node.loc)


def _constant(array: np.ndarray, like: Value) -> Value | None:
    """The array rounded to the dtype of a constant, or None where that overflows or leaves too few digits."""
    with np.errstate(all="ignore"):
        rounded = np.asarray(array.astype(like.dtype.np))
        error = np.abs(rounded.astype(np.float64) - array)  # infinite or NaN where it overflows
    if not (error <= np.abs(array) * 2.0**-8 + 2.0**-126).all():  # code flushes what is smaller than f32's normal numbers
        return None
    return const_value(Constant(rounded, like.dtype), like.node.loc)
