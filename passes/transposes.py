"""Sinking transposes: f(transpose(x)) becomes transpose(f(x)), so that transposes meet, merge and cancel.

A transpose moves down through pointwise ops, reductions, slices, pads, windows, concatenations, broadcasts, gathers, reshapes.
An op with several operands lets it through where every operand can be had without it for nothing: operands transposed alike,
constants (transposed now), and operands of which only axes of size 1 would move, which is a reshape.  What no user lets through
stays where it stopped: before a contraction, which reads it in any order, or at a graph output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..ir.dims import Dim, evaluate_dim
from ..ir.graph import Constant, Graph, Node, Value, const_value, rewrite
from ..ir.ops.index import reshape_groups
from ..ir.ops.registry import OPS, apply, apply_node

Perm: TypeAlias = tuple[int, ...]


def sink_transposes(graph: Graph) -> Graph:
    """The graph with every transpose as far down as it goes, in one sweep."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if len(node.types) != 1 or not any(v.node.op == "transpose" for v in inputs):
            return None
        current = node if inputs == node.inputs else node.with_inputs(inputs)
        sunk = _sink(current)
        return sunk if sunk is not None and sunk.type == node.types[0] else None

    return rewrite(graph, rule)


def transposes_to_reshapes(graph: Graph) -> Graph:
    """Transposes that move only axes of size 1 as views, which they are; for when nothing is left to sink."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op != "transpose" or not _moves_only_ones(inputs[0].shape, node.attrs["perm"]):
            return None
        return apply("reshape", inputs[0], loc=node.loc, shape=node.types[0].shape)

    return rewrite(graph, rule)


def transposed(x: Value, perm: Sequence[int], loc: str) -> Value:
    """x with its axes permuted, merged with a transpose that x may be and folded into a constant."""
    perm = tuple(perm)
    if perm == tuple(range(len(perm))):
        return x
    if x.node.op == "transpose":
        inner = x.node.attrs["perm"]
        return transposed(x.node.inputs[0], [inner[k] for k in perm], loc)
    if x.is_const:
        return const_value(Constant(np.ascontiguousarray(x.array.transpose(perm)), x.dtype), x.node.loc)
    return apply("transpose", x, loc=loc, perm=perm)


def inverse(perm: Perm) -> Perm:
    return tuple(int(k) for k in np.argsort(perm))


def _moves_only_ones(shape: Sequence[Dim], perm: Perm) -> bool:
    kept = [k for k in perm if shape[k] != 1]
    return kept == sorted(kept)


def _untransposed(v: Value, perm: Perm, loc: str) -> Value | None:
    """The value whose transpose by `perm` is v, where it costs nothing; v is taken as broadcast to the rank of `perm`."""
    if v.node.op == "transpose" and v.node.attrs["perm"] == perm:
        return v.node.inputs[0]
    shape = (1,) * (len(perm) - v.type.rank) + v.shape
    back = inverse(perm)
    if all(d == 1 for d in v.shape):
        return v if not v.shape else _reshaped(v, (1,) * len(perm), loc)
    if v.is_const:
        array = v.array[(None,) * (len(perm) - v.type.rank)].transpose(back)
        return const_value(Constant(np.ascontiguousarray(array), v.dtype), v.node.loc)
    if _moves_only_ones(shape, back):
        return _reshaped(v, tuple(shape[k] for k in back), loc)
    return None


def _reshaped(v: Value, shape: tuple[Dim, ...], loc: str) -> Value:
    if v.shape == shape:
        return v
    if v.is_const:
        return const_value(Constant(v.array.reshape([evaluate_dim(d, {}) for d in shape]), v.dtype), v.node.loc)
    return apply("reshape", v, loc=loc, shape=shape)


def _sink(n: Node) -> Value | None:
    kind = OPS[n.op].kind if n.op in OPS else ""
    match n.op:
        case "transpose":
            return transposed(n.inputs[0], n.attrs["perm"], n.loc)
        case "concat":
            return _together(n, {"axis": _common_perm(n)[n.attrs["axis"]]})
        case "slice" | "pad" | "tile" | "repeat" | "window" | "dilate" | "reshape" | "broadcast_to":
            return _alone(n)
        case "gather" if n.inputs[0].node.op == "transpose" and n.inputs[1].type.rank == 1:
            return _gather(n)
        case "softmax" | "log_softmax" | "layer_norm" | "rms_norm":
            return _rows(n)
        case _ if kind == "pointwise":
            return _together(n, {})
        case _ if kind == "reduction" or n.op == "log_sum_exp":
            return _reduction(n)
    return None


def _common_perm(n: Node) -> Perm:
    """The permutation that the largest transposed operand has."""
    return next(v for v in sorted(n.inputs, key=lambda v: -v.type.rank) if v.node.op == "transpose").node.attrs["perm"]


def _together(n: Node, attrs: dict) -> Value | None:
    """Through an op that treats all axes alike, if every operand can be had untransposed."""
    perm = _common_perm(n)
    (t,) = n.types
    if len(perm) != t.rank:
        return None
    whole = n.op == "concat" or any(v.node.op == "transpose" and _covers(v.shape, t.shape) for v in n.inputs)
    if not whole:  # a small operand broadcast against a large one: the transpose would only grow
        return None
    operands = tuple(_untransposed(v, perm, n.loc) for v in n.inputs)
    if any(v is None for v in operands):
        return None
    inner = apply_node(n.op, [v for v in operands if v is not None], {**n.attrs, **attrs}, n.loc)
    return transposed(inner.outputs[0], perm, n.loc)


def _covers(shape: tuple[Dim, ...], result: tuple[Dim, ...]) -> bool:
    """Whether an operand of this shape is not visibly repeated to make the result."""
    return len(shape) == len(result) and all(d != 1 or r == 1 for d, r in zip(shape, result, strict=True))


def _source(n: Node) -> tuple[Value, Perm] | None:
    v = n.inputs[0]
    return (v.node.inputs[0], v.node.attrs["perm"]) if v.node.op == "transpose" else None


def _reduction(n: Node) -> Value | None:
    found = _source(n)
    if found is None:
        return None
    x, perm = found
    axes = tuple(sorted(perm[a] for a in n.attrs["axes"]))
    inner = apply_node(n.op, (x,), {**n.attrs, "axes": axes}, n.loc).outputs[0]
    if n.attrs.get("keepdims", False):
        return transposed(inner, perm, n.loc)
    left = [k for k in range(x.type.rank) if k not in axes]
    return transposed(inner, [left.index(k) for k in perm if k in left], n.loc)


def _rows(n: Node) -> Value | None:
    """Through a computation on rows, unless its rows are contiguous only with the transpose before it."""
    found = _source(n)
    if found is None:
        return None
    x, perm = found
    axis, last = n.attrs["axis"], x.type.rank - 1
    if n.op in ("layer_norm", "rms_norm"):  # over all axes from `axis` on: these must be the last ones of x too
        if perm[axis:] != tuple(range(axis, last + 1)):
            return None
    elif axis == last and perm[axis] != last:
        return None
    inner = apply_node(n.op, (x, *n.inputs[1:]), {**n.attrs, "axis": perm[axis]}, n.loc)
    return transposed(inner.outputs[0], perm, n.loc)


def _gather(n: Node) -> Value:
    x, perm = n.inputs[0].node.inputs[0], n.inputs[0].node.attrs["perm"]
    inner = apply_node(n.op, (x, n.inputs[1]), {**n.attrs, "axis": perm[n.attrs["axis"]]}, n.loc)
    return transposed(inner.outputs[0], perm, n.loc)


def _alone(n: Node) -> Value | None:
    """Through an op of one operand whose attributes name axes."""
    found = _source(n)
    if found is None:
        return None
    x, perm = found
    back = inverse(perm)

    def on_source(entries: Sequence) -> tuple:
        """An entry for each axis of the operand, in the order of x's axes."""
        return tuple(entries[k] for k in back)

    match n.op:
        case "slice":
            attrs = {name: on_source(n.attrs[name]) for name in ("starts", "stops", "steps")}
        case "pad":
            attrs = {name: on_source(n.attrs[name]) for name in ("low", "high")}
        case "tile" | "repeat":
            attrs = {"repeats": on_source(n.attrs["repeats"])}
        case "dilate":
            attrs = {"axes": tuple(perm[a] for a in n.attrs["axes"])}
        case "window":
            attrs = {"axes": tuple(perm[a] for a in n.attrs["axes"])}
            perm = (*perm, *range(len(perm), len(perm) + len(attrs["axes"])))
        case "broadcast_to":
            extra = n.types[0].rank - len(perm)
            shape = n.attrs["shape"]
            attrs = {"shape": (*shape[:extra], *(shape[extra + k] for k in back))}
            perm = (*range(extra), *(extra + k for k in perm))
        case _:
            return _reshape(n, x, perm)
    inner = apply_node(n.op, (x,), {**n.attrs, **attrs}, n.loc)
    return transposed(inner.outputs[0], perm, n.loc)


def _reshape(n: Node, x: Value, perm: Perm) -> Value | None:
    """Through a reshape that splits, joins, adds or drops axes within runs that x keeps together and in order.

    Axes of size 1 are left aside, since a reshape puts them anywhere: they stay behind the axis that they follow, so that what
    an upsampling makes of them (reshape, broadcast, reshape) can be joined with it.

    Where x does not keep a run together (depth to space, the pixels of a transposed convolution) elements must move, but if
    what comes out is channels first, they may as well move to channels last.
    """
    target = n.types[0].shape
    source_axes = [k for k in perm if x.shape[k] != 1]
    target_axes = [k for k, d in enumerate(target) if d != 1]
    if 0 in target or 0 in x.shape or not source_axes or not target_axes:
        return None
    groups = reshape_groups(tuple(x.shape[k] for k in source_axes), tuple(target[k] for k in target_axes))
    runs = [([source_axes[k] for k in source], [target_axes[k] for k in made]) for source, made in groups]
    if not all(source for source, _ in runs):
        return None
    runs.sort(key=lambda run: run[0][0])
    moved = [k for source, _ in runs for k in source]
    made = list(range(target_axes[0]))  # leading ones; each other one stays behind the axis that it followed
    for axis in (axis for _, axes in runs for axis in axes):
        made += range(axis, next((k for k in target_axes if k > axis), len(target)))
    back = [made.index(k) for k in range(len(target))]
    if moved != sorted(moved):
        rank = len(target)
        if rank < 4 or back != [0, rank - 1, *range(1, rank - 1)]:
            return None
        x = transposed(x, [*moved, *(k for k in perm if x.shape[k] == 1)], n.loc)
    return transposed(_reshaped(x, tuple(target[k] for k in made), n.loc), back, n.loc)
