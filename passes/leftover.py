"""Quantizations that are left over: values made bytes and floats again, between which nothing is gained but an error of rounding.

A quantize is of use where integer arithmetic or an output takes its bytes, where they are moved as bytes, where it ends the epilogue of
integer sums, or where what is computed of the dequantized floats ends in such a quantize or meets integer sums.
"""

from __future__ import annotations

import warnings

from ..ir.errors import QuantWarning
from ..ir.graph import Graph, Node
from ..ir.ops.registry import op_def
from ..ir.types import i32

CONTRACTIONS = ("conv", "matmul")  # those of dequantized operands have a warning of their own


def warn_of_leftovers(graph: Graph) -> None:
    """Name all pairs of quantize and dequantize that are left over in one QuantWarning; graph: after the integer arithmetic."""
    pairs = _leftovers(graph)
    if not pairs:
        return
    named = ", ".join(f"{_name(q)} -> {_name(d)}" for q, d in pairs)
    many = len(pairs) > 1
    text = (
        f"{len(pairs)} pair{'s' if many else ''} of quantize and dequantize {'are' if many else 'is'} left over, because nothing "
        f"computes with the integers between the two: {named}; the rounding costs time and accuracy: quantize what reads the values "
        "too, or leave these pairs out of the model"
    )
    warnings.warn(text, QuantWarning, stacklevel=2)


def _name(node: Node) -> str:
    return f"{node.op} at {node.loc}" if node.loc else repr(node)


def _leftovers(graph: Graph) -> list[tuple[Node, Node]]:
    """(quantize, dequantize) of each pair, in the order of the graph."""
    readers: dict[Node, list[Node]] = {n: [] for n in graph.nodes}
    for node in graph.nodes:
        for v in node.inputs:
            readers[v.node].append(node)
    roots = {v.node for v in graph.roots}
    sums: set[Node] = set()  # what is computed element by element of integer sums, in their epilogue
    for node in graph.nodes:
        if node.op == "dequantize":
            source = node.inputs[0]
            if source.dtype is i32 and not source.is_const:
                sums.add(node)
        elif node.op != "quantize" and _pointwise(node) and any(v.node in sums for v in node.inputs):
            sums.add(node)
    useful: set[Node] = set()  # nodes whose results have a use as integers, or floats that come to have one
    for node in reversed(graph.nodes):
        if node.op == "quantize":
            if node in roots or node.inputs[0].node in sums or any(r in useful for r in readers[node]):
                useful.add(node)
        elif node.op in CONTRACTIONS and node.types[0].dtype.is_float:
            continue  # nothing before it can become integers
        elif node in sums or any(r in useful for r in readers[node]):
            useful.add(node)
        elif node.op == "dequantize":
            if any(r.op in CONTRACTIONS for r in readers[node]):
                useful.add(node)
        elif any(v.dtype.is_int and not v.is_const for v in node.inputs) and (node.op != "reshape" or node in roots):
            useful.add(node)
    found = []
    for node in graph.nodes:
        if node.op != "dequantize" or node in useful:
            continue
        source = node.inputs[0].node
        while source.op == "reshape":
            source = source.inputs[0].node
        if source.op == "quantize" and source not in useful:
            found.append((source, node))
    return found


def _pointwise(node: Node) -> bool:
    return op_def(node.op).kind == "pointwise"
