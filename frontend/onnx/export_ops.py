"""How each op is written as ONNX: one rule for an op or a family of them; see `writer.exports`.

A rule gets the writer, the node and the names of its operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import UnsupportedOp
from ...ir.graph import Graph, Node, Value
from ...ir.types import TensorType, bool_, f32, i32, i64
from .files import ONNX_TYPES
from .writer import Writer, exports

SAME = {
    "abs": "Abs", "neg": "Neg", "sign": "Sign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "erf": "Erf", "is_nan": "IsNaN", "relu": "Relu", "sigmoid": "Sigmoid", "hard_swish": "HardSwish", "softplus": "Softplus",
    "softsign": "Softsign", "mish": "Mish", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "eq": "Equal",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "where": "Where", "prelu": "PRelu",
    "global_max_pool": "GlobalMaxPool", "global_avg_pool": "GlobalAveragePool",
}  # fmt: skip
WITH_ATTRS = {
    "leaky_relu": "LeakyRelu", "elu": "Elu", "selu": "Selu", "celu": "Celu", "hard_sigmoid": "HardSigmoid",
    "thresholded_relu": "ThresholdedRelu", "gelu": "Gelu", "softmax": "Softmax", "log_softmax": "LogSoftmax",
    "hardmax": "Hardmax",
    "batch_norm": "BatchNormalization", "instance_norm": "InstanceNormalization", "lrn": "LRN", "lp_norm": "LpNormalization",
    "einsum": "Einsum", "layer_norm": "LayerNormalization", "concat": "Concat", "transpose": "Transpose", "gather": "Gather",
    "gather_elements": "GatherElements", "gather_nd": "GatherND", "scatter_elements": "ScatterElements",
    "scatter_nd": "ScatterND",
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum": "ReduceSum", "reduce_prod": "ReduceProd", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin",
    "mean": "ReduceMean", "sum_square": "ReduceSumSquare", "l1": "ReduceL1", "l2": "ReduceL2", "log_sum": "ReduceLogSum",
    "log_sum_exp": "ReduceLogSumExp",
}  # fmt: skip


@exports(*SAME)
def same(w: Writer, node: Node, x: list[str]) -> str:
    return w.one(SAME[node.op], *x)


@exports(*WITH_ATTRS)
def with_attributes(w: Writer, node: Node, x: list[str]) -> str:
    return w.one(WITH_ATTRS[node.op], *x, **node.attrs)


@exports(*REDUCTIONS)
def reduction(w: Writer, node: Node, x: list[str]) -> str:
    keepdims = int(node.attrs.get("keepdims", False))
    if not node.attrs["axes"]:
        return w.one(REDUCTIONS[node.op], x[0], keepdims=keepdims, noop_with_empty_axes=1)
    return w.one(REDUCTIONS[node.op], x[0], w.ints(node.attrs["axes"]), keepdims=keepdims)


@exports("reduce_and", "reduce_or")
def reduce_bool(w: Writer, node: Node, x: list[str]) -> str:
    wide = w.one("Cast", x[0], to=ONNX_TYPES[i32])
    op = "ReduceMin" if node.op == "reduce_and" else "ReduceMax"
    result = w.one(op, wide, w.ints(node.attrs["axes"]), keepdims=int(node.attrs.get("keepdims", False)))
    return w.one("Cast", result, to=ONNX_TYPES[bool_])


@exports("argmax", "argmin", "argmax_last", "argmin_last")
def arg_extreme(w: Writer, node: Node, x: list[str]) -> str:
    return w.one(
        "ArgMax" if node.op.startswith("argmax") else "ArgMin", x[0], axis=node.attrs["axes"][0],
        keepdims=int(node.attrs.get("keepdims", False)), select_last_index=int(node.op.endswith("_last")),
    )  # fmt: skip


# pointwise


@exports("ne")
def not_equal(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Not", w.one("Equal", *x))


@exports("min", "max")
def extreme(w: Writer, node: Node, x: list[str]) -> str:
    if node.inputs[0].dtype is bool_:
        return w.one("And" if node.op == "min" else "Or", *x)
    return w.one("Min" if node.op == "min" else "Max", *x)


@exports("and", "or", "xor", "not")
def logical(w: Writer, node: Node, x: list[str]) -> str:
    return w.one(("" if node.inputs[0].dtype is bool_ else "Bitwise") + node.op.capitalize(), *x)


@exports("rem")
def remainder(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Mod", *x, fmod=1)


@exports("mod")
def modulo(w: Writer, node: Node, x: list[str]) -> str:
    if node.inputs[0].dtype.is_int:
        return w.one("Mod", *x)
    return w.one("Sub", x[0], w.one("Mul", x[1], w.one("Floor", w.one("Div", *x))))


@exports("shl", "shr")
def shift(w: Writer, node: Node, x: list[str]) -> str:
    if node.inputs[0].dtype.kind == "u":
        return w.one("BitShift", *x, direction="LEFT" if node.op == "shl" else "RIGHT")
    power = w.one("Pow", w.const(np.asarray(2, node.inputs[0].dtype.np)), x[1])
    if node.op == "shl":
        return w.one("Mul", x[0], power)
    return w.one("Div", w.one("Sub", x[0], w.one("Mod", x[0], power)), power)


@exports("trunc")
def truncate(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Mul", w.one("Sign", x[0]), w.one("Floor", w.one("Abs", x[0])))


@exports("is_inf")
def is_inf(w: Writer, node: Node, x: list[str]) -> str:
    positive, negative = (int(node.attrs.get(k, True)) for k in ("positive", "negative"))
    return w.one("IsInf", x[0], detect_positive=positive, detect_negative=negative)


@exports("silu")
def silu(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Mul", x[0], w.one("Sigmoid", x[0]))


@exports("clip")
def clip(w: Writer, node: Node, x: list[str]) -> str:
    if all(v.type.rank == 0 for v in node.inputs[1:]):
        return w.one("Clip", *x)
    return w.one("Min", w.one("Max", x[0], x[1]), x[2])


@exports("cast")
def cast(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Cast", x[0], to=ONNX_TYPES[node.attrs["to"]])


@exports("bitcast")
def bitcast(w: Writer, node: Node, x: list[str]) -> str:
    raise UnsupportedOp(f"{node!r}: ONNX has no operator for bitcast before opset 26")


def parameter_axis(parameter: TensorType, like: TensorType) -> int | None:
    """Along which axis of `like` a scale varies: -1 for one number, None for several axes."""
    varying = [k + like.rank - parameter.rank for k, d in enumerate(parameter.shape) if d != 1]
    return -1 if not varying else varying[0] if len(varying) == 1 else None


def _blocked_axis(parameters: Sequence[Value], like: TensorType) -> int | None:
    """The axis along which constant scales are shared that vary along several others: a block for ONNX; None where there is none."""
    scale, zero = (v.type for v in parameters)
    if scale.rank != like.rank or not all(v.is_const for v in parameters) or not (zero.shape == scale.shape or zero.size == 1):
        return None
    shared = [k for k, (a, b) in enumerate(zip(scale.shape, like.shape, strict=True)) if a != b]
    several = sum(d != 1 for d in scale.shape) > 1
    fits = len(shared) == 1 and several and scale.shape[shared[0]] == 1 and isinstance(like.shape[shared[0]], int)
    return shared[0] if fits else None


@exports("quantize", "dequantize")
def quantization(w: Writer, node: Node, x: list[str]) -> str:
    like = node.inputs[0].type
    blocked = _blocked_axis(node.inputs[1:], like)
    if blocked is not None:
        zero = node.inputs[2]
        offset = x[2] if zero.type.size != 1 else w.const(np.full(node.inputs[1].array.shape, zero.array.reshape(()), zero.array.dtype))
        op = "QuantizeLinear" if node.op == "quantize" else "DequantizeLinear"
        return w.one(op, x[0], x[1], offset, axis=blocked, block_size=like.shape[blocked])
    axes = [parameter_axis(v.type, like) for v in node.inputs[1:]]
    axis = max((a for a in axes if a is not None), default=-1)
    if None in axes or any(a not in (-1, axis) for a in axes):
        raise UnsupportedOp(f"{node!r}: a scale that varies along several axes cannot be exported")
    shape: list[Dim] = [] if axis < 0 else [like.shape[axis]]
    parameters = []
    for value, name in zip(node.inputs[1:], x[1:], strict=True):
        flat = (
            name
            if value.type.rank == len(shape)
            else w.one("Reshape", name, w.dims([1] * len(shape) if value.type.size == 1 else shape))
        )
        same_size = not shape or value.type.size != 1
        parameters.append(flat if same_size else w.one("Expand", flat, w.dims(shape)))
    op = "QuantizeLinear" if node.op == "quantize" else "DequantizeLinear"
    return w.one(op, x[0], *parameters, axis=max(axis, 0))


# index


@exports("reshape")
def reshape(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Reshape", x[0], w.dims(node.attrs["shape"]), allowzero=1)


@exports("broadcast_to")
def broadcast_to(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Expand", x[0], w.dims(node.attrs["shape"]))


@exports("slice")
def slice_(w: Writer, node: Node, x: list[str]) -> str:
    shape = node.inputs[0].shape
    starts, stops, steps = (node.attrs[k] for k in ("starts", "stops", "steps"))
    used = [k for k in range(len(shape)) if (starts[k], stops[k], steps[k]) != (0, shape[k], 1)]
    if not used:
        return w.one("Identity", x[0])
    ends = [-(2**62) if steps[k] < 0 and stops[k] == -1 else stops[k] for k in used]
    return w.one("Slice", x[0], w.dims([starts[k] for k in used]), w.dims(ends), w.ints(used), w.ints(steps[k] for k in used))


@exports("pad")
def pad(w: Writer, node: Node, x: list[str]) -> str:
    value = w.const(np.asarray(node.attrs.get("value", 0)).astype(node.inputs[0].dtype.np))
    mode = node.attrs.get("mode", "constant")
    return w.one("Pad", x[0], w.dims((*node.attrs["low"], *node.attrs["high"])), value, mode=mode)


@exports("tile")
def tile(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Tile", x[0], w.dims(node.attrs["repeats"]))


@exports("repeat")
def repeat(w: Writer, node: Node, x: list[str]) -> str:
    """Each axis beside a new one, along which it is expanded."""
    shape, repeats = node.inputs[0].shape, node.attrs["repeats"]
    apart = w.one("Reshape", x[0], w.dims([d for n in shape for d in (n, 1)]), allowzero=1)
    spread = w.one("Expand", apart, w.dims([d for pair in zip(shape, repeats, strict=True) for d in pair]))
    return w.one("Reshape", spread, w.dims(node.types[0].shape), allowzero=1)


@exports("window")
def window(w: Writer, node: Node, x: list[str]) -> str:
    """Pad, then one Gather by a matrix of positions for each axis, then the window axes to the end."""
    a, rank, dtype = node.attrs, node.inputs[0].type.rank, node.inputs[0].dtype
    low, high = [0] * rank, [0] * rank
    for k, axis in enumerate(a["axes"]):
        low[axis], high[axis] = a["low"][k], a["high"][k]
    result = x[0]
    if any(p != 0 for p in (*low, *high)):
        fill = a["fill"]
        if math.isinf(fill) and not dtype.is_float:
            fill = dtype.max if fill > 0 else dtype.min
        result = w.one("Pad", result, w.dims((*low, *high)), w.const(np.asarray(fill).astype(dtype.np)))
    for axis in sorted(a["axes"], reverse=True):
        k = a["axes"].index(axis)
        rows = w.one("Mul", counting(w, node.types[0].shape[axis]), w.ints([a["strides"][k]]))
        columns = w.one("Mul", counting(w, a["kernel"][k]), w.ints([a["dilations"][k]]))
        places = w.one("Add", w.one("Unsqueeze", rows, w.ints([1])), columns)
        result = w.one("Gather", result, places, axis=axis)
    order, inner, at = [], {}, 0
    for axis in range(rank):
        order.append(at)
        if axis in a["axes"]:
            inner[axis] = at + 1
            at += 1
        at += 1
    return w.one("Transpose", result, perm=[*order, *(inner[axis] for axis in a["axes"])])


def counting(w: Writer, d: Dim) -> str:
    """0, 1, ... d - 1 as i64."""
    if isinstance(d, int):
        return w.ints(range(d))
    zero, one = (w.const(np.asarray(v, np.int64)) for v in (0, 1))
    return w.one("Range", zero, w.one("Squeeze", w.dim(d), w.ints([0])), one)


@exports("dilate")
def dilate(w: Writer, node: Node, x: list[str]) -> str:
    """Each element followed by zeros, the last ones cut off."""
    shape, result = list(node.inputs[0].shape), x[0]
    for axis, factor in zip(node.attrs["axes"], node.attrs["factors"], strict=True):
        if factor == 1:
            continue
        result = w.one("Unsqueeze", result, w.ints([axis + 1]))
        pads = [0] * (2 * len(shape) + 2)
        pads[len(shape) + 1 + axis + 1] = factor - 1
        result = w.one("Pad", result, w.ints(pads))
        wide = [*shape[:axis], shape[axis] * factor, *shape[axis + 1 :]]
        shape[axis] = node.types[0].shape[axis]
        result = w.one("Reshape", result, w.dims(wide), allowzero=1)
        result = w.one("Slice", result, w.ints([0]), w.dims([shape[axis]]), w.ints([axis]))
    return result


@exports("iota")
def iota(w: Writer, node: Node, x: list[str]) -> str:
    shape, axis, dtype = node.attrs["shape"], node.attrs["axis"], node.attrs["dtype"]
    numbers = counting(w, shape[axis])
    if dtype is not i64:
        numbers = w.one("Cast", numbers, to=ONNX_TYPES[dtype])
    if len(shape) == 1:
        return numbers if not isinstance(shape[0], int) else w.one("Identity", numbers)
    lined = w.one("Reshape", numbers, w.ints(-1 if k == axis else 1 for k in range(len(shape))))
    return w.one("Expand", lined, w.dims(shape))


@exports("sizes")
def sizes(w: Writer, node: Node, x: list[str]) -> str:
    return w.dims(node.attrs["dims"])


# contractions


@exports("matmul")
def matmul(w: Writer, node: Node, x: list[str]) -> str:
    return product(w, node, x, "MatMul", {})


def product(w: Writer, node: Node, x: list[str], op: str, attrs: dict[str, object]) -> str:
    """MatMul or Conv in the result's dtype, or its integer form for 8-bit operands."""
    out = node.types[0].dtype
    if all(v.dtype.name in ("i8", "u8") for v in node.inputs) and out is i32:
        return w.one(op + "Integer", *x, **attrs)
    wide = [name if v.dtype is out else w.one("Cast", name, to=ONNX_TYPES[out]) for v, name in zip(node.inputs, x, strict=True)]
    return w.one(op, *wide, **attrs)


@exports("conv")
def conv(w: Writer, node: Node, x: list[str]) -> str:
    a, rank = node.attrs, node.inputs[0].type.rank
    last = a.get("layout") == "channels_last"
    data = w.one("Transpose", x[0], perm=[0, rank - 1, *range(1, rank - 1)]) if last else x[0]
    data, pads = static_pads(w, node, data, rank)
    attrs = {"strides": a["strides"], "pads": pads, "dilations": a["dilations"], "group": a.get("groups", 1)}
    y = product(w, node, [data, x[1]], "Conv", attrs)
    return w.one("Transpose", y, perm=[0, *range(2, rank), 1]) if last else y


def static_pads(w: Writer, node: Node, data: str, rank: int) -> tuple[str, list[int]]:
    """Padding as an attribute where it is static, else by a Pad in front."""
    pads = node.attrs["pads"]
    numbers = [p[0] for p in pads] + [p[1] for p in pads]
    if all(isinstance(p, int) for p in numbers):
        return data, numbers
    both = [0, 0, *numbers[: rank - 2], 0, 0, *numbers[rank - 2 :]]
    return w.one("Pad", data, w.dims(both)), [0] * len(numbers)


def plain_transpose(node: Node) -> bool:
    """ONNX wants static pads, and output_padding below the strides."""
    a = node.attrs
    extra = a.get("output_padding") or (0,) * len(a["strides"])
    pads = [p for pair in a["pads"] for p in pair]
    return all(isinstance(p, int) and p >= 0 for p in pads) and all(
        isinstance(p, int) and p < s for p, s in zip(extra, a["strides"], strict=True)
    )


@exports("conv_transpose", only=plain_transpose)
def conv_transpose(w: Writer, node: Node, x: list[str]) -> str:
    a = node.attrs
    pads = [p[0] for p in a["pads"]] + [p[1] for p in a["pads"]]
    return w.one(
        "ConvTranspose", *x, strides=a["strides"], pads=pads, dilations=a["dilations"], group=a.get("groups", 1),
        output_padding=a.get("output_padding") or None,
    )  # fmt: skip


# composites


def plain_pool(node: Node) -> bool:
    """ONNX pools have static pads smaller than the kernel."""
    a = node.attrs
    pads = [p for pair in a["pads"] for p in pair]
    small = all(isinstance(p, int) and p < k for pair, k in zip(a["pads"], a["kernel"], strict=True) for p in pair)
    return small and all(isinstance(p, int) and p >= 0 for p in pads) and not any(a.get("uncounted", ()))


@exports("max_pool", "avg_pool", "lp_pool", only=plain_pool)
def pool(w: Writer, node: Node, x: list[str]) -> str:
    a = node.attrs
    attrs = {"kernel_shape": a["kernel"], "strides": a["strides"], "dilations": a["dilations"]}
    attrs["pads"] = [p[0] for p in a["pads"]] + [p[1] for p in a["pads"]]
    if node.op == "avg_pool":
        attrs["count_include_pad"] = int(a.get("count_include_pad", False))
    if node.op == "lp_pool":
        attrs["p"] = a.get("p", 2)
    return w.one({"max_pool": "MaxPool", "avg_pool": "AveragePool", "lp_pool": "LpPool"}[node.op], *x, **attrs)


@exports("group_norm")
def group_norm(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("GroupNormalization", *x, num_groups=node.attrs["groups"], epsilon=node.attrs.get("epsilon", 1e-5))


@exports("depth_to_space", "space_to_depth")
def blocks(w: Writer, node: Node, x: list[str]) -> str:
    if node.op == "space_to_depth":
        return w.one("SpaceToDepth", x[0], blocksize=node.attrs["block"])
    return w.one("DepthToSpace", x[0], blocksize=node.attrs["block"], mode=node.attrs.get("mode", "DCR"))


@exports("one_hot")
def one_hot(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("OneHot", x[0], w.dim(node.attrs["depth"]), x[1], axis=node.attrs["axis"])


@exports("trilu")
def trilu(w: Writer, node: Node, x: list[str]) -> str:
    offset = w.const(np.asarray(node.attrs.get("k", 0), np.int64))
    return w.one("Trilu", x[0], offset, upper=int(node.attrs.get("upper", True)))


# opaque ops


@exports("cumsum")
def cumsum(w: Writer, node: Node, x: list[str]) -> str:
    axis = w.const(np.asarray(node.attrs["axis"], np.int64))
    exclusive, reverse = (int(node.attrs.get(k, False)) for k in ("exclusive", "reverse"))
    return w.one("CumSum", x[0], axis, exclusive=exclusive, reverse=reverse)


@exports("topk")
def topk(w: Writer, node: Node, x: list[str]) -> list[str]:
    a = node.attrs
    return w.emit("TopK", x[0], w.dim(a["k"]), results=2, axis=a["axis"], largest=int(a.get("largest", True)), sorted=1)


@exports("sort")
def sort(w: Writer, node: Node, x: list[str]) -> list[str]:
    axis = node.attrs["axis"]
    count = w.dim(node.inputs[0].shape[axis])
    return w.emit("TopK", x[0], count, results=2, axis=axis, largest=int(node.attrs.get("descending", False)), sorted=1)


@exports("nonzero")
def nonzero(w: Writer, node: Node, x: list[str]) -> list[str]:
    places = w.one("NonZero", x[0])
    return [places, w.one("Shape", places, start=1)]


@exports("compress")
def compress(w: Writer, node: Node, x: list[str]) -> list[str]:
    axis = node.attrs["axis"]
    kept = w.one("Compress", *x, axis=axis)
    return [kept, w.one("Shape", kept, start=axis, end=axis + 1)]


@exports("bind_size")
def bind_size(w: Writer, node: Node, x: list[str]) -> str:
    """The operators above give just what there is; slicing to the count holds for any other producer."""
    axis = w.ints([node.attrs["axis"]])
    bound = w.one("Slice", x[0], w.ints([0]), x[1], axis)
    w.define(bound, node.types[0])
    return bound


@exports("after")
def after(w: Writer, node: Node, x: list[str]) -> str:
    return w.one("Identity", x[0])


# recurrent layers

PLAIN_OPERANDS = {"lstm": 6, "gru": 5, "rnn": 5}  # without sequence lengths and peepholes


def plain_recurrent(node: Node) -> bool:
    """Whether a layer is one that every runtime knows."""
    others = ("activations", "activation_alpha", "activation_beta", "layout")
    return len(node.inputs) == PLAIN_OPERANDS[node.op] and node.inputs[0].dtype is f32 and not any(node.attrs.get(a) for a in others)


@exports("lstm", "gru", "rnn", only=plain_recurrent)
def recurrent(w: Writer, node: Node, x: list[str]) -> list[str]:
    a = node.attrs
    return w.emit(
        node.op.upper(), *x[:4], "", *x[4:], results=len(node.types), hidden_size=node.inputs[2].shape[2],
        direction=a.get("direction", "forward"), clip=a.get("clip") or None,
        input_forget=int(a.get("input_forget", False)) or None, linear_before_reset=int(a.get("linear_before_reset", False)) or None,
    )  # fmt: skip


# control flow


@exports("if_")
def if_(w: Writer, node: Node, x: list[str]) -> list[str]:
    branches = {f"{name}_branch": w.body(node.attrs[key], (), x[1:], name) for name, key in (("then", "then"), ("else", "otherwise"))}
    return w.emit("If", x[0], results=len(node.types), names=(), **branches)


@exports("loop")
def loop(w: Writer, node: Node, x: list[str]) -> list[str]:
    states = len(node.types)
    body = w.body(node.attrs["body"], ["step", "going", *(f"state{k}" for k in range(states))], x[2 + states :], "loop")
    return w.emit("Loop", *x[: 2 + states], results=states, body=body)


@exports("scan")
def scan(w: Writer, node: Node, x: list[str]) -> list[str]:
    """A Scan, with the step as one more sequence."""
    a = node.attrs
    states, captures, body = a["states"], a.get("captures", 0), a["body"]
    sequences = x[states : len(x) - captures]
    steps = counting(w, a["length"])
    stacked = len(node.types) - states
    reverse = [int(r) for r in a.get("reverse", ())] or [0] * len(sequences)
    directions, out_directions = reverse[: len(sequences)], reverse[len(sequences) :] or [0] * stacked
    moved = Graph(
        body.name, (*body.inputs[1 : 1 + states], body.inputs[0], *body.inputs[1 + states :]), body.outputs, body.output_names
    )  # fmt: skip
    names = [*(f"state{k}" for k in range(states)), "step", *(f"slice{k}" for k in range(len(sequences)))]
    proto = w.body(moved, names, x[len(x) - captures :] if captures else (), "scan")
    return w.emit(
        "Scan", *x[:states], steps, *sequences, results=len(node.types), body=proto, num_scan_inputs=1 + len(sequences),
        scan_input_directions=[0, *directions], scan_output_directions=out_directions if stacked else None,
    )  # fmt: skip
