"""ResNet-50 (He et al., 2015; the v1.5 variant, stride in the 3x3): bottlenecks of conv, batch_norm, relu and a residual."""

from __future__ import annotations

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value
from .layers import Weights, channels, conv_bn, linear, max_pool, spatial_mean


def bottleneck(w: Weights, x: Value, width: int, stride: int) -> Value:
    out = 4 * width
    y = conv_bn(w, x, width, 1, activation=ops.relu)
    y = conv_bn(w, y, width, 3, stride=stride, activation=ops.relu)
    y = conv_bn(w, y, out, 1, scale=0.5)
    shortcut = x if stride == 1 and channels(x) == out else conv_bn(w, x, out, 1, stride=stride)
    return ops.relu(ops.add(y, shortcut))


def resnet50(size: int = 224, width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> Graph:
    """image f32[batch,3,size,size] -> logits f32[batch,classes]."""

    def resnet50(image: Value) -> dict[str, Value]:
        w = Weights(50)
        x = conv_bn(w, image, width, 7, stride=2, activation=ops.relu)
        x = max_pool(x, 3, 2)
        for stage, count in enumerate(blocks):
            for k in range(count):
                x = bottleneck(w, x, width << stage, stride=2 if stage > 0 and k == 0 else 1)
        return {"logits": linear(w, spatial_mean(x), classes)}

    return trace(resnet50, spec("f32", ("batch", 3, size, size)))
