"""Elementwise operators: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ir.errors import UnsupportedOp
from ...ir.graph import Value
from ...ir.types import DType, bool_, f8e4m3, f8e5m2, f32, i32
from .files import element_type
from .registry import Operand, Site, Tensor, onnx_op

LARGEST_F8 = {f8e4m3: 448.0, f8e5m2: 57344.0}
UNARY = {
    "Abs": "abs", "Neg": "neg", "Sign": "sign", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin",
    "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh",
    "Atanh": "atanh",
    "Erf": "erf", "IsNaN": "is_nan", "Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign",
    "Mish": "mish", "HardSwish": "hard_swish", "Not": "not", "BitwiseNot": "not",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor", "BitwiseAnd": "and",
    "BitwiseOr": "or", "BitwiseXor": "xor", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
    "Equal": "eq",
}  # fmt: skip
ALPHA = {
    "LeakyRelu": ("leaky_relu", 0.01),
    "Elu": ("elu", 1.0),
    "Celu": ("celu", 1.0),
    "ThresholdedRelu": ("thresholded_relu", 1.0),
}
FLOAT_ONLY = {"floor", "ceil", "round", "sqrt", "exp", "log", "erf"}


def _unary(onnx: str, ours: str) -> None:
    @onnx_op(onnx)
    def run(n: Site, x: Tensor) -> Value:
        if ours in FLOAT_ONLY and x.dtype.is_int:  # Erf and friends of integers: computed in f32
            return n.cast(n.apply(ours, n.cast(x, f32)), x.dtype)
        return n.apply(ours, x)


def _binary(onnx: str, ours: str) -> None:
    @onnx_op(onnx)
    def run(n: Site, x: Tensor, y: Tensor) -> Value:
        return n.apply(ours, x, y)


def _alpha(onnx: str, ours: str, default: float) -> None:
    @onnx_op(onnx)
    def run(n: Site, x: Tensor) -> Value:
        return n.apply(ours, x, alpha=n.number("alpha", default))


for _onnx, _ours in UNARY.items():
    _unary(_onnx, _ours)
for _onnx, _ours in BINARY.items():
    _binary(_onnx, _ours)
for _onnx, (_ours, _default) in ALPHA.items():
    _alpha(_onnx, _ours, _default)


def _variadic(onnx: str, fold: Callable[[Site, Value, Tensor], Value]) -> None:
    @onnx_op(onnx)
    def run(n: Site, first: Tensor, *rest: Tensor) -> Value:
        total = first.value
        for x in rest:
            total = fold(n, total, x)
        return total


_variadic("Max", lambda n, a, b: n.apply("max", a, b))
_variadic("Min", lambda n, a, b: n.apply("min", a, b))
_variadic("Sum", lambda n, a, b: n.apply("add", a, b))


@onnx_op("Mean")
def mean(n: Site, *operands: Tensor) -> Value:
    total = operands[0].value
    for x in operands[1:]:
        total = n.apply("add", total, x)
    return n.apply("div", total, n.scalar(len(operands), total))


@onnx_op("Pow")
def pow_(n: Site, x: Tensor, y: Tensor) -> Value:
    if x.dtype is y.dtype:
        return n.apply("pow", x, y)
    if x.dtype.is_int and y.dtype.is_float:
        return n.cast(n.apply("pow", n.cast(x, y.dtype), y), x.dtype)
    return n.apply("pow", x, n.cast(y, x.dtype))


@onnx_op("Mod")
def mod(n: Site, x: Tensor, y: Tensor) -> Value:
    return n.apply("rem" if n.integer("fmod") else "mod", x, y)


@onnx_op("BitShift")
def bit_shift(n: Site, x: Tensor, y: Tensor) -> Value:
    return n.apply("shl" if n.text("direction") == "LEFT" else "shr", x, y)


@onnx_op("Clip", since=11)
def clip(n: Site, x: Tensor, low: Operand = None, high: Operand = None) -> Value:
    if low is not None and high is not None:
        return n.apply("clip", x, low, high)
    if low is None and high is None:
        return x.value
    return n.apply("max", x, low) if low is not None else n.apply("min", x, high)  # type: ignore[arg-type]


@onnx_op("Clip")
def clip_by_attributes(n: Site, x: Tensor) -> Value:
    low, high = n.number("min", -math.inf), n.number("max", math.inf)
    return n.apply("clip", x, n.scalar(low, x), n.scalar(high, x))


@onnx_op("PRelu")
def prelu(n: Site, x: Tensor, slope: Tensor) -> Value:
    per_channel = slope.rank == 1 and x.rank > 2 and slope.shape[0] == x.shape[1] and slope.shape[0] != x.shape[-1]
    if per_channel:  # as old exporters write it
        return n.apply("prelu", x, n.reshape(slope, (*slope.shape, *(1,) * (x.rank - 2))))
    return n.apply("prelu", x, slope)


@onnx_op("Selu")
def selu(n: Site, x: Tensor) -> Value:
    alpha, gamma = n.number("alpha", 1.67326319217681884765625), n.number("gamma", 1.05070102214813232421875)
    return n.apply("selu", x, alpha=alpha, gamma=gamma)


@onnx_op("HardSigmoid")
def hard_sigmoid(n: Site, x: Tensor) -> Value:
    return n.apply("hard_sigmoid", x, alpha=n.number("alpha", 0.2), beta=n.number("beta", 0.5))


@onnx_op("Gelu")
def gelu(n: Site, x: Tensor) -> Value:
    return n.apply("gelu", x, approximate=n.text("approximate", "none"))


@onnx_op("Swish")
def swish(n: Site, x: Tensor) -> Value:
    alpha = n.number("alpha", 1.0)
    if alpha == 1.0:
        return n.apply("silu", x)
    return n.apply("mul", x, n.apply("sigmoid", n.apply("mul", x, n.scalar(alpha, x))))


@onnx_op("Shrink")
def shrink(n: Site, x: Tensor) -> Value:
    bias, lambd = n.scalar(n.number("bias", 0.0), x), n.scalar(n.number("lambd", 0.5), x)
    zero = n.scalar(0, x)
    negative = n.apply("where", n.apply("lt", x, n.apply("neg", lambd)), n.apply("add", x, bias), zero)
    return n.apply("where", n.apply("gt", x, lambd), n.apply("sub", x, bias), negative)


@onnx_op("IsInf")
def is_inf(n: Site, x: Tensor) -> Value:
    positive, negative = bool(n.integer("detect_positive", 1)), bool(n.integer("detect_negative", 1))
    return n.apply("is_inf", x, positive=positive, negative=negative)


@onnx_op("Where")
def where(n: Site, condition: Tensor, x: Tensor, y: Tensor) -> Value:
    return n.apply("where", condition, x, y)


def convert(n: Site, x: Tensor, dtype: DType) -> Value:
    """Cast as ONNX means it: a float becomes bool by comparison with zero, f8 saturates or not as asked."""
    if x.dtype is dtype:
        return x.value
    if dtype in LARGEST_F8 and n.integer("saturate", 1):
        wide = n.cast(x, f32)
        limited = n.apply("clip", wide, n.const(-LARGEST_F8[dtype], f32), n.const(LARGEST_F8[dtype], f32))
        return n.apply("cast", limited, to=dtype)
    if dtype is bool_:
        return n.apply("ne", x, n.scalar(0, x))
    if dtype.bits == 4 and x.dtype.is_float:  # truncates, then wraps
        return n.apply("cast", n.apply("cast", x, to=i32), to=dtype)
    return n.apply("cast", x, to=dtype)


@onnx_op("Cast")
def cast(n: Site, x: Tensor) -> Value:
    return convert(n, x, element_type(n.integer("to"), "attribute to"))


@onnx_op("CastLike")
def cast_like(n: Site, x: Tensor, like: Tensor) -> Value:
    return convert(n, x, like.dtype)


@onnx_op("BitCast")
def bit_cast(n: Site, x: Tensor) -> Value:
    return n.apply("bitcast", x, to=element_type(n.integer("to"), "attribute to"))


@onnx_op("Identity")
def identity(n: Site, x: Tensor) -> Tensor:
    return x


@onnx_op("Dropout")
def dropout(n: Site, x: Tensor, ratio: Operand = None, training: Operand = None) -> tuple[Tensor | Value, ...]:
    trains = training is not None and bool(n.known(training, "training_mode").item())
    if trains and ratio is not None and float(n.known(ratio, "ratio").item()) != 0.0:
        raise UnsupportedOp("dropout in training mode draws random numbers; export the model for inference")
    return x, n.full(1, x.shape, bool_)


@onnx_op("CumSum", "CumProd")
def cumulative(n: Site, x: Tensor, axis: Tensor) -> Value:
    (k,) = n.axes(n.known_ints(axis, "axis"), x.rank)
    return n.apply(n.op.lower(), x, axis=k, exclusive=bool(n.integer("exclusive")), reverse=bool(n.integer("reverse")))
