"""One model for every way a kernel can be lowered, over a batch of any size, with sizes that leave tails everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import octavo
from octavo import ops
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.types import dtype_of

Function = Callable[..., Any]


@dataclass(frozen=True)
class Template:
    """`fn` over inputs of these shapes, each after a leading axis `n`."""

    name: str
    fn: Function
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "f32"

    def graph(self) -> Graph:
        xs = [input_value(f"x{k}", octavo.spec(self.dtype, ("n", *shape))) for k, shape in enumerate(self.shapes)]
        result = self.fn(*xs)
        return Graph(self.name, tuple(xs), result if isinstance(result, tuple) else (result,))

    def arrays(self, batch: int, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [_random(rng, self.dtype, (batch, *shape)) for shape in self.shapes]


def templates() -> Iterator[Template]:
    """All of them."""
    yield Template("map", lambda x: ops.tanh(x * 1.25 + 0.5), ((77, 131),))
    yield Template("map_f16", lambda x: ops.exp(x) + x, ((77, 131),), "f16")
    yield Template("map_strided", lambda x: ops.relu(ops.transpose(x, perm=(0, 2, 1))), ((97, 131),))
    yield Template("map_interleaved", lambda x: ops.transpose(padded(ops.relu(x)), perm=(0, 2, 3, 1)), ((3, 9, 37),))
    yield Template("map_interleaved_short", lambda x: ops.transpose(padded(x), perm=(0, 2, 3, 1)), ((5, 97, 7),))
    yield Template("map_bytes", lambda x: padded(x), ((5, 3, 62),), "u8")
    yield Template("map_concat", lambda x, y: ops.concat(ops.neg(x), ops.abs(y), axis=2), ((37, 61), (37, 90)))
    yield Template(
        "map_pad", lambda x: ops.pad(ops.sigmoid(x), low=(0, 3, 1), high=(0, 0, 5), mode="constant", value=-1.0), ((70, 131),)
    )
    yield Template("map_pad_vectors", lambda x: ops.pad(x, low=(0, 1, 41), high=(0, 1, 9), mode="constant", value=2.0), ((37, 21),))
    yield Template("softmax", lambda x: ops.softmax(x, axis=2), ((13, 777),))
    yield Template("softmax_outer", lambda x: ops.softmax(x, axis=1), ((37, 131),))
    yield Template("softmax_f64", lambda x: ops.softmax(x, axis=2), ((7, 333),), "f64")
    yield Template("layer_norm", lambda x: ops.layer_norm(x, weight(333), weight(333), axis=2, epsilon=1e-5), ((19, 333),))
    yield Template("reduce", lambda x: ops.reduce_sum(ops.sigmoid(x), axes=(1, 2), keepdims=False), ((41, 131),))
    yield Template("reduce_f16", lambda x: ops.reduce_sum(x, axes=(2,), keepdims=True), ((41, 131),), "f16")
    yield Template("pool_bytes", lambda x: pooled(ops.transpose(x, perm=(0, 2, 3, 1))), ((64, 9, 7),), "u8")
    yield Template("argmax", lambda x: ops.argmax(x, axes=(2,), keepdims=False), ((41, 131),))
    yield Template("max_pool", lambda x: ops.max_pool(x, **pool(3, 2)), ((19, 23, 21),))
    yield Template("avg_pool", lambda x: ops.avg_pool(x, **pool(3, 1), count_include_pad=False), ((19, 23, 21),))
    yield Template("global_pool", ops.global_avg_pool, ((67, 23, 21),))
    yield Template("matmul", lambda x: ops.relu(ops.matmul(x, weight(70, 131)) + weight(131)), ((13, 70),))
    yield Template("matmul_f64", lambda x: ops.matmul(x, weight(70, 61, dtype="f64")), ((40, 70),), "f64")
    yield Template("matmul_f16", lambda x: ops.matmul(x, weight(70, 61, dtype="f16")), ((40, 70),), "f16")
    yield Template("matmul_i8", lambda x: ops.matmul(x, weight(75, 61, dtype="i8")), ((40, 75),), "i8")
    yield Template("matmul_u8", lambda x: requantized(ops.matmul(x, weight(72, 61, dtype="i8"))), ((40, 72),), "u8")
    yield Template(
        "matmul_u8_wide",
        lambda x: requantized(ops.matmul(x, weight(72, 231, dtype="i8")) + weight(231, dtype="i32")),
        ((40, 72),),
        "u8",
    )
    yield Template("matmul_u8_padded", lambda x: ops.matmul(x, weight(75, 61, dtype="i8")), ((40, 75),), "u8")
    yield Template("matmul_u8_deep", lambda x: requantized(ops.matmul(x, weight(4096, 33, dtype="i8"))), ((41, 4096),), "u8")
    yield Template("matmul_rows", lambda x: ops.matmul(x, weight(300, 517)), ((300,),))
    yield Template("matmul_deep", lambda x: ops.matmul(x, weight(1536, 67)), ((5, 1536),))
    yield Template("matmul_deep_wide", lambda x: ops.matmul(x, weight(1024, 301)), ((40, 1024),))
    yield Template("matmul_deep_odd", lambda x: ops.matmul(x, weight(1031, 33)), ((41, 1031),))
    yield Template("matmul_prologue", lambda x: ops.matmul(ops.transpose(x, perm=(0, 2, 1)), weight(70, 131)), ((70, 13),))
    yield Template("attention", attention, ((3, 23, 17), (3, 23, 17), (3, 23, 17)))
    yield Template("attention_long", attention, ((3, 61, 17), (3, 333, 17), (3, 333, 70)))
    yield Template("attention_f16", attention, ((2, 23, 17), (2, 170, 17), (2, 170, 19)), "f16")
    yield Template("attention_grouped", lambda q, k, v: ops.attention(q, k, v, causal=True), ((6, 23, 17), (2, 23, 17), (2, 23, 9)))
    yield Template("conv", lambda x: ops.relu(ops.conv(x, weight(37, 19, 3, 2), **conv())), ((19, 15, 13),))
    yield Template("conv_winograd", lambda x: ops.relu(ops.conv(x, weight(37, 19, 3, 3), **conv())), ((19, 15, 13),))
    yield Template("conv_winograd_small", lambda x: ops.conv(x, weight(70, 67, 3, 3), **conv()), ((67, 2, 6),))
    yield Template("conv_strided", lambda x: ops.conv(x, weight(33, 3, 7, 7), **conv(2, 3)), ((3, 31, 29),))
    yield Template("conv_pointwise", lambda x: ops.conv(x, weight(67, 35, 1, 1), **conv(pad=0)), ((35, 13, 11),))
    yield Template("conv_staged", lambda x: ops.conv(x, weight(260, 1024, 1, 1), **conv(pad=0)), ((1024, 3, 5),))
    yield Template("conv_grouped", lambda x: ops.conv(x, weight(24, 7, 3, 3), **conv(groups=3)), ((21, 13, 11),))
    yield Template("conv_dilated", lambda x: ops.conv(x, weight(17, 5, 3, 3), **conv(pad=2, dilation=2)), ((5, 17, 15),))
    yield Template("conv_depthwise", lambda x: ops.silu(ops.conv(x, weight(37, 1, 3, 3), **conv(groups=37))), ((37, 15, 13),))
    yield Template("conv_depthwise_strided", lambda x: ops.conv(x, weight(37, 1, 5, 5), **conv(2, 2, groups=37)), ((37, 15, 13),))
    yield Template("conv_u8_few_channels", lambda x: ops.conv(x, weight(33, 3, 3, 3, dtype="i8"), **conv()), ((3, 13, 9),), "u8")
    yield Template("conv_u8", lambda x: requantized(ops.conv(x, weight(37, 19, 3, 2, dtype="i8"), **conv())), ((19, 15, 13),), "u8")
    yield Template("conv_i8_strided", lambda x: ops.conv(x, weight(33, 3, 7, 7, dtype="i8"), **conv(2, 3)), ((3, 31, 29),), "i8")
    yield Template("conv_u8_grouped", lambda x: ops.conv(x, weight(24, 8, 3, 3, dtype="i8"), **conv(groups=3)), ((24, 13, 11),), "u8")
    yield Template(
        "conv_u8_depthwise",
        lambda x: requantized(ops.conv(x, weight(37, 1, 3, 3, dtype="i8"), **conv(groups=37))),
        ((37, 15, 13),),
        "u8",
    )
    yield Template(
        "conv_u8_depthwise_windows",
        lambda x: requantized(ops.conv(x, weight(150, 1, 3, 3, dtype="i8"), **conv(groups=150)) + weight(150, 1, 1, dtype="i32")),
        ((150, 9, 13),),
        "u8",
    )
    yield Template("conv_transpose", transposed, ((19, 9, 11),))
    yield Template("conv_1d", lambda x: ops.conv(x, weight(33, 19, 5), strides=(1,), pads=((2, 2),), dilations=(1,)), ((19, 301),))
    yield Template("lstm", recurrent, ((20, 21),))
    yield Template("cumsum", lambda x: ops.cumsum(x, axis=2, exclusive=False, reverse=False), ((41, 131),))
    yield Template("topk", lambda x: ops.topk(x, k=5, axis=2, largest=True, sorted=True), ((41, 131),))
    yield Template("tile", lambda x: ops.tile(x, repeats=(1, 2, 3)), ((41, 131),))


def weight(*shape: int, dtype: str = "f32") -> Value:
    """A constant operand, the same each time."""
    return const_value(_random(np.random.default_rng(shape), dtype, shape))


def requantized(sums: Value) -> Value:
    """Bytes of i32 sums, as quantized models store them."""
    scaled = ops.relu(ops.cast(sums, to=dtype_of("f32")) * 0.00721)
    return ops.quantize(scaled, const_value(np.float32(1)), const_value(np.uint8(7)), to=dtype_of("u8"))


def pool(kernel: int, stride: int) -> dict[str, Any]:
    return {"kernel": (kernel, kernel), "strides": (stride, stride), "pads": ((1, 1), (1, 0)), "dilations": (1, 1)}


def conv(stride: int = 1, pad: int = 1, dilation: int = 1, groups: int = 1) -> dict[str, Any]:
    square = {"strides": (stride, stride), "pads": ((pad, pad), (pad, pad)), "dilations": (dilation, dilation)}
    return {**square, "groups": groups, "layout": "channels_first"}


def padded(x: Value) -> Value:
    """One place more on each side of the two last axes."""
    return ops.pad(x, low=(0, 0, 1, 1), high=(0, 0, 1, 1), mode="constant", value=3.0)


def pooled(x: Value) -> Value:
    """The largest of each 3 x 3 places, channels last."""
    places = {"kernel": (3, 3), "strides": (2, 2), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    return ops.reduce_max(ops.window(x, axes=(1, 2), fill=0.0, **places), axes=(4, 5), keepdims=False)


def attention(q: Value, k: Value, v: Value) -> Value:
    scores = ops.matmul(q, ops.transpose(k, perm=(0, 1, 3, 2))) * 0.25
    return ops.matmul(ops.softmax(scores, axis=3), v)


def transposed(x: Value) -> Value:
    square = {"strides": (2, 2), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1, "output_padding": (1, 1)}
    return ops.conv_transpose(x, weight(19, 13, 3, 3), **square)


def recurrent(x: Value) -> tuple[Value, ...]:
    """Batch first."""
    hidden, features = 99, x.shape[2]
    state = ops.broadcast_to(weight(1, 1, hidden), shape=(x.shape[0], 1, hidden))
    w, r, bias = weight(1, 4 * hidden, features), weight(1, 4 * hidden, hidden), weight(1, 8 * hidden)
    return ops.lstm(x, w, r, bias, state, state, layout=1)


def _random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype in ("i8", "u8"):
        return rng.integers(-128, 128, shape).astype(np.int8).view(dtype_of(dtype).np)
    if dtype == "i32":
        return rng.integers(-1000, 1000, shape, np.int32)
    return rng.standard_normal(shape).astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[dtype])
