"""The graph that computes how far the values of a quantized graph are from those of the graph in floats, and where that begins.

A *layer* is a quantized contraction with the pointwise ops that alone read it, up to the value that is stored.  Three forms of that
value stand beside each other: in floats; of the whole quantized graph; and of the layer alone, quantized, on operands in floats.  The
second is off by all errors up to there, the third by what the layer adds.

    %4 = relu(conv(%1, w) + b)           f32
    %9 = relu(conv(dq(%6), w8) + b8)     of the whole, %6 being off already
    %7 = relu(conv(dq(%1), w8) + b8)     alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import ops
from ...ir.graph import LEAVES, Graph, Node, Value
from ...ir.ops.operators import cast
from ...ir.ops.registry import OPS
from ...ir.types import f32, f64
from ..values import use_counts
from .quantize import Quantization


@dataclass(frozen=True)
class Layer:
    """A quantized contraction of the prepared graph, the ops that belong to it (itself first), and the value that they end in."""

    contraction: Node
    nodes: tuple[Node, ...]
    result: Value


@dataclass(frozen=True)
class Errors:
    """Where sums of squares (f64[]) stand among the outputs: of a value in floats, of what the whole quantized graph is off from
    it, and of what its layer alone is off (None for an output of the graph)."""

    signal: int
    total: int
    alone: int | None


def layers(q: Quantization) -> list[Layer]:
    """The layers of a quantization in the order of computation."""
    graph, uses = q.before, use_counts(q.before)
    roots = set(graph.roots)

    def layer(contraction: Node) -> Layer:
        nodes = [contraction]
        while True:
            v = nodes[-1].outputs[0]
            if v in q.grids or v in roots or uses[v.node] != 1:
                break
            (reader,) = graph.users[v.node]
            if reader.op not in OPS or OPS[reader.op].kind != "pointwise" or reader.types[0] != v.type:
                break
            nodes.append(reader)
        return Layer(contraction, tuple(nodes), nodes[-1].outputs[0])

    return [layer(n) for n in graph.nodes if n in q.choice.contractions]


def measuring(q: Quantization) -> tuple[Graph, list[Errors], list[Errors]]:
    """A graph whose outputs are sums of squares, and where those of each layer and of each f32 output of the model stand.

    Elements that are not finite in floats (masks have them) do not count.
    """
    outputs: list[Value] = []
    floats = {new: old for old, new in q.images.items()}
    place = {n: k for k, n in enumerate(q.after.nodes)}

    def flat(v: Value) -> Value:
        return ops.reshape(v, shape=(v.type.size,))

    def add(v: Value) -> int:
        outputs.append(ops.reduce_sum(cast(v * v, f64), axes=(0,)))
        return len(outputs) - 1

    def compare(exact: Value, whole: Value, alone: Value | None) -> Errors:
        x = flat(exact)
        finite = ops.lt(ops.abs(x), float("inf"))

        def off(v: Value) -> int:
            return add(ops.where(finite, flat(v) - x, 0.0))

        return Errors(add(ops.where(finite, x, 0.0)), off(whole), None if alone is None else off(alone))

    found = [compare(x.result, q.images[x.result], _alone(q, x, floats, place)) for x in layers(q)]
    ends = [compare(a, b, None) for a, b in zip(q.before.outputs, q.after.outputs, strict=True) if a.dtype is f32]
    names = tuple(f"{k}" for k in range(len(outputs)))
    return Graph(q.before.name, q.before.inputs, tuple(outputs), names, q.before.updates), found, ends


def _alone(q: Quantization, layer: Layer, floats: Mapping[Value, Value], place: Mapping[Node, int]) -> Value:
    """A layer's quantized result on operands in floats.

    floats: values of the quantized graph -> the same in floats; place: of its nodes, in order.
    """
    own = {*layer.nodes, *(v.node for v in layer.contraction.inputs if v in q.factors)}  # a smoothed norm is not what it was
    root = q.images[layer.result]
    found: set[Node] = set()
    read: dict[Value, Value] = {}
    pending = [root]
    while pending:
        v = pending.pop()
        exact = floats.get(v)
        if exact is not None and exact.node not in own:
            read[v] = exact
        elif v.node.op not in LEAVES and v.node not in found:
            found.add(v.node)
            pending += v.node.inputs
    for node in sorted(found, key=lambda n: place[n]):
        copy = node.with_inputs([read.get(v, v) for v in node.inputs])
        read.update(zip(node.outputs, copy.outputs, strict=True))
    return read[root]
