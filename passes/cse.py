"""Common subexpressions: nodes with the same op, operands and attributes become one node.

Constants are compared by contents, and hashed only when another has the same type and the same first elements: hashing every
weight would cost more than all other passes.  Inputs and variables are never merged.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..ir.graph import Constant, Graph, Node, Value, rewrite

_SAMPLE = 16  # elements that a first comparison of constants looks at


def cse(graph: Graph) -> Graph:
    """One node for each distinct computation; the first in topological order stands for all and keeps its loc."""
    seen: dict[Hashable, Node] = {}
    constants: dict[Hashable, list[Node]] = {}

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op == "const":
            return _same_constant(node, constants)
        if node.op in ("input", "variable"):
            return None
        key = (node.op, tuple((id(v.node), v.index) for v in inputs), attributes_key(node), node.types)
        found = seen.get(key)
        if found is None:
            found = seen[key] = node if inputs == node.inputs else node.with_inputs(inputs)
        return None if found is node else found.outputs

    return rewrite(graph, rule)


def _same_constant(node: Node, constants: dict[Hashable, list[Node]]) -> tuple[Value, ...] | None:
    value: Constant = node.attrs["value"]
    alike = constants.setdefault((node.types[0], _sample(value.array)), [])
    for other in alike:
        if other.attrs["value"] == value:
            return other.outputs
    alike.append(node)
    return None


def _sample(array: np.ndarray) -> Hashable:
    first = np.asarray(array[tuple(slice(0, 1) for _ in array.shape[:-1])]).reshape(-1)[:_SAMPLE]
    return repr(first.tolist()) if array.dtype == object else first.tobytes()


def attributes_key(node: Node) -> Hashable:
    """Equal for nodes with the same attributes."""
    return tuple((name, _exact(node.attrs[name])) for name in sorted(node.attrs))


def _exact(value: Any) -> Hashable:
    """A key that tells 1, 1.0 and True apart, and 0.0 from -0.0; equal NaNs are equal."""
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    return (type(value), repr(value)) if isinstance(value, float) else (type(value), value)
