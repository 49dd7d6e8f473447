"""Neural-network operators: products, convolutions, pools, normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, ceildiv, floordiv
from ...ir.errors import ModelError, ShapeError
from ...ir.graph import Value
from ...ir.types import f32
from .registry import Operand, Site, Tensor, onnx_op
from .symbolic import largest, smallest

Pads = tuple[tuple[Dim, Dim], ...]


# products


def matrix_product(n: Site, a: Tensor | Value, b: Tensor | Value) -> Value:
    """MatMul as NumPy does it: a vector operand is a row on the left, a column on the right, and leaves no axis behind."""
    x, y = (v.value if isinstance(v, Tensor) else v for v in (a, b))
    if not x.type.rank or not y.type.rank:
        raise ShapeError("a scalar cannot be multiplied as a matrix")
    row, column = x.type.rank == 1, y.type.rank == 1
    x = n.reshape(x, (1, *x.shape)) if row else x
    y = n.reshape(y, (*y.shape, 1)) if column else y
    product = n.apply("matmul", x, y)
    shape = product.shape
    if row or column:
        return n.reshape(product, (*shape[:-2], *([] if row else [shape[-2]]), *([] if column else [shape[-1]])))
    return product


@onnx_op("MatMul")
def matmul(n: Site, a: Tensor, b: Tensor) -> Value:
    return matrix_product(n, a, b)


@onnx_op("Gemm")
def gemm(n: Site, a: Tensor, b: Tensor, c: Operand = None) -> Value:
    x = n.transpose(a, (1, 0)) if n.integer("transA") else a.value
    y = n.transpose(b, (1, 0)) if n.integer("transB") else b.value
    product = n.apply("matmul", x, y)
    alpha, beta = n.number("alpha", 1.0), n.number("beta", 1.0)
    if alpha != 1.0:
        product = n.apply("mul", product, n.scalar(alpha, product))
    if c is None or beta == 0.0:
        return product
    bias = c.value if beta == 1.0 else n.apply("mul", c, n.scalar(beta, product))
    return n.apply("add", product, bias)


@onnx_op("Einsum")
def einsum(n: Site, *operands: Tensor) -> Value:
    return n.apply("einsum", *operands, equation=n.text("equation").replace(" ", ""))


# convolutions


def spatial(n: Site, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """An attribute with one entry for each spatial axis.  Raises ModelError for another number of them."""
    values = n.integers(name) or (default,) * rank
    if len(values) != rank:
        raise ModelError(f"attribute {name} has {len(values)} entries for {rank} spatial axes")
    return values


def padding(n: Site, sizes: Sequence[Dim], kernel: Sequence[Dim], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """The padding of each spatial axis, by `pads` or by `auto_pad`."""
    rank, mode = len(sizes), n.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = n.integers("pads") or (0,) * (2 * rank)
        if len(pads) != 2 * rank:
            raise ModelError(f"attribute pads has {len(pads)} entries for {rank} spatial axes")
        return tuple((pads[k], pads[k + rank]) for k in range(rank))
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"auto_pad {mode!r} does not exist")
    result: list[tuple[Dim, Dim]] = []
    for d, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = largest((ceildiv(d, stride) - 1) * stride + dilation * (k - 1) + 1 - d, 0)
        half = floordiv(total, 2)
        result.append((half, total - half) if mode == "SAME_UPPER" else (total - half, half))
    return tuple(result)


def add_bias(n: Site, y: Value, bias: Operand) -> Value:
    """Add one number to each channel (axis 1)."""
    if bias is None:
        return y
    return n.apply("add", y, n.reshape(bias, (*bias.shape, *(1,) * (y.type.rank - 2))))


def conv_attributes(n: Site, x: Tensor | Value, w: Tensor | Value) -> dict[str, object]:
    rank = len(x.shape) - 2
    if rank < 1 or len(w.shape) != rank + 2:
        raise ShapeError("the input and the weights need the same rank, at least 3")
    strides, dilations = spatial(n, "strides", rank), spatial(n, "dilations", rank)
    pads = padding(n, x.shape[2:], w.shape[2:], strides, dilations)
    if any(s < 1 for s in (*strides, *dilations)):
        raise ModelError("strides and dilations must be at least 1")
    return {"strides": strides, "pads": pads, "dilations": dilations, "groups": n.integer("group", 1)}


def trimmed(n: Site, x: Tensor | Value, pads: Pads) -> tuple[Value, Pads]:
    """Negative padding turned into slices."""
    value = x.value if isinstance(x, Tensor) else x
    if all(not isinstance(p, int) or p >= 0 for pair in pads for p in pair):
        return value, pads
    for k, (low, high) in enumerate(pads, 2):
        value = n.slice_axis(value, k, -smallest(low, 0), value.shape[k] + smallest(high, 0))
    return value, tuple((largest(low, 0), largest(high, 0)) for low, high in pads)


@onnx_op("Conv")
def conv(n: Site, x: Tensor, w: Tensor, bias: Operand = None) -> Value:
    attrs = conv_attributes(n, x, w)
    value, attrs["pads"] = trimmed(n, x, attrs["pads"])  # type: ignore[arg-type]
    return add_bias(n, n.apply("conv", value, w, **attrs), bias)


@onnx_op("ConvTranspose")
def conv_transpose(n: Site, x: Tensor, w: Tensor, bias: Operand = None) -> Value:
    rank = x.rank - 2
    strides, dilations = spatial(n, "strides", rank), spatial(n, "dilations", rank)
    extra = list(spatial(n, "output_padding", rank, 0))
    kernel = w.shape[2:]
    given = n.integers("output_shape")
    mode = n.text("auto_pad", "NOTSET")
    full = [s * (d - 1) + t * (k - 1) + 1 for s, d, t, k in zip(strides, x.shape[2:], dilations, kernel, strict=True)]
    pads: list[tuple[Dim, Dim]] = []
    if given is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = given[-rank:] if given is not None else [s * d for s, d in zip(strides, x.shape[2:], strict=True)]
        for k in range(rank):
            total = full[k] + extra[k] - wanted[k]
            if isinstance(total, int) and total < 0:
                extra[k], total = extra[k] - total, 0
            half = floordiv(total, 2)
            pads.append((total - half, half) if mode == "SAME_LOWER" else (half, total - half))
    else:
        pads = list(padding(n, x.shape[2:], kernel, strides, dilations))
    y = n.apply(
        "conv_transpose", x, w, strides=strides, pads=tuple(pads), dilations=dilations, groups=n.integer("group", 1),
        output_padding=tuple(extra),
    )  # fmt: skip
    return add_bias(n, y, bias)


# pools


def pool_attributes(n: Site, x: Tensor) -> dict[str, object]:
    """Kernel, strides, dilations and pads; ceil_mode becomes padding at the end, floor mode needs none."""
    rank = x.rank - 2
    kernel = n.integers("kernel_shape")
    if kernel is None or len(kernel) != rank or rank < 1:
        raise ModelError(f"kernel_shape must have one entry for each spatial axis of {x.type}")
    strides, dilations = spatial(n, "strides", rank), spatial(n, "dilations", rank)
    if any(s < 1 for s in (*strides, *dilations, *kernel)):
        raise ModelError("kernel_shape, strides and dilations must be at least 1")
    pads = list(padding(n, x.shape[2:], kernel, strides, dilations))
    extra: list[Dim] = [0] * rank
    if n.integer("ceil_mode") and n.text("auto_pad", "NOTSET") in ("NOTSET", ""):
        for k, (low, high) in enumerate(pads):
            d, reach = x.shape[2 + k], dilations[k] * (kernel[k] - 1) + 1
            count = ceildiv(d + low + high - reach, strides[k]) + 1
            count = smallest(count, ceildiv(d + low, strides[k]))  # the last window starts inside the input or its left padding
            pads[k] = (low, largest((count - 1) * strides[k] + reach - d - low, high))
            extra[k] = pads[k][1] - high
    return {"kernel": kernel, "strides": strides, "pads": tuple(pads), "dilations": dilations, "uncounted": tuple(extra)}


def uncounted(attrs: dict[str, object]) -> None:
    """Drop what only an average needs to know: how much of each pad was added to round the size up."""
    del attrs["uncounted"]


@onnx_op("MaxPool")
def max_pool(n: Site, x: Tensor) -> Value | tuple[Value, ...]:
    attrs = pool_attributes(n, x)
    uncounted(attrs)
    pooled = n.apply("max_pool", x, **attrs)
    return (pooled, n.apply("max_pool_indices", x, **attrs, column_major=bool(n.integer("storage_order")))) if n.wants(1) else pooled


@onnx_op("AveragePool")
def average_pool(n: Site, x: Tensor) -> Value:
    attrs = pool_attributes(n, x)
    include = bool(n.integer("count_include_pad"))
    return n.apply("avg_pool", x, **attrs, count_include_pad=include)


@onnx_op("LpPool")
def lp_pool(n: Site, x: Tensor) -> Value:
    attrs = pool_attributes(n, x)
    uncounted(attrs)
    return n.apply("lp_pool", x, **attrs, p=n.integer("p", 2))


@onnx_op("GlobalAveragePool")
def global_average_pool(n: Site, x: Tensor) -> Value:
    return n.apply("global_avg_pool", x)


@onnx_op("GlobalMaxPool")
def global_max_pool(n: Site, x: Tensor) -> Value:
    return n.apply("global_max_pool", x)


@onnx_op("GlobalLpPool")
def global_lp_pool(n: Site, x: Tensor) -> Value:
    return n.apply("global_lp_pool", x, p=n.integer("p", 2))


# normalisations


@onnx_op("BatchNormalization")
def batch_normalization(
    n: Site, x: Tensor, scale: Tensor, bias: Tensor, average: Tensor, variance: Tensor
) -> Value | tuple[Value, ...]:
    epsilon = n.number("epsilon", 1e-5)
    if n.integer("training_mode"):
        axes = tuple(k for k in range(x.rank) if k != 1)
        wide = [n.cast(v, f32) if v.dtype.bits < 32 else v.value for v in (x, average, variance)]
        seen = n.apply("mean", wide[0], axes=axes, keepdims=True)
        centred = n.apply("sub", wide[0], seen)
        spread = n.apply("mean", n.apply("mul", centred, centred), axes=axes, keepdims=True)
        flat_mean, flat_variance = (n.reshape(v, average.shape) for v in (seen, spread))
        seen_now = (n.cast(flat_mean, average.dtype), n.cast(flat_variance, variance.dtype))
        y = n.apply("batch_norm", x, scale, bias, *seen_now, epsilon=epsilon)
        momentum = n.number("momentum", 0.9)

        def running(old: Value, new: Value, like: Tensor) -> Value:
            kept = n.apply("mul", old, n.scalar(momentum, old))
            return n.cast(n.apply("add", kept, n.apply("mul", new, n.scalar(1 - momentum, new))), like.dtype)

        return y, running(wide[1], flat_mean, average), running(wide[2], flat_variance, variance)
    same = [n.cast(v, x.dtype) for v in (scale, bias, average, variance)]
    return n.apply("batch_norm", x, *same, epsilon=epsilon)


@onnx_op("InstanceNormalization")
def instance_normalization(n: Site, x: Tensor, scale: Tensor, bias: Tensor) -> Value:
    return n.apply("instance_norm", x, scale, bias, epsilon=n.number("epsilon", 1e-5))


@onnx_op("GroupNormalization", since=21)
def group_normalization(n: Site, x: Tensor, scale: Tensor, bias: Tensor) -> Value:
    return n.apply("group_norm", x, scale, bias, groups=n.integer("num_groups"), epsilon=n.number("epsilon", 1e-5))


@onnx_op("GroupNormalization")
def group_normalization_by_group(n: Site, x: Tensor, scale: Tensor, bias: Tensor) -> Value:
    """Before opset 21 scale and bias have an entry for each group, not for each channel."""
    groups = n.integer("num_groups")
    each = floordiv(x.shape[1], groups)
    per_channel = [n.reshape(n.broadcast(n.reshape(v, (groups, 1)), (groups, each)), (x.shape[1],)) for v in (scale, bias)]
    return n.apply("group_norm", x, *per_channel, groups=groups, epsilon=n.number("epsilon", 1e-5))


@onnx_op("LayerNormalization")
def layer_normalization(n: Site, x: Tensor, scale: Tensor, bias: Operand = None) -> Value | tuple[Value, ...]:
    axis, epsilon = n.axis(x.rank, -1), n.number("epsilon", 1e-5)
    operands = [v for v in (x, scale, bias) if v is not None]
    y = n.apply("layer_norm", *operands, axis=axis, epsilon=epsilon)
    if not n.wants(1) and not n.wants(2):
        return y
    axes = tuple(range(axis, x.rank))
    wide = n.cast(x, f32) if x.dtype.bits < 32 else x.value
    average = n.apply("mean", wide, axes=axes, keepdims=True)
    centred = n.apply("sub", wide, average)
    variance = n.apply("mean", n.apply("mul", centred, centred), axes=axes, keepdims=True)
    inverse = n.apply("reciprocal", n.apply("sqrt", n.apply("add", variance, n.scalar(epsilon, variance))))
    return y, average, inverse


@onnx_op("RMSNormalization")
def rms_normalization(n: Site, x: Tensor, scale: Tensor) -> Value:
    return n.apply("rms_norm", x, scale, axis=n.axis(x.rank, -1), epsilon=n.number("epsilon", 1e-5))


@onnx_op("LRN")
def lrn(n: Site, x: Tensor) -> Value:
    size = n.integer("size")
    if size < 1:
        raise ModelError("size must be at least 1")
    alpha, beta, bias = n.number("alpha", 1e-4), n.number("beta", 0.75), n.number("bias", 1.0)
    return n.apply("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)
