"""Operators of com.microsoft that onnxruntime's optimizer and quantizer leave in files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.errors import ModelError, UnsupportedOp
from ...ir.graph import Value
from ...ir.types import f32, i4, u4, u8
from .ops_attention import heads_of, joined_heads
from .ops_nn import conv, gemm, layer_normalization, matrix_product, rms_normalization
from .ops_quant import aligned, check_parameters, dynamically_quantized, integer_matmul, quantized
from .registry import Operand, Site, Tensor, onnx_op

MS = "com.microsoft"
ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard_swish"}


def activated(n: Site, y: Value) -> Value:
    """The activation that a fused operator names."""
    name = n.text("activation")
    parameters = n.attr("activation_params") or ()
    if not name:
        return y
    if name == "LeakyRelu":
        return n.apply("leaky_relu", y, alpha=parameters[0] if parameters else 0.01)
    if name == "Clip" and len(parameters) == 2:
        return n.apply("clip", y, n.scalar(parameters[0], y), n.scalar(parameters[1], y))
    if name == "HardSigmoid" and len(parameters) == 2:
        return n.apply("hard_sigmoid", y, alpha=parameters[0], beta=parameters[1])
    if name not in ACTIVATIONS:
        raise UnsupportedOp(f"the activation {name} is not supported")
    return n.apply(ACTIVATIONS[name], y)


# products and activations


@onnx_op("FusedConv", domain=MS)
def fused_conv(n: Site, x: Tensor, w: Tensor, bias: Operand = None, z: Operand = None) -> Value:
    y = conv(n, x, w, bias)
    return activated(n, n.apply("add", y, z) if z is not None else y)


@onnx_op("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(n: Site, a: Tensor, b: Tensor) -> Value:
    if n.integer("transBatchA") or n.integer("transBatchB"):
        raise UnsupportedOp("transposed batches are not supported")
    x = swapped(n, a) if n.integer("transA") else a.value
    y = swapped(n, b) if n.integer("transB") else b.value
    product = matrix_product(n, x, y)
    alpha = n.number("alpha", 1.0)
    return product if alpha == 1.0 else n.apply("mul", product, n.scalar(alpha, product))


def swapped(n: Site, x: Tensor) -> Value:
    """The last two axes exchanged."""
    return n.transpose(x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))


@onnx_op("FusedGemm", domain=MS)
def fused_gemm(n: Site, a: Tensor, b: Tensor, c: Operand = None) -> Value:
    return activated(n, gemm(n, a, b, c))


@onnx_op("Gelu", "BiasGelu", domain=MS)
def gelu(n: Site, x: Tensor, bias: Operand = None) -> Value:
    return n.apply("gelu", n.apply("add", x, bias) if bias is not None else x, approximate="none")


@onnx_op("FastGelu", domain=MS)
def fast_gelu(n: Site, x: Tensor, bias: Operand = None) -> Value:
    return n.apply("gelu", n.apply("add", x, bias) if bias is not None else x, approximate="tanh")


@onnx_op("QuickGelu", domain=MS)
def quick_gelu(n: Site, x: Tensor) -> Value:
    alpha = n.scalar(n.number("alpha", 1.702), x)
    return n.apply("mul", x, n.apply("sigmoid", n.apply("mul", x, alpha)))


# normalisations


@onnx_op("LayerNormalization", domain=MS)
def layer_norm(n: Site, x: Tensor, scale: Tensor, bias: Operand = None) -> Any:
    return layer_normalization(n, x, scale, bias)


@onnx_op("SimplifiedLayerNormalization", domain=MS)
@onnx_op("SimplifiedLayerNormalization")
def simplified_layer_norm(n: Site, x: Tensor, scale: Tensor) -> Value:
    return rms_normalization(n, x, scale)


@onnx_op("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def skip_layer_norm(n: Site, x: Tensor, skip: Tensor, scale: Tensor, *rest: Operand) -> tuple[Any, ...]:
    simplified = n.op == "SkipSimplifiedLayerNormalization"
    offset, bias = (None, *rest)[:2] if simplified else (*rest, None, None)[:2]
    total = n.apply("add", x, skip)
    if bias is not None:
        total = n.apply("add", total, bias)
    attrs = {"axis": x.rank - 1, "epsilon": n.number("epsilon", 1e-12 if not simplified else 1e-5)}
    if simplified:
        y = n.apply("rms_norm", total, scale, **attrs)
    else:
        y = n.apply("layer_norm", total, scale, *([offset] if offset is not None else []), **attrs)
    return y, None, None, total


# attention


def attended(n: Site, q: Value, k: Value, v: Value, bias: Value | None, causal: bool) -> Value:
    """softmax(q k^T * scale + bias) v over heads, joined again to [batch, sequence, heads * size]."""
    size = q.shape[3]
    scale = n.number("scale") or (1 / math.sqrt(size) if isinstance(size, int) else 1.0)
    operands = (q, k, v) if bias is None else (q, k, v, bias)
    return joined_heads(n, n.apply("attention", *operands, scale=scale, causal=causal))


def padding_bias(n: Site, mask: Operand, like: Value) -> Value | None:
    """The addend for a mask [batch, keys] of ones where a key counts."""
    if mask is None:
        return None
    if mask.rank != 2:
        raise UnsupportedOp(f"a mask of {mask.type} is not supported; use one entry for each key")
    bias = n.apply("where", n.apply("ne", mask, n.scalar(0, mask)), n.scalar(0, like), n.scalar(-10000.0, like))
    return n.reshape(bias, (mask.shape[0], 1, 1, mask.shape[1]))


@onnx_op("Attention", domain=MS)
def attention(n: Site, x: Tensor, w: Tensor, b: Operand = None, mask: Operand = None, past: Operand = None, *rest: Operand) -> Value:
    if past is not None or any(r is not None for r in rest) or n.wants(1):
        raise UnsupportedOp("past keys, values and biases are not supported")
    heads = n.integer("num_heads")
    joint = matrix_product(n, x, w)
    joint = n.apply("add", joint, b) if b is not None else joint
    widths = n.integers("qkv_hidden_sizes") or (joint.shape[2] // 3,) * 3
    parts, start = [], 0
    for width in widths:
        parts.append(heads_of(n, n.slice_axis(joint, 2, start, start + width), heads))
        start = start + width
    q, k, v = parts
    return attended(n, q, k, v, padding_bias(n, mask, joint), bool(n.integer("unidirectional")))


@onnx_op("MultiHeadAttention", domain=MS)
def multi_head_attention(
    n: Site, q: Tensor, k: Operand = None, v: Operand = None, b: Operand = None, mask: Operand = None, bias: Operand = None,
    *rest: Operand,
) -> Value:  # fmt: skip
    if k is None or v is None or q.rank != 3 or k.rank != 3 or v.rank != 3 or any(r is not None for r in rest) or n.wants(1):
        raise UnsupportedOp("packed operands, past keys and values are not supported")
    heads, operands = n.integer("num_heads"), [q.value, k.value, v.value]
    if b is not None:
        start = 0
        for j, x in enumerate(operands):
            operands[j] = n.apply("add", x, n.slice_axis(b, 0, start, start + x.shape[2]))
            start = start + x.shape[2]
    added = padding_bias(n, mask, operands[0])
    if bias is not None:
        added = bias.value if added is None else n.apply("add", added, bias)
    x, y, z = (heads_of(n, operand, heads) for operand in operands)
    return attended(n, x, y, z, added, bool(n.integer("unidirectional")))


# quantized operators


@onnx_op("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(n: Site, a: Tensor, b: Tensor, scale: Tensor, zero: Operand = None, bias: Operand = None) -> Value:
    q, a_scale, a_zero = dynamically_quantized(n, a.value)
    total = integer_matmul(n, Tensor(q), b, Tensor(a_zero), zero)
    return rescaled(n, total, a_scale, scale, bias)


@onnx_op("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(
    n: Site,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Operand = None,
    b_zero: Operand = None,
    bias: Operand = None,
) -> Value:
    return rescaled(n, integer_matmul(n, a, b, a_zero, b_zero), n.reshape(a_scale, ()), b_scale, bias)


def rescaled(n: Site, total: Value, a_scale: Value, b_scale: Tensor, bias: Operand) -> Value:
    columns = n.reshape(b_scale, ()) if b_scale.type.size == 1 else b_scale.value
    y = n.apply("mul", n.cast(total, f32), n.apply("mul", a_scale, columns))
    return n.apply("add", y, bias) if bias is not None else y


def dequantized(n: Site, q: Tensor, scale: Tensor, zero: Operand) -> Value:
    check_parameters(n, scale, zero, q.dtype)
    offset = aligned(n, zero if zero is not None else n.const(0, q.dtype), q, 0)
    return n.apply("dequantize", q, aligned(n, scale, q, 0), offset)


def requantize(n: Site, y: Value, scale: Tensor, zero: Operand) -> Value:
    check_parameters(n, scale, zero, zero.dtype if zero is not None else u8)
    offset = n.reshape(zero, ()) if zero is not None else n.const(0, u8)
    return quantized(n, y, n.reshape(scale, ()), offset, offset.dtype)


@onnx_op("QLinearAdd", "QLinearMul", domain=MS)
def qlinear_binary(n: Site, a: Tensor, a_scale: Tensor, a_zero: Operand, b: Tensor, b_scale: Tensor, b_zero: Operand,
                   y_scale: Tensor, y_zero: Operand = None) -> Value:  # fmt: skip
    op = "add" if n.op == "QLinearAdd" else "mul"
    return requantize(n, n.apply(op, dequantized(n, a, a_scale, a_zero), dequantized(n, b, b_scale, b_zero)), y_scale, y_zero)


@onnx_op("QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool", domain=MS)
def qlinear_unary(n: Site, x: Tensor, scale: Tensor, zero: Operand, y_scale: Tensor, y_zero: Operand = None) -> Value:
    real = dequantized(n, x, scale, zero)
    if n.op == "QLinearSigmoid":
        y = n.apply("sigmoid", real)
    elif n.op == "QLinearLeakyRelu":
        y = n.apply("leaky_relu", real, alpha=n.number("alpha", 0.01))
    elif n.integer("channels_last"):
        raise UnsupportedOp("channels_last is not supported")
    else:
        y = n.apply("global_avg_pool", real)
    return requantize(n, y, y_scale, y_zero)


@onnx_op("QLinearConcat", domain=MS)
def qlinear_concat(n: Site, y_scale: Tensor, y_zero: Tensor, *triples: Tensor) -> Value:
    if len(triples) % 3:
        raise ModelError("it takes a tensor, a scale and a zero point for each part")
    parts = [dequantized(n, *triples[k : k + 3]) for k in range(0, len(triples), 3)]
    return requantize(n, n.concat(parts, n.axis(parts[0].type.rank)), y_scale, y_zero)


@onnx_op("MatMulNBits", domain=MS)
def matmul_n_bits(
    n: Site, a: Tensor, b: Tensor, scales: Tensor, zeros: Operand = None, groups: Operand = None, bias: Operand = None
) -> Value:
    """Weights of 4 bits in blocks along K: unpacked while importing, dequantized in the graph; i4 where there are no zero points."""
    bits, block, k, columns = (n.integer(name, default) for name, default in (("bits", 4), ("block_size", 32), ("K", 0), ("N", 0)))
    if bits != 4 or groups is not None:
        raise UnsupportedOp("only 4 bits without reordered groups are supported")
    packed = n.known(b, "the weights").reshape(columns, -1)
    blocks = -(-k // block)
    low_high = np.stack([packed & 15, packed >> 4], axis=-1).reshape(columns, blocks * block)
    nibbles = low_high.reshape(columns, blocks, block)
    if zeros is None:
        q, offset = n.const((nibbles.astype(np.int8) - 8).astype(i4.np)), n.const(0, i4)
    else:
        raw = n.known(zeros, "the zero points").reshape(columns, -1)
        if raw.dtype != np.uint8:
            raise UnsupportedOp("zero points must be packed as uint8")
        offsets = np.stack([raw & 15, raw >> 4], axis=-1).reshape(columns, -1)[:, :blocks, None]
        q, offset = n.const(nibbles.astype(u4.np)), n.const(offsets.astype(u4.np))
    w = n.apply("dequantize", q, n.reshape(scales, (columns, blocks, 1)), offset)
    w = n.reshape(w, (columns, blocks * block))
    w = w if blocks * block == k else n.slice_axis(w, 1, 0, k)
    y = matrix_product(n, a, n.transpose(w, (1, 0)))
    return n.apply("add", y, bias) if bias is not None else y
