"""Small graphs, one for each way in which a kernel is spread over a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type


def given(name: str, text: str) -> Value:
    """An input of a type such as `f32[n,3]`."""
    return input_value(name, parse_type(text))


def weight(*shape: int, dtype: str = "float32") -> Value:
    """A constant of standard normal values."""
    return const_value(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype))


def _graph(*outputs: Value, inputs: tuple[Value, ...]) -> Graph:
    return Graph("small", inputs, outputs)


def pointwise() -> Graph:
    x, y = given("x", "f32[n,300]"), given("y", "f32[300]")
    return _graph(apply("relu", apply("add", x, y)), inputs=(x, y))


def joined() -> Graph:
    x, y = given("x", "f32[n,5]"), given("y", "f32[n,9]")
    return _graph(apply("concat", x, y, axis=1), inputs=(x, y))


def softmax(length: Any = 70) -> Graph:
    x = given("x", f"f32[n,{length}]")
    return _graph(apply("softmax", x, axis=1), inputs=(x,))


def normalised() -> Graph:
    x, scale, bias = given("x", "f32[n,70]"), given("scale", "f32[70]"), given("bias", "f32[70]")
    return _graph(apply("layer_norm", x, scale, bias, axis=1, epsilon=1e-5), inputs=(x, scale, bias))


def column_sums() -> Graph:
    x = given("x", "f32[n,7,33]")
    return _graph(apply("reduce_sum", x, axes=(1,), keepdims=False), inputs=(x,))


def largest() -> Graph:
    x = given("x", "f32[n,150]")
    return _graph(apply("argmax", x, axes=(1,), keepdims=True), inputs=(x,))


def matmul(m: Any = "n", k: Any = 37, n: int = 70, dtype: str = "f32") -> Graph:
    x, y = given("x", f"{dtype}[{m},{k}]"), given("y", f"{dtype}[{k},{n}]")
    return _graph(apply("matmul", x, y), inputs=(x, y))


def biased() -> Graph:
    x = given("x", "f32[n,20]")
    y = apply("matmul", x, weight(20, 30))
    return _graph(apply("relu", apply("add", y, weight(30))), inputs=(x,))


def batched() -> Graph:
    x, y = given("x", "f32[n,2,9,20]"), given("y", "f32[n,1,20,17]")
    return _graph(apply("matmul", x, y), inputs=(x, y))


def convolution(groups: int = 1, steps: int = 2, dilation: int = 1, pad: int = 1) -> Graph:
    x = given("x", "f32[n,6,9,11]")
    attrs = {"strides": (steps, steps), "pads": ((pad, pad), (pad, pad)), "dilations": (dilation, dilation)}
    y = apply("conv", x, weight(12, 6 // groups, 3, 3), groups=groups, layout="channels_first", out=None, **attrs)
    return _graph(y, inputs=(x,))


def depthwise() -> Graph:
    x = given("x", "f32[n,9,11,6]")
    attrs = {"strides": (2, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
    return _graph(apply("conv", x, weight(6, 1, 3, 3), groups=6, layout="channels_last", out=None, **attrs), inputs=(x,))


def running_sums() -> Graph:
    x = given("x", "f32[n,7,5]")
    return _graph(apply("cumsum", x, axis=1, exclusive=False, reverse=False), inputs=(x,))


KINDS: dict[str, Callable[[], Graph]] = {
    "map": pointwise,
    "concat": joined,
    "row": normalised,
    "column": column_sums,
    "contract": biased,
    "depthwise": depthwise,
    "opaque": running_sums,
}
