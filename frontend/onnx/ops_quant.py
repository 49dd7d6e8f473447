"""Quantization: QuantizeLinear and DequantizeLinear per tensor, axis or block, and the operators on quantized tensors.

Integer products run on the 8-bit operands, constant weights made signed and activations unsigned; zero points become corrections of
the i32 result, exact in wrapping arithmetic: (a - za)(b - zb) = ab - za*sum(b) - zb*sum(a) + k*za*zb.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError, QuantError, ShapeError, UnsupportedOp
from ...ir.graph import Value
from ...ir.types import DType, f32, i8, i32, u8
from .files import element_type
from .ops_nn import Pads, conv_attributes
from .registry import Operand, Site, Tensor, onnx_op


def aligned(n: Site, parameter: Tensor | Value, like: Tensor, axis: int, block: int = 0) -> Value:
    """A scale or zero point shaped to broadcast against `like`: one number, one per index of `axis`, or one per block."""
    value = parameter.value if isinstance(parameter, Tensor) else parameter
    if value.type.size == 1:
        return n.reshape(value, ())
    if value.type.rank == 1 and not block:
        return n.reshape(value, [value.shape[0] if k == axis else 1 for k in range(like.rank)])
    if not block or value.type.rank != like.rank:
        raise ShapeError(f"a scale or zero point of {value.type} does not fit {like.type} along axis {axis}")
    shape = value.shape
    spread = n.reshape(value, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    spread = n.broadcast(spread, (*shape[: axis + 1], block, *shape[axis + 1 :]))
    whole = n.reshape(spread, (*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    return whole if whole.shape == like.shape else n.slice_axis(whole, axis, 0, like.shape[axis])


def check_parameters(n: Site, scale: Tensor, zero: Operand, of: DType) -> None:
    """Raise QuantError for a scale that cannot be used, and for a zero point outside the type `of` or of another length."""
    array = n.constant(scale)
    if array is not None:
        wide = array.astype(np.float64)
        bad = ~(np.isfinite(wide) & (wide >= np.finfo(np.float32).tiny))  # what no element can be divided by or multiplied with
        if bad.any():
            first = np.float32(wide[bad][0])
            raise QuantError(f"a scale is {first!s}; scales are positive, finite and not smaller than {np.finfo(np.float32).tiny:.3g}")
    if zero is None:
        return
    if zero.dtype is not of:
        raise QuantError(f"the zero point is of {zero.dtype}, outside the type {of} of what it belongs to")
    counts = zero.value.type.size, scale.value.type.size
    if all(isinstance(k, int) for k in counts) and counts[0] not in (1, counts[1]):
        raise QuantError(f"there are {counts[0]} zero points and {counts[1]} scales; every scale has one, or all have the same")


def quantized(n: Site, x: Value, scale: Value, zero: Value, to: DType) -> Value:
    """Quantize, computing in f32 where the operand and the scale differ in dtype."""
    if x.dtype is not scale.dtype:
        x, scale = n.cast(x, f32), n.cast(scale, f32)
    return n.apply("quantize", x, scale, zero, to=to)


@onnx_op("QuantizeLinear")
@onnx_op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(n: Site, x: Tensor, scale: Tensor, zero: Operand = None) -> Value:
    asked = n.integer("output_dtype")
    to = zero.dtype if zero is not None else element_type(asked, "output_dtype") if asked else u8
    check_parameters(n, scale, zero, to)
    if to.bits > 16:
        raise QuantError(f"the zero point is of {to}; numbers are quantized to 4, 8 or 16 bits")
    if to.is_float and not n.integer("saturate", 1):
        raise UnsupportedOp("quantization to an 8-bit float that does not saturate is not supported")
    axis = n.axis(x.rank, 1 if x.rank > 1 else 0) if scale.type.size != 1 else 0
    block = n.integer("block_size")
    offset = aligned(n, zero if zero is not None else n.const(0, to), x, axis, block)
    return quantized(n, x.value, aligned(n, scale, x, axis, block), offset, to)


@onnx_op("DequantizeLinear")
@onnx_op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(n: Site, q: Tensor, scale: Tensor, zero: Operand = None) -> Value:
    axis = n.axis(q.rank, 1 if q.rank > 1 else 0) if scale.type.size != 1 else 0
    block = n.integer("block_size")
    check_parameters(n, scale, zero, q.dtype)
    asked = n.integer("output_dtype")
    offset = zero if zero is not None else n.const(0, q.dtype)
    count = q.shape[axis] if block else 0
    if (
        block
        and isinstance(count, int)
        and count % block == 0
        and scale.shape == (*q.shape[:axis], count // block, *q.shape[axis + 1 :])
    ):
        result = in_blocks(n, q, scale, offset, axis, block)
    else:
        result = n.apply("dequantize", q, aligned(n, scale, q, axis, block), aligned(n, offset, q, axis, block))
    return n.cast(result, element_type(asked, "output_dtype")) if asked else result


def in_blocks(n: Site, q: Tensor, scale: Tensor, zero: Tensor | Value, axis: int, block: int) -> Value:
    """q dequantized with a scale for each whole block along an axis, the blocks an axis of their own."""
    split = (*scale.shape[: axis + 1], block, *scale.shape[axis + 1 :])
    one = (*scale.shape[: axis + 1], 1, *scale.shape[axis + 1 :])
    value = zero.value if isinstance(zero, Tensor) else zero
    offset = n.reshape(value, () if value.type.size == 1 else one)
    return n.reshape(n.apply("dequantize", n.reshape(q, split), n.reshape(scale, one), offset), q.shape)


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize_linear(n: Site, x: Tensor) -> tuple[Value, ...]:
    return dynamically_quantized(n, x.value)


def dynamically_quantized(n: Site, x: Value) -> tuple[Value, Value, Value]:
    """x as u8 over the range of its values, with scale and zero point."""
    axes, zero = tuple(range(x.type.rank)), n.scalar(0, x)
    low = n.apply("min", n.apply("reduce_min", x, axes=axes, keepdims=False), zero)
    high = n.apply("max", n.apply("reduce_max", x, axes=axes, keepdims=False), zero)
    scale = n.apply("div", n.apply("sub", high, low), n.scalar(255, x))
    scale = n.apply("where", n.apply("eq", scale, zero), n.scalar(1, x), scale)  # all zeros: any scale will do
    offset = n.apply("round", n.apply("div", n.apply("neg", low), scale))
    offset = n.cast(n.apply("clip", offset, zero, n.scalar(255, x)), u8)
    return n.apply("quantize", x, scale, offset, to=u8), scale, offset


def is_zero(n: Site, zero: Operand) -> bool:
    array = n.constant(zero) if zero is not None else np.zeros(1)
    return array is not None and not np.any(array)


def signed_weights(n: Site, w: Tensor, zero: Operand, axis: int) -> tuple[Tensor, Operand]:
    """Constant weights as i8 about 0, which is what contractions are fast with, if they fit; others as they are."""
    array, offset = n.constant(w), n.constant(zero) if zero is not None else np.zeros(1, np.int64)
    if array is None or offset is None or offset.ndim > 1 or (array.dtype == np.int8 and not offset.any()):
        return w, zero
    shape = [-1 if k == axis and offset.size > 1 else 1 for k in range(w.rank)]
    centred = array.astype(np.int64) - offset.astype(np.int64).reshape(shape)
    if centred.size == 0 or centred.min() < i8.min or centred.max() > i8.max:
        return w, zero
    return Tensor(n.const(centred, i8)), None


def unsigned_activations(n: Site, x: Tensor, zero: Operand) -> tuple[Tensor, Operand]:
    """i8 activations as u8, 128 more, if their zero point is one constant; others as they are."""
    array = n.constant(zero) if zero is not None else np.zeros((), np.int64)
    if x.dtype is not i8 or array is None or array.size != 1:
        return x, zero
    bits = n.apply("xor", n.apply("bitcast", x, to=u8), n.const(128, u8))
    return Tensor(bits), Tensor(n.const(array.astype(np.int64).reshape(()) + 128, u8))


def integer_matmul(n: Site, a: Tensor, b: Tensor, a_zero: Operand, b_zero: Operand) -> Value:
    """The i32 product of quantized matrices less their zero points (one number, one per row of a, or one per column of b)."""
    b, b_zero = signed_weights(n, b, b_zero, b.rank - 1)
    if b.value.is_const:
        a, a_zero = unsigned_activations(n, a, a_zero)
    x, y = a.value, b.value
    row, column = x.type.rank == 1, y.type.rank == 1
    x = n.reshape(x, (1, *x.shape)) if row else x
    y = n.reshape(y, (*y.shape, 1)) if column else y
    product = n.apply("matmul", x, y)
    k = x.shape[-1]
    za = None if is_zero(n, a_zero) else rows(n, a_zero, x)
    zb = None if is_zero(n, b_zero) else n.cast(b_zero, i32)  # type: ignore[arg-type]
    if zb is not None and zb.type.size == 1:
        zb = n.reshape(zb, ())
    if za is not None:
        columns = n.apply("reduce_sum", n.cast(y, i32), axes=(y.type.rank - 2,), keepdims=True)
        product = n.apply("sub", product, n.apply("mul", za, columns))
    if zb is not None:
        sums = n.apply("reduce_sum", n.cast(x, i32), axes=(x.type.rank - 1,), keepdims=True)
        product = n.apply("sub", product, n.apply("mul", sums, zb))
    if za is not None and zb is not None:
        count = n.const(k, i32) if isinstance(k, int) else n.cast(n.reshape(n.apply("sizes", dims=(k,)), ()), i32)
        product = n.apply("add", product, n.apply("mul", n.apply("mul", za, zb), count))
    if row or column:
        shape = product.shape
        return n.reshape(product, (*shape[:-2], *([] if row else [shape[-2]]), *([] if column else [shape[-1]])))
    return product


def rows(n: Site, zero: Operand, x: Value) -> Value:
    """A zero point of the left operand as i32: a scalar, or a column with one entry per row."""
    assert zero is not None
    value = n.cast(zero, i32)
    if value.type.size == 1:
        return n.reshape(value, ())
    return n.reshape(value, (*value.shape, 1)) if value.type.rank == 1 else value


@onnx_op("MatMulInteger")
def matmul_integer(n: Site, a: Tensor, b: Tensor, a_zero: Operand = None, b_zero: Operand = None) -> Value:
    return integer_matmul(n, a, b, a_zero, b_zero)


def integer_conv(n: Site, x: Tensor, w: Tensor, x_zero: Operand, w_zero: Operand) -> Value:
    """The i32 convolution of quantized operands less their zero points; what lies outside x counts as its zero point."""
    w, w_zero = signed_weights(n, w, w_zero, 0)
    if w.value.is_const:
        x, x_zero = unsigned_activations(n, x, x_zero)
    attrs = conv_attributes(n, x, w)
    zero = n.constant(x_zero) if x_zero is not None else np.zeros(1, np.uint8)
    if zero is not None and zero.size == 1 and is_zero(n, w_zero):
        offset = int(zero.reshape(()))
        value = x.value
        if offset:
            pads: Pads = attrs["pads"]  # type: ignore[assignment]
            low: tuple[Dim, ...] = (0, 0, *(p[0] for p in pads))
            high: tuple[Dim, ...] = (0, 0, *(p[1] for p in pads))
            if any(p != 0 for p in (*low, *high)):
                value = n.apply("pad", value, low=low, high=high, mode="constant", value=float(offset))
            attrs["pads"] = ((0, 0),) * len(pads)
        y = n.apply("conv", value, w, **attrs)
        if not offset:
            return y
        sums = n.apply("reduce_sum", n.cast(w, i32), axes=tuple(range(1, w.rank)), keepdims=False)
        correction = n.apply("mul", sums, n.const(offset, i32))
        return n.apply("sub", y, n.reshape(correction, (*sums.shape, *(1,) * (x.rank - 2))))
    wide = n.cast(x, i32)
    if x_zero is not None:
        wide = n.apply("sub", wide, n.reshape(n.cast(x_zero, i32), ()))
    weights = n.cast(w, i32)
    if w_zero is not None:
        weights = n.apply("sub", weights, aligned(n, n.cast(w_zero, i32), w, 0))
    return n.apply("conv", wide, weights, **attrs)


@onnx_op("ConvInteger")
def conv_integer(n: Site, x: Tensor, w: Tensor, x_zero: Operand = None, w_zero: Operand = None) -> Value:
    return integer_conv(n, x, w, x_zero, w_zero)


def requantized(n: Site, total: Value, scale: Value, y_scale: Tensor, y_zero: Tensor) -> Value:
    """An i32 result times its scale, quantized again."""
    real = n.apply("mul", n.cast(total, f32), scale)
    check_parameters(n, y_scale, y_zero, y_zero.dtype)
    if y_zero.dtype.bits > 8:
        raise QuantError(f"the zero point is of {y_zero.dtype}; results of {n.op} have 8 bits")
    out_scale = n.reshape(n.cast(y_scale, f32), ()) if y_scale.type.size == 1 else n.cast(y_scale, f32)
    out_zero = n.reshape(y_zero, ()) if y_zero.type.size == 1 else y_zero.value
    return n.apply("quantize", real, out_scale, out_zero, to=y_zero.dtype)


@onnx_op("QLinearMatMul")
def qlinear_matmul(n: Site, *operands: Tensor) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = operands
    check_parameters(n, a_scale, a_zero, a.dtype)
    check_parameters(n, b_scale, b_zero, b.dtype)
    total = integer_matmul(n, a, b, a_zero, b_zero)
    left = n.cast(a_scale, f32)
    if left.type.size == 1:
        left = n.reshape(left, ())
    elif left.type.rank == 1:
        left = n.reshape(left, (*left.shape, 1))
    right = n.cast(b_scale, f32)
    scale = n.apply("mul", left, n.reshape(right, ()) if right.type.size == 1 else right)
    return requantized(n, total, scale, y_scale, y_zero)


@onnx_op("QLinearConv")
def qlinear_conv(n: Site, *operands: Operand) -> Value:
    if len(operands) not in (8, 9) or any(o is None for o in operands[:8]):
        raise ModelError("it takes eight or nine inputs")
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = required(operands[:8])
    check_parameters(n, x_scale, x_zero, x.dtype)
    check_parameters(n, w_scale, w_zero, w.dtype)
    total = integer_conv(n, x, w, x_zero, w_zero)
    channels: Sequence[Dim] = (w.shape[0], *(1,) * (x.rank - 2))
    if len(operands) == 9 and operands[8] is not None:
        total = n.apply("add", total, n.reshape(operands[8], channels))
    per_channel = n.reshape(n.cast(w_scale, f32), () if w_scale.type.size == 1 else channels)
    scale = n.apply("mul", n.reshape(n.cast(x_scale, f32), ()), per_channel)
    return requantized(n, total, scale, y_scale, y_zero)


def required(operands: Sequence[Operand]) -> list[Tensor]:
    """Operands of which none may be absent."""
    given = [o for o in operands if o is not None]
    if len(given) != len(operands):
        raise ModelError("one of its inputs is missing")
    return given
