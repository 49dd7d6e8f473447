"""Constants that a sub-graph captures become constants of the sub-graph, where folding and packing see them."""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value, const_value, inline, rewrite


def inline_constant_captures(graph: Graph) -> Graph:
    """scan, loop and if_ nodes without operands that are constant captures."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        bodies = {k: a for k, a in node.attrs.items() if isinstance(a, Graph)}
        first = _first_capture(node)
        if not bodies or first is None:
            return None
        constant = [k for k in range(first, len(inputs)) if inputs[k].is_const]
        if not constant:
            return None
        attrs = dict(node.attrs)
        if "captures" in attrs:
            attrs["captures"] -= len(constant)
        for name, body in bodies.items():
            shift = len(body.inputs) - len(inputs)  # body inputs and operands correspond from the end
            fixed = {k + shift for k in constant}
            arguments = [const_value(inputs[k - shift].node.attrs["value"]) if k in fixed else v for k, v in enumerate(body.inputs)]
            kept = tuple(v for k, v in enumerate(body.inputs) if k not in fixed)
            attrs[name] = Graph(body.name, kept, inline(body, arguments), body.output_names)
        kept_inputs = tuple(v for k, v in enumerate(inputs) if k not in constant)
        return Node(node.op, kept_inputs, attrs, node.types, node.loc).outputs

    return rewrite(graph, rule)


def _first_capture(node: Node) -> int | None:
    """Where the captures of a control-flow node start among its operands, or None for other nodes."""
    if node.op == "scan":
        return len(node.inputs) - node.attrs.get("captures", 0)
    if node.op == "if_":
        return 1
    if node.op == "loop":
        return 2 + len(node.types)
    return None
