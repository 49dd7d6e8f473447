"""Small models and single operations: MLPs, a 2-layer LSTM, one matmul, one convolution."""

from __future__ import annotations

import math

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value
from .layers import Weights, conv, linear


def mlp(name: str, sizes: tuple[int, ...]) -> Graph:
    """x f32[batch,sizes[0]] -> logits f32[batch,sizes[-1]], relu between the layers."""

    def mlp(x: Value) -> dict[str, Value]:
        w = Weights(784)
        for features in sizes[1:-1]:
            x = ops.relu(linear(w, x, features, gain=1.4))
        return {"logits": linear(w, x, sizes[-1])}

    mlp.__name__ = name
    return trace(mlp, spec("f32", ("batch", sizes[0])))


def lstm(layers: int = 2, dim: int = 256, steps: int = 64) -> Graph:
    """x f32[steps,batch,dim] -> y f32[steps,batch,dim], all hidden states of the last layer."""

    def lstm(x: Value) -> dict[str, Value]:
        w = Weights(256)
        batch = x.shape[1]
        zero = ops.broadcast_to(w.uniform(1, 1, 1, low=0, high=0), shape=(1, batch, dim))
        for _ in range(layers):
            matrices = [w.normal(1, 4 * dim, dim, std=1 / math.sqrt(dim)) for _ in range(2)]
            bias = w.normal(1, 8 * dim, std=0.1)
            hidden, *_ = ops.lstm(x, *matrices, bias, zero, zero)
            x = ops.reshape(hidden, shape=(steps, batch, dim))
        return {"y": x}

    return trace(lstm, spec("f32", (steps, "batch", dim)))


def matmul(size: int = 1024) -> Graph:
    """a @ b, both f32[size,size] given at run time, so that nothing can be packed ahead."""

    def matmul(a: Value, b: Value) -> dict[str, Value]:
        return {"c": ops.matmul(a, b)}

    return trace(matmul, spec("f32", (size, size)), spec("f32", (size, size)))


def conv3x3(channels: int = 64, size: int = 56) -> Graph:
    """x f32[batch,channels,size,size] -> y of the same shape."""

    def conv3x3(x: Value) -> dict[str, Value]:
        return {"y": conv(Weights(3), x, channels, 3)}

    return trace(conv3x3, spec("f32", ("batch", channels, size, size)))
