"""ViT-Tiny (Dosovitskiy et al., 2020; Touvron et al., 2020): patches of an image through a pre-norm transformer."""

from __future__ import annotations

import math

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value
from .layers import Weights, feed_forward, layer_norm, linear, self_attention, split


def patches(w: Weights, image: Value, patch: int, dim: int) -> Value:
    """f32[batch,3,h,w] -> f32[batch,cells,dim], by a convolution whose stride is its kernel."""
    weight = w.normal(dim, 3, patch, patch, std=1 / math.sqrt(3 * patch * patch))
    grid = ops.conv(
        image,
        weight,
        strides=(patch, patch),
        pads=((0, 0), (0, 0)),
        dilations=(1, 1),
        groups=1,
        layout="channels_first",
        out=None,
    )
    grid = ops.add(grid, w.normal(dim, 1, 1, std=0.02))
    batch, _, height, width = grid.shape
    return ops.transpose(ops.reshape(grid, shape=(batch, dim, height * width)), perm=(0, 2, 1))


def vit_tiny(size: int = 224, patch: int = 16, dim: int = 192, layers: int = 12, heads: int = 3) -> Graph:
    """image f32[batch,3,size,size] -> logits f32[batch,1000]."""

    def vit_tiny(image: Value) -> dict[str, Value]:
        w = Weights(16)
        x = patches(w, image, patch, dim)
        batch = x.shape[0]
        token = ops.broadcast_to(w.normal(1, 1, dim, std=0.5), shape=(batch, 1, dim))
        x = ops.concat(token, x, axis=1)
        x = ops.add(x, w.normal(1, (size // patch) ** 2 + 1, dim, std=0.5))
        for _ in range(layers):
            x = ops.add(x, self_attention(w, layer_norm(w, x, epsilon=1e-6), heads))
            x = ops.add(x, feed_forward(w, layer_norm(w, x, epsilon=1e-6), 4 * dim))
        first, _ = split(layer_norm(w, x, epsilon=1e-6), (1, (size // patch) ** 2), axis=1)
        return {"logits": linear(w, ops.reshape(first, shape=(batch, dim)), 1000)}

    return trace(vit_tiny, spec("f32", ("batch", 3, size, size)))
