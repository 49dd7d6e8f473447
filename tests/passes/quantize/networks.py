"""Small networks that the tests of quantization share."""

from __future__ import annotations

import numpy as np
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type


class Builder:
    """Layers with random weights."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def conv(self, x: Value, channels: int, kernel: int = 3, stride: int = 1, groups: int = 1, loc: str = "") -> Value:
        inputs = int(str(x.shape[1]))
        w = self.rng.standard_normal((channels, inputs // groups, kernel, kernel)) / np.sqrt(kernel**2 * inputs / groups)
        pads = ((kernel // 2, kernel // 2),) * 2
        attrs = {"strides": (stride, stride), "pads": pads, "dilations": (1, 1), "groups": groups}
        y = apply("conv", x, const_value(w.astype(np.float32)), loc=loc, **attrs)
        return apply("add", y, const_value(self.rng.standard_normal((channels, 1, 1)).astype(np.float32) / 4), loc=loc)

    def linear(self, x: Value, n: int, loc: str = "") -> Value:
        k = int(str(x.shape[-1]))
        w = (self.rng.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
        y = apply("matmul", x, const_value(w), loc=loc)
        return apply("add", y, const_value(self.rng.standard_normal(n).astype(np.float32) / 4), loc=loc)


def residual_network() -> Graph:
    """Two convolutions with a residual around the second, a pool and a classifier."""
    b = Builder()
    x = input_value("x", parse_type("f32[n,3,16,16]"))
    first = apply("relu", b.conv(x, 8, loc="first"))
    second = apply("relu", apply("add", b.conv(first, 8, loc="second"), first))
    window = {"kernel": (2, 2), "strides": (2, 2), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)}
    third = apply("relu", b.conv(apply("max_pool", second, **window), 8, loc="third"))
    pooled = apply("reshape", apply("global_avg_pool", third), shape=(x.shape[0], 8))
    return Graph("residual", (x,), (b.linear(pooled, 5, loc="head"),))


def separable_network(spread: int) -> Graph:
    """Depthwise and pointwise convolutions, whose channels differ by factors up to 4**spread that the next weights make up for."""
    b = Builder(3)
    x = input_value("x", parse_type("f32[n,3,16,16]"))
    v, factors = x, np.ones(3)
    for channels, kernel, groups in ((16, 3, 1), *((16, 3, 16), (16, 1, 1)) * 3, (4, 1, 1)):
        add = b.conv(v, channels, kernel, groups=groups).node
        conv = add.inputs[0].node
        after = np.exp2(b.rng.integers(-spread, spread + 1, channels)) if channels == 16 else np.ones(channels)
        before = factors.reshape(-1, 1) if groups > 1 else factors
        w = conv.inputs[1].array / before[..., None, None] * after.reshape(-1, 1, 1, 1)
        offset = add.inputs[1].array * after.reshape(-1, 1, 1)
        product = apply("conv", v, const_value(w.astype(np.float32)), **conv.attrs)
        v = apply("add", product, const_value(offset.astype(np.float32)))
        v, factors = (apply("relu", v) if channels == 16 else v), after
    return Graph("separable", (x,), (v,))


def transformer() -> Graph:
    """Two residual blocks of a layer norm and two matmuls."""
    b = Builder(1)
    x = input_value("x", parse_type("f32[n,7,16]"))
    stream = x
    for block in ("one", "two"):
        gain, offset = (const_value(b.rng.standard_normal(16).astype(np.float32)) for _ in range(2))
        normal = apply("layer_norm", stream, gain, offset, axis=2)
        inner = apply("gelu", b.linear(normal, 32, loc=f"{block}/up"))
        stream = apply("add", stream, b.linear(inner, 16, loc=f"{block}/down"))
    return Graph("transformer", (x,), (stream,))


def images(n: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, 3, 16, 16)).astype(np.float32)} for _ in range(n)]


def rows(n: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, 7, 16)).astype(np.float32)} for _ in range(n)]
