"""The verifier: is this graph what the rest of the compiler may take for granted?

It re-infers every node's types from its operands and attributes, and checks the names of ops, the kinds of attribute values,
the leaves, the interface and the updates, in sub-graphs too.  It does not look at values.  A failure names the node, where it
came from, what was found and what was expected, and shows the text around it.

The manager runs it after every pass; nodes are immutable, so one that was found sound once stays sound: hand the same `known`
set to every call and each node is checked once.
"""

from __future__ import annotations

from typing import Any

from .dims import DimExpr
from .errors import ModelError, OctavoError, VerifyError
from .graph import Constant, Graph, Node, Value
from .ops.registry import OPS
from .text import excerpt
from .types import DType, TensorType

_PLAIN = (
    bool,
    int,
    float,
    str,
    type(None),
)  # exactly these: a subclass such as np.float64 prints and compares as something else
_STRUCTURED = (DType, DimExpr, Constant, Graph)
_LEAF_ATTRS = {"input": {"name": str}, "const": {"value": Constant}, "variable": {"name": str, "init": Constant}}


def verify(graph: Graph, known: set[Node] | None = None) -> None:
    """Raises VerifyError for the first broken rule.  `known` (nodes found sound before) is used and extended."""
    known = set() if known is None else known
    pending = [graph]
    while pending:
        pending += _verify_level(pending.pop(), known)


def _verify_level(graph: Graph, known: set[Node]) -> list[Graph]:
    """Check one graph; the sub-graphs of its new nodes are returned."""
    try:
        nodes = graph.nodes
    except ModelError as e:
        raise VerifyError(f"graph {graph.name}: {e}") from None
    _verify_interface(graph, nodes)
    nested: list[Graph] = []
    for node in nodes:
        if node in known:
            continue
        problem = _node_problem(node)
        if problem:
            raise VerifyError(_report(graph, node, problem))
        nested += [v for v in node.attrs.values() if isinstance(v, Graph)]
        known.add(node)
    return nested


def _verify_interface(graph: Graph, nodes: tuple[Node, ...]) -> None:
    listed = set()
    for v in graph.inputs:
        if v.node.op != "input" or v.index:
            raise VerifyError(_report(graph, v.node, "is listed as a graph input but is not an input"))
        if v.node in listed:
            raise VerifyError(_report(graph, v.node, "is listed as a graph input twice"))
        listed.add(v.node)
    names: set[str] = set()
    for node in nodes:
        if node.op == "input" and node not in listed:
            raise VerifyError(_report(graph, node, f"input {node.attrs.get('name')!r} is used but not listed as a graph input"))
        if node.op == "variable":
            name = node.attrs.get("name")
            if name in names:
                raise VerifyError(_report(graph, node, f"a second variable is named {name!r}"))
            names.add(str(name))
    for variable, after in graph.updates.items():
        if variable.node.op != "variable":
            raise VerifyError(_report(graph, variable.node, "is updated but is not a variable"))
        if variable.type != after.type:
            raise VerifyError(_report(graph, after.node, f"a variable of type {variable.type} cannot become {after.type}"))
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        if not 0 <= v.index < len(v.node.types):
            raise VerifyError(_report(graph, v.node, f"output {name!r} is result {v.index} of {len(v.node.types)}"))


def _node_problem(node: Node) -> str:
    """What is wrong with a node, or an empty string."""
    for k, v in enumerate(node.inputs):
        if not isinstance(v, Value) or not 0 <= v.index < len(v.node.types):
            return f"operand {k} is not a result of any node: {v!r}"
    for t in node.types:
        if not isinstance(t, TensorType):
            return f"a result has the type {t!r}, which is not a TensorType"
        if any(isinstance(d, int) and d < 0 for d in t.shape):
            return f"a result has a negative size: {t}"
    for name, value in node.attrs.items():
        bad = _bad_attribute(value)
        if bad is not None:
            return f"the attribute {name} holds a {type(bad).__name__}, which attributes may not: {bad!r}"
    if node.op in _LEAF_ATTRS:
        return _leaf_problem(node)
    if node.op not in OPS:
        return "there is no such op"
    try:
        expected = tuple(OPS[node.op].infer(tuple(v.type for v in node.inputs), **node.attrs))
    except Exception as e:  # inference takes the kinds of attributes for granted
        return f"its types cannot be inferred: {e}"
    if expected != node.types:
        return f"has types ({_types(node.types)}) where ({_types(expected)}) follow from operands and attributes"
    return ""


def _leaf_problem(node: Node) -> str:
    expected = _LEAF_ATTRS[node.op]
    if node.inputs or len(node.types) != 1:
        return "a leaf has no operands and one result"
    if set(node.attrs) != set(expected) or any(not isinstance(node.attrs[k], t) for k, t in expected.items()):
        return f"needs the attributes {', '.join(f'{k}: {t.__name__}' for k, t in expected.items())}"
    for value in node.attrs.values():
        if isinstance(value, Constant) and value.type != node.types[0]:
            return f"has the type {node.types[0]} but holds {value.type}"
    return ""


def _bad_attribute(value: Any) -> Any | None:
    """The first part of a value that no attribute may hold, or None."""
    if isinstance(value, tuple):
        return next((bad for item in value if (bad := _bad_attribute(item)) is not None), None)
    return None if type(value) in _PLAIN or isinstance(value, _STRUCTURED) else value


def _types(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))


def _report(graph: Graph, node: Node, problem: str) -> str:
    where = f" at {node.loc}" if node.loc else ""
    operands = ", ".join(str(v.type) if 0 <= v.index < len(v.node.types) else "?" for v in node.inputs if isinstance(v, Value))
    head = f"graph {graph.name}: {node.op}({operands}){where}: {problem}"
    try:
        shown = excerpt(graph, node)
    except (OctavoError, AttributeError, IndexError, KeyError, TypeError):  # the broken part may be what cannot be printed
        shown = ""
    return f"{head}\n{shown}" if shown else head
