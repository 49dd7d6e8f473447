"""Attention of the standard as the composite `attention`, which a template may want whole.

Where a mask may hide every key from a query the standard's own function body is imported: it makes such rows 0, where the softmax of
nothing is NaN.  So it is for windows, for sequences that end early, for scores as an output, and for another precision of the softmax.
"""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import f64
from .files import element_type
from .registry import Operand, Site, Tensor, onnx_op


def heads_of(n: Site, x: Value, heads: int) -> Value:
    """[batch, sequence, heads * size] -> [batch, heads, sequence, size]."""
    batch, length, width = x.shape
    if not isinstance(width, int) or not heads or width % heads:
        raise ModelError(f"{width} columns do not divide into {heads} heads")
    return n.transpose(n.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def joined_heads(n: Site, y: Value) -> Value:
    """The inverse of `heads_of`."""
    batch, heads, length, width = y.shape
    return n.reshape(n.transpose(y, (0, 2, 1, 3)), (batch, length, heads * width))


@onnx_op("Attention", since=23)
def attention(
    n: Site, q: Tensor, k: Tensor, v: Tensor, mask: Operand = None, past_key: Operand = None, past_value: Operand = None,
    lengths: Operand = None,
) -> Any:  # fmt: skip
    precision = element_type(n.integer("softmax_precision", 1), "attribute softmax_precision")
    windows = (n.integer(f"{side}_window_size", -1) for side in ("left", "right"))
    ours = mask is None and lengths is None and not n.wants(3) and all(w < 0 for w in windows)
    if not ours or precision.name != "f32" or q.dtype is f64:
        return NotImplemented
    query, key, value = (x.value for x in (q, k, v))
    flat = q.rank == 3
    if flat:
        heads, shared = n.integer("q_num_heads"), n.integer("kv_num_heads")
        query, key, value = (heads_of(n, x, count) for x, count in ((query, heads), (key, shared), (value, shared)))
    offset: Dim = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        key, value = n.concat((past_key, key), 2), n.concat((past_value, value), 2)
    y = n.apply(
        "attention",
        query,
        key,
        value,
        scale=n.number("scale") if n.attr("scale") is not None else None,
        causal=bool(n.integer("is_causal")),
        offset=offset,
        softcap=n.number("softcap"),
    )
    return joined_heads(n, y) if flat else y, key, value
