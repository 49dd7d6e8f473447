"""Layout: convolutions compute channels last, the order in which their reads and writes are contiguous.

Every convolution gets a transpose on its input and one on its result; `transposes.py` then sinks the latter through all that
follows until it meets the former of the next convolution, so that a chain of convolutions, pools, activations, sums and
concatenations keeps a transpose at the model's inputs and outputs only.  Weights stay [O, C/groups, *kernel].
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.ops.registry import apply_node
from .transposes import transposed


def layout(graph: Graph) -> Graph:
    """The graph with every convolution in channels-last layout between transposes."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node.op != "conv" or node.attrs.get("layout", "channels_first") == "channels_last":
            return None
        x, w = inputs
        rank = x.type.rank
        last = transposed(x, (0, *range(2, rank), 1), node.loc)
        result = apply_node("conv", (last, w), {**node.attrs, "layout": "channels_last"}, node.loc).outputs[0]
        return transposed(result, (0, rank - 1, *range(1, rank - 1)), node.loc)

    return rewrite(graph, rule)
