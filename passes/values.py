"""What patterns ask about values: is it a uniform constant, which axes count, how many read it; and constants like others."""

from __future__ import annotations

import math

import numpy as np

from ..ir.graph import Graph, Node, Value, const_value
from ..ir.types import DType


def uniform(v: Value) -> float | int | bool | None:
    """The one value that all elements of a constant have, or None."""
    if not v.is_const or v.array.size == 0 or v.dtype.kind not in "fiub":
        return None
    array = v.array
    first = array[(0,) * array.ndim]
    if array.size > 1 and not (array == first).all():
        return None
    return bool(first) if v.dtype.kind == "b" else float(first) if v.dtype.is_float else int(first)


def is_uniform(v: Value, expected: float) -> bool:
    """Whether v is a constant with that value everywhere."""
    return v.is_const and uniform(v) == expected


def is_power_of_two(x: float) -> bool:
    """Whether dividing by x is the same as multiplying by 1 / x in every float type."""
    return math.isfinite(x) and x != 0 and abs(math.frexp(x)[0]) == 0.5 and 2**-14 <= abs(x) <= 2**14


def scalar(x: float, dtype: DType, loc: str = "") -> Value:
    """A constant of rank 0."""
    return const_value(np.asarray(x).astype(dtype.np), loc, dtype)


def swapped(operands: tuple[Value, ...]) -> tuple[tuple[Value, Value], ...]:
    """Both orders of a commutative op's operands."""
    a, b = operands
    return ((a, b), (b, a))


def use_counts(graph: Graph) -> dict[Node, int]:
    """node -> how often its values are read, by nodes, as outputs and as next values of variables."""
    counts = dict.fromkeys(graph.nodes, 0)
    for node in graph.nodes:
        for v in node.inputs:
            counts[v.node] += 1
    for v in graph.roots:
        counts[v.node] += 1
    return counts
