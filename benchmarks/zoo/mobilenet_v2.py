"""MobileNetV2 (Sandler et al., 2018): inverted residuals of 1x1, depthwise 3x3 and 1x1 convolutions with relu6."""

from __future__ import annotations

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value
from .layers import Weights, channels, conv_bn, linear, relu6, spatial_mean

# expansion, output channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def inverted_residual(w: Weights, x: Value, expansion: int, features: int, stride: int) -> Value:
    hidden = channels(x) * expansion
    y = x if expansion == 1 else conv_bn(w, x, hidden, 1, activation=relu6)
    y = conv_bn(w, y, hidden, 3, stride=stride, groups=hidden, activation=relu6)
    y = conv_bn(w, y, features, 1)
    return ops.add(x, y) if stride == 1 and channels(x) == features else y


def mobilenet_v2(size: int = 224, stages: tuple[tuple[int, int, int, int], ...] = STAGES, head: int = 1280) -> Graph:
    """image f32[batch,3,size,size] -> logits f32[batch,1000]."""

    def mobilenet_v2(image: Value) -> dict[str, Value]:
        w = Weights(2)
        x = conv_bn(w, image, 32, 3, stride=2, activation=relu6)
        for expansion, features, count, stride in stages:
            for k in range(count):
                x = inverted_residual(w, x, expansion, features, stride if k == 0 else 1)
        x = conv_bn(w, x, head, 1, activation=relu6)
        return {"logits": linear(w, spatial_mean(x), 1000)}

    return trace(mobilenet_v2, spec("f32", ("batch", 3, size, size)))
