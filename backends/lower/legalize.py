"""Last rewrites before fusion: contractions in the form that the templates compute, operands packed for the target.

A convolution becomes channels last with its padding as an explicit `pad` (but depthwise, which skips padding itself); the second
operand of every contraction is packed into panels as wide as the register tile.  Weights fold; activations are packed by a kernel.
Contractions of bytes take the form that `dots.py` describes.
A contraction whose best schedule is known (`schedule.py`) names it in its attribute `tile`; the others compute with the best guess.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.evaluate import run_op
from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.ops.registry import apply, op_def
from ...ir.ops.winograd import winograd_kernels
from ...ir.scalar import compute_dtype
from ...ir.types import DType, i8, u8
from ..target import Target
from .contraction import in_blocks, tile_for
from .depthwise import is_depthwise
from .depthwise_dots import windows_for
from .dots import as_dots, is_dots, padded
from .schedule import Schedules, signature
from .winograd import winograd_tile_for
from .winograd_choice import winograd_tile


def legalize(graph: Graph, target: Target, schedules: Schedules = MappingProxyType({})) -> Graph:
    """The graph with contractions as the templates want them, by these schedules where there is one; sub-graphs too."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | tuple[Value, ...] | None:
        if op_def(node.op).kind == "contraction":
            node, extra = as_dots(node, inputs, target)
            result = (_conv if node.op == "conv" else _matmul)(node, node.inputs, target, schedules)
            return result if extra is None else apply("sub", result, extra, loc=node.loc)
        if any(isinstance(a, Graph) for a in node.attrs.values()):
            attrs = {k: legalize(a, target, schedules) if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            if any(attrs[k] is not a for k, a in node.attrs.items()):
                return Node(node.op, inputs, attrs, node.types, node.loc).outputs
        return None

    return rewrite(graph, rule)


def _scheduled(node: Node, packed: DType, schedules: Schedules, winograd: int | None = None) -> Node:
    """The contraction with its schedule, if there is one; packed: dtype of its packed operand, winograd: m of F(m)."""
    schedule = schedules.get(signature(node, packed, winograd)) if schedules else None
    if schedule is None:
        return node
    return Node(node.op, node.inputs, {**node.attrs, "tile": schedule.tile}, node.types, node.loc)


def _matmul(node: Node, inputs: tuple[Value, ...], target: Target, schedules: Schedules) -> Value:
    a, b = inputs
    if in_blocks(b) and target.kind != "cpu":
        (narrow,) = b.node.inputs
        b = const_value(run_op(op_def("dequantize"), tuple(v.array for v in narrow.node.inputs), {})[0].reshape(b.node.attrs["shape"]))
    if in_blocks(b):
        node = _scheduled(node, b.node.inputs[0].node.inputs[0].dtype, schedules)
        panels = _packed_blocks(b, tile_for(node, target).width, node.loc)
    else:
        stored = _stored(b)
        node = _scheduled(node, stored.dtype, schedules)
        panels = _packed(stored, b.dtype, tile_for(node, target).width, is_dots(node, target), node.loc)
    return Node("matmul", (a, panels), node.attrs, node.types, node.loc).outputs[0]


def _packed_blocks(matrix: Value, width: int, loc: str) -> Value:
    """Weights `in_blocks` packed, 4-bit integers in words, scales and zero points in panels of their own, and read back as they are."""
    (narrow,) = matrix.node.inputs
    rows, columns = matrix.shape
    q, *parameters = narrow.node.inputs
    blocks, _, _ = q.shape
    stored = _folded("reshape", q, loc, shape=matrix.shape)
    if q.dtype.bits == 4:
        words = _folded("pack_nibbles", stored, loc, width=width)
        back = apply("unpack_nibbles", words, to=q.dtype, rows=rows, columns=columns, loc=loc)
    else:
        back = apply("unpack_panels", _folded("pack_panels", stored, loc, width=width), columns=columns, loc=loc)
    read = [apply("reshape", back, shape=q.shape, loc=loc)]
    for v in parameters:
        if v.type.size != 1:
            panels = _folded("pack_panels", _folded("reshape", v, loc, shape=(blocks, columns)), loc, width=width)
            v = apply("reshape", apply("unpack_panels", panels, columns=columns, loc=loc), shape=v.shape, loc=loc)
        read.append(v)
    return apply("reshape", apply("dequantize", *read, loc=loc), shape=matrix.shape, loc=loc)


def _stored(matrix: Value) -> Value:
    """A second operand as it is packed.

    Constants of narrow floats are widened once here, not at every use; integers that are cast stay as small as they are.
    """
    if matrix.node.op == "cast" and matrix.node.inputs[0].is_const:
        return matrix.node.inputs[0]
    wide = compute_dtype(matrix.dtype)
    return const_value(matrix.array.astype(wide.np), matrix.node.loc) if matrix.is_const and wide is not matrix.dtype else matrix


def _packed(stored: Value, dtype: DType, width: int, dots: bool, loc: str) -> Value:
    """[..., k, n] packed, for `dot4` or not, and read back as `dtype`."""
    if dots:
        *_, rows, columns = stored.shape
        return apply("unpack_dots", _folded("pack_dots", stored, loc, width=width), rows=rows, columns=columns, loc=loc)
    panels = _folded("pack_panels", stored, loc, width=width)
    unpacked = apply("unpack_panels", panels, columns=stored.shape[-1], loc=loc)
    return unpacked if unpacked.dtype is dtype else apply("cast", unpacked, to=dtype, loc=loc)


def _conv(node: Node, inputs: tuple[Value, ...], target: Target, schedules: Schedules) -> Value:
    x, w = inputs
    loc = node.loc
    rank = x.type.rank
    first = node.attrs.get("layout", "channels_first") == "channels_first"
    if first:
        x = apply("transpose", x, perm=(0, *range(2, rank), 1), loc=loc)
    points = winograd_tile(node, target)
    if not is_depthwise(node):
        node = _scheduled(node, compute_dtype(w.dtype) if w.is_const else w.dtype, schedules, points)
    attrs: dict[str, Any] = {"groups": 1, **node.attrs, "layout": "channels_last"}
    if is_depthwise(node):
        w = _taps(node, w, x.dtype, target)
    elif points:
        at_points = const_value(winograd_kernels(w.array, points), loc)
        panels = _packed(at_points, w.dtype, winograd_tile_for(node, target, points).width, False, loc)
        w = apply("unpack_winograd", panels, tile=points, loc=loc)
    else:
        if any(p != (0, 0) for p in attrs["pads"]):
            low = (0, *(p[0] for p in attrs["pads"]), 0)
            high = (0, *(p[1] for p in attrs["pads"]), 0)
            x = padded(x, low, high, 0.0, loc)
            attrs["pads"] = tuple((0, 0) for _ in attrs["pads"])
        w = _packed_weights(w, node, target)
    y = apply("conv", x, w, loc=loc, **attrs)
    return apply("transpose", y, perm=(0, rank - 1, *range(1, rank - 1)), loc=loc) if first else y


def _taps(node: Node, w: Value, activations: DType, target: Target) -> Value:
    """Depthwise weights packed; those of bytes as the words that one instruction multiplies, where the target has it."""
    loc, windows = node.loc, windows_for(node, target)
    if windows is not None:
        attrs = {"windows": windows.count, "results": windows.results, "step": node.attrs["strides"][-1]}
        return apply("unpack_windows", _folded("pack_windows", w, loc, **attrs), taps=w.shape[-1], loc=loc)
    words = target.dot4 in ("vpdpbusd", "usdot") and w.is_const and (activations, w.dtype) == (u8, i8)
    stored = const_value(w.array.astype(np.int32), loc) if words else w
    taps = apply("unpack_taps", _folded("pack_taps", stored, loc), loc=loc)
    return apply("cast", taps, to=i8, loc=loc) if words else taps


def _folded(op: str, x: Value, loc: str, **attrs: Any) -> Value:
    """An index op applied now where the operand is constant."""
    reference, result = op_def(op).reference, apply(op, x, loc=loc, **attrs)
    if x.is_const and reference is not None:
        return const_value(np.ascontiguousarray(reference(x.array, **attrs)), loc, result.dtype)
    return result


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
    stored = _stored(_folded("reshape", taps_first, loc, shape=shape))
    matrix = _packed(stored, w.dtype, tile_for(node, target).width, is_dots(node, target), loc)
    back = apply("reshape", matrix, shape=(groups, *kernel, i, per_group), loc=loc)
    ordered = apply("transpose", back, perm=(0, spatial + 2, spatial + 1, *range(1, 1 + spatial)), loc=loc)
    return apply("reshape", ordered, shape=w.shape, loc=loc)
