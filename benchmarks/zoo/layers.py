"""The layers that the zoo's models are written with: each draws its weights and returns a value.

Weights are random but scaled by fan-in, so that activations neither die nor explode over any depth and an output can be
compared with another runtime's.  A model draws from one generator in the order of its layers: the same seed, the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...ir import ops
from ...ir.dims import Dim
from ...ir.graph import Value, const_value

Activation = Callable[[Value], Value]


class Weights:
    """A stream of random f32 parameters."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int, std: float) -> Value:
        return const_value(self._rng.standard_normal(shape, np.float32) * np.float32(std))

    def uniform(self, *shape: int, low: float, high: float) -> Value:
        return const_value(self._rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low))


def channels(x: Value, axis: int = 1) -> int:
    """The static size of an axis that holds channels or features."""
    size = x.shape[axis]
    assert isinstance(size, int)
    return size


def linear(w: Weights, x: Value, features: int, *, gain: float = 1.0, bias: bool = True) -> Value:
    """x @ W + b over the last axis."""
    fan_in = channels(x, -1)
    y = ops.matmul(x, w.normal(fan_in, features, std=gain / math.sqrt(fan_in)))
    return ops.add(y, w.normal(features, std=0.02)) if bias else y


def conv(
    w: Weights, x: Value, features: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = True, gain: float = 1.4
) -> Value:
    """A square convolution, padded so that stride 1 keeps the size."""
    fan_in = channels(x) // groups * kernel * kernel
    weight = w.normal(features, channels(x) // groups, kernel, kernel, std=gain / math.sqrt(fan_in))
    pad = (kernel // 2, kernel // 2)
    y = ops.conv(
        x, weight, strides=(stride, stride), pads=(pad, pad), dilations=(1, 1), groups=groups, layout="channels_first", out=None
    )
    return ops.add(y, w.normal(features, 1, 1, std=0.02)) if bias else y


def batch_norm(w: Weights, x: Value, *, scale: float = 1.0) -> Value:
    """Inference-time batch normalisation with running statistics near mean 0 and variance 1."""
    c = channels(x)
    return ops.batch_norm(
        x,
        w.uniform(c, low=0.8 * scale, high=1.2 * scale),
        w.normal(c, std=0.1),
        w.normal(c, std=0.1),
        w.uniform(c, low=0.8, high=1.2),
        epsilon=1e-5,
    )


def conv_bn(
    w: Weights,
    x: Value,
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    scale: float = 1.0,
    activation: Activation | None = None,
) -> Value:
    """Convolution, batch normalisation, activation: the block of every network here that looks at images."""
    y = batch_norm(w, conv(w, x, features, kernel, stride=stride, groups=groups, bias=False), scale=scale)
    return activation(y) if activation else y


def relu6(x: Value) -> Value:
    return ops.clip(x, 0.0, 6.0)


def max_pool(x: Value, kernel: int, stride: int) -> Value:
    pad = (kernel // 2, kernel // 2)
    return ops.max_pool(x, kernel=(kernel, kernel), strides=(stride, stride), pads=(pad, pad), dilations=(1, 1))


def spatial_mean(x: Value) -> Value:
    """f32[batch,c,h,w] -> f32[batch,c]."""
    return ops.mean(x, axes=(2, 3), keepdims=False)


def layer_norm(w: Weights, x: Value, *, epsilon: float = 1e-5) -> Value:
    """Layer normalisation over the last axis."""
    c = channels(x, -1)
    return ops.layer_norm(x, w.uniform(c, low=0.8, high=1.2), w.normal(c, std=0.05), axis=x.type.rank - 1, epsilon=epsilon)


def embedding(w: Weights, ids: Value, rows: int, features: int) -> Value:
    """Row `id` of a table, for every id."""
    return ops.gather(w.normal(rows, features, std=0.5), ids, axis=0)


def split(x: Value, sizes: tuple[int, ...], axis: int) -> tuple[Value, ...]:
    """Consecutive parts of an axis."""
    parts: list[Value] = []
    start = 0
    for size in sizes:
        starts: list[Dim] = [0] * x.type.rank
        stops: list[Dim] = list(x.shape)
        starts[axis], stops[axis] = start, start + size
        parts.append(ops.slice(x, starts=tuple(starts), stops=tuple(stops), steps=(1,) * x.type.rank))
        start += size
    return tuple(parts)


def self_attention(w: Weights, x: Value, heads: int, *, mask: Value | None = None) -> Value:
    """Multi-head self-attention written out as exporters do: matmul, scale, mask, softmax, matmul among reshapes.

    `mask` is added to the scores, f32 broadcastable to [batch, heads, sequence, sequence].
    """
    batch, sequence, dim = x.shape[0], x.shape[1], channels(x, -1)

    def head_major(y: Value, perm: tuple[int, ...]) -> Value:
        return ops.transpose(ops.reshape(y, shape=(batch, sequence, heads, dim // heads)), perm=perm)

    q = head_major(linear(w, x, dim), (0, 2, 1, 3))
    k = head_major(linear(w, x, dim), (0, 2, 3, 1))
    v = head_major(linear(w, x, dim), (0, 2, 1, 3))
    scores = ops.matmul(q, k) * (1 / math.sqrt(dim // heads))
    if mask is not None:
        scores = ops.add(scores, mask)
    mixed = ops.matmul(ops.softmax(scores, axis=3), v)
    merged = ops.reshape(ops.transpose(mixed, perm=(0, 2, 1, 3)), shape=(batch, sequence, dim))
    return linear(w, merged, dim)


def feed_forward(w: Weights, x: Value, features: int, *, approximate: str = "none") -> Value:
    """Two linear layers around GELU."""
    hidden = ops.gelu(linear(w, x, features), approximate=approximate)
    return linear(w, hidden, channels(x, -1), gain=1.4)
