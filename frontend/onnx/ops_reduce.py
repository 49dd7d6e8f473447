"""Reductions, and operators that compare or rank along an axis: ArgMax, Softmax, TopK, Hardmax."""

from __future__ import annotations

from ...ir.dims import dim_product
from ...ir.errors import UnsupportedOp
from ...ir.graph import Value
from ...ir.types import bool_, u8
from .ops_tracked import known_axes
from .registry import Operand, Site, Tensor, onnx_op

REDUCTIONS = {
    "ReduceSum": "reduce_sum", "ReduceProd": "reduce_prod", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
    "ReduceMean": "mean", "ReduceSumSquare": "sum_square", "ReduceL1": "l1", "ReduceL2": "l2", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}  # fmt: skip


def _reduction(onnx: str, ours: str) -> None:
    @onnx_op(onnx)
    def run(n: Site, x: Tensor, axes: Operand = None) -> Value:
        where = known_axes(n, axes)
        if not where:
            if n.integer("noop_with_empty_axes"):
                return n.apply(ours, x, axes=(), keepdims=True) if ours not in PLAIN else x.value
            where = tuple(range(x.rank))
        return reduce(n, ours, x, tuple(sorted(n.axes(where, x.rank))), bool(n.integer("keepdims", 1)))


PLAIN = {"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "mean"}  # of one element: the element


def reduce(n: Site, op: str, x: Tensor | Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    value = x.value if isinstance(x, Tensor) else x
    if value.dtype is bool_ and op in ("reduce_max", "reduce_min"):
        return n.apply("reduce_or" if op == "reduce_max" else "reduce_and", value, axes=axes, keepdims=keepdims)
    return n.apply(op, value, axes=axes, keepdims=keepdims)


for _onnx, _ours in REDUCTIONS.items():
    _reduction(_onnx, _ours)


@onnx_op("ArgMax", "ArgMin")
def arg_extreme(n: Site, x: Tensor) -> Value:
    name = n.op.lower() + ("_last" if n.integer("select_last_index") else "")
    value = n.cast(x, u8) if x.dtype is bool_ else x.value
    return n.apply(name, value, axes=(n.axis(x.rank),), keepdims=bool(n.integer("keepdims", 1)))


@onnx_op("Softmax", "LogSoftmax", since=13)
def softmax(n: Site, x: Tensor) -> Value:
    return n.apply("softmax" if n.op == "Softmax" else "log_softmax", x, axis=n.axis(x.rank, -1))


@onnx_op("Softmax", "LogSoftmax")
def softmax_of_matrix(n: Site, x: Tensor) -> Value:
    """Before opset 13 all axes from `axis` on are normalised together."""
    axis = n.axis(x.rank, 1)
    if axis == x.rank - 1:
        return softmax_at(n, x, axis)
    flat = n.reshape(x, (dim_product(x.shape[:axis]), dim_product(x.shape[axis:])))
    return n.reshape(softmax_at(n, flat, 1), x.shape)


def softmax_at(n: Site, x: Tensor | Value, axis: int) -> Value:
    return n.apply("softmax" if n.op == "Softmax" else "log_softmax", x, axis=axis)


@onnx_op("Hardmax", since=13)
def hardmax(n: Site, x: Tensor) -> Value:
    return n.apply("hardmax", x, axis=n.axis(x.rank, -1))


@onnx_op("Hardmax")
def hardmax_of_matrix(n: Site, x: Tensor) -> Value:
    axis = n.axis(x.rank, 1)
    flat = n.reshape(x, (dim_product(x.shape[:axis]), dim_product(x.shape[axis:])))
    return n.reshape(n.apply("hardmax", flat, axis=1), x.shape)


@onnx_op("TopK", since=10)
def top_k(n: Site, x: Tensor, k: Tensor) -> tuple[Value, ...]:
    (count,) = n.dims(k, "K of TopK")
    return _top_k(n, x, count)


@onnx_op("TopK")
def top_k_by_attribute(n: Site, x: Tensor) -> tuple[Value, ...]:
    return _top_k(n, x, n.integer("k"))


def _top_k(n: Site, x: Tensor, count: object) -> tuple[Value, ...]:
    largest = bool(n.integer("largest", 1))
    return n.apply_all("topk", x, k=count, axis=n.axis(x.rank, -1), largest=largest, sorted=bool(n.integer("sorted", 1)))


@onnx_op("LpNormalization")
def lp_normalization(n: Site, x: Tensor) -> Value:
    p = n.integer("p", 2)
    if p not in (1, 2):
        raise UnsupportedOp(f"p must be 1 or 2, not {p}")
    return n.apply("lp_norm", x, axis=n.axis(x.rank, -1), p=p)
