"""Last rewrites before fusion: contractions in the form that the templates compute, operands packed for the target.

A convolution becomes channels last with its padding as an explicit `pad` (but depthwise, which skips padding itself); the second
operand of every contraction is packed into panels as wide as the register tile.  Weights fold; activations are packed by a kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.ops.registry import apply, op_def
from ...ir.ops.winograd import winograd_kernels
from ...ir.scalar import compute_dtype
from ..target import Target
from .contraction import tile_for
from .depthwise import is_depthwise
from .winograd import winograd_width
from .winograd_choice import winograd_tile


def legalize(graph: Graph, target: Target) -> Graph:
    """The graph with contractions as the templates want them; sub-graphs too."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | tuple[Value, ...] | None:
        if node.op == "conv":
            return _conv(node, inputs, target)
        if node.op == "matmul":
            return _matmul(node, inputs, target)
        if any(isinstance(a, Graph) for a in node.attrs.values()):
            attrs = {k: legalize(a, target) if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            if any(attrs[k] is not a for k, a in node.attrs.items()):
                return Node(node.op, inputs, attrs, node.types, node.loc).outputs
        return None

    return rewrite(graph, rule)


def _matmul(node: Node, inputs: tuple[Value, ...], target: Target) -> Value:
    a, b = inputs
    return Node("matmul", (a, _packed(b, tile_for(node, target).width, node.loc)), node.attrs, node.types, node.loc).outputs[0]


def _packed(matrix: Value, width: int, loc: str) -> Value:
    """[..., k, n] packed and read back.

    Constants of narrow floats are widened once here, not at every use; integers that are cast stay as small as they are.
    """
    n, dtype = matrix.shape[-1], matrix.dtype
    if matrix.node.op == "cast" and matrix.node.inputs[0].is_const:
        matrix = matrix.node.inputs[0]
    elif matrix.is_const and compute_dtype(dtype) is not dtype:
        matrix = const_value(matrix.array.astype(compute_dtype(dtype).np), loc)
    unpacked = apply("unpack_panels", _folded("pack_panels", matrix, loc, width=width), columns=n, loc=loc)
    return unpacked if unpacked.dtype is dtype else apply("cast", unpacked, to=dtype, loc=loc)


def _conv(node: Node, inputs: tuple[Value, ...], target: Target) -> Value:
    x, w = inputs
    loc = node.loc
    attrs: dict[str, Any] = {"groups": 1, "layout": "channels_first", **node.attrs}
    rank = x.type.rank
    first = attrs["layout"] == "channels_first"
    if first:
        x = apply("transpose", x, perm=(0, *range(2, rank), 1), loc=loc)
        attrs["layout"] = "channels_last"
    if is_depthwise(node):
        w = apply("unpack_taps", _folded("pack_taps", w, loc), loc=loc)
    elif tile := winograd_tile(node, target):
        at_points = const_value(winograd_kernels(w.array, tile), loc)
        w = apply("unpack_winograd", _packed(at_points, winograd_width(w.shape[0], target), loc), tile=tile, loc=loc)
    else:
        if any(p != (0, 0) for p in attrs["pads"]):
            low = (0, *(p[0] for p in attrs["pads"]), 0)
            high = (0, *(p[1] for p in attrs["pads"]), 0)
            x = apply("pad", x, low=low, high=high, mode="constant", value=0.0, loc=loc)
            attrs["pads"] = tuple((0, 0) for _ in attrs["pads"])
        w = _packed_weights(w, node, target)
    y = apply("conv", x, w, loc=loc, **attrs)
    return apply("transpose", y, perm=(0, rank - 1, *range(1, rank - 1)), loc=loc) if first else y


def _folded(op: str, x: Value, loc: str, **attrs: Any) -> Value:
    """An index op applied now where the operand is constant."""
    reference = op_def(op).reference
    if x.is_const and reference is not None:
        return const_value(np.ascontiguousarray(reference(x.array, **attrs)), loc, x.dtype)
    return apply(op, x, loc=loc, **attrs)


def _packed_weights(w: Value, node: Node, target: Target) -> Value:
    """[o, i, *kernel] as a matrix [taps * i, o] for each group, packed, and read back in its own shape."""
    loc, groups = node.loc, node.attrs.get("groups", 1)
    o, i, *kernel = w.shape
    per_group = o // groups
    spatial = len(kernel)
    split = _folded("reshape", w, loc, shape=(groups, per_group, i, *kernel))
    taps_first = _folded("transpose", split, loc, perm=(0, *range(3, 3 + spatial), 2, 1))
    depth: Dim = i
    for k in kernel:
        depth = depth * k
    shape = (groups, depth, per_group) if groups > 1 else (depth, per_group)
    matrix = _packed(_folded("reshape", taps_first, loc, shape=shape), tile_for(node, target).width, loc)
    back = apply("reshape", matrix, shape=(groups, *kernel, i, per_group), loc=loc)
    ordered = apply("transpose", back, perm=(0, spatial + 2, spatial + 1, *range(1, 1 + spatial)), loc=loc)
    return apply("reshape", ordered, shape=w.shape, loc=loc)
