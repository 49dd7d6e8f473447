"""SmoothQuant: what is hard to quantize in the operand of a matmul moves into its weights.

    norm(x; gain, offset) . W   ->   norm(x; gain / s, offset / s) . (s W)          s = max|operand|^a / max|W|^(1 - a), by channel

A few channels of a transformer's normalised values are far larger than all others, and one scale for all wastes its steps on them; the
weights have room for them.  G. Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large language models",
ICML 2023.  The factors go into the gain and offset of the norm, so that nothing is computed in addition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value, const_value
from ...ir.ops.registry import apply_node
from .weights import weights_of

NORMS = frozenset(("layer_norm", "rms_norm"))
LEAST = 1e-5  # of a factor


def smoothing(
    graph: Graph, chosen: Collection[Node], channel_max: Callable[[Value], tuple[float, ...]], strength: float
) -> dict[Value, np.ndarray]:
    """Results of norms that only chosen matmuls read -> the factor s of each channel (f64).

    channel_max: the largest magnitudes that a value had; strength: the exponent a, from 0 (all stays as it is hard to quantize in the
    operand) to 1 (all of it moves).
    """
    factors: dict[Value, np.ndarray] = {}
    for node in graph.nodes:
        readers = graph.users[node]
        last = node.types[0].rank - 1
        if node.op not in NORMS or node.attrs["axis"] != last or not readers or node in {v.node for v in graph.roots}:
            continue
        if not all(v.is_const and v.shape == node.types[0].shape[-1:] for v in node.inputs[1:]):
            continue
        value = node.outputs[0]
        largest = np.array(channel_max(value), np.float64)
        if largest.size == 0 or not all(r in chosen and r.op == "matmul" and r.inputs[0] == value for r in readers):
            continue
        arrays = [a for r in readers if (a := weights_of(r.inputs[1])) is not None and a.ndim == 2]
        if len(arrays) < len(readers):
            continue
        weights = np.max([np.abs(a.astype(np.float64)).max(axis=1) for a in arrays], axis=0)
        factors[value] = np.maximum(np.maximum(largest, LEAST) ** strength / np.maximum(weights, LEAST) ** (1 - strength), LEAST)
    return factors


def smoothed(norm: Node, inputs: tuple[Value, ...], factors: np.ndarray) -> Value:
    """The norm with its gain and offset divided."""
    affine = [const_value(Constant((v.array / factors).astype(v.array.dtype), v.dtype), v.node.loc) for v in inputs[1:]]
    return apply_node(norm.op, (inputs[0], *affine), norm.attrs, norm.loc).outputs[0]
