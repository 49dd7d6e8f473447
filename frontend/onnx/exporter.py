"""Graph -> ONNX model: names and symbols kept, each op as the ONNX operator that means the same where there is one.

Composites without one are expanded.  The rules, one for each op, are in `export_ops.py`; the model is for opset 21, so that
other runtimes read it.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ...ir.errors import UnsupportedOp
from ...ir.graph import Graph
from . import export_ops as _export_ops  # noqa: F401  (registers the rules)
from .writer import Writer, exportable, value_info

OPSET = 21


def export_model(graph: Graph) -> onnx.ModelProto:
    """The graph as an ONNX model.  Raises UnsupportedOp for what ONNX cannot say (updates of variables, some dtypes)."""
    if graph.updates:
        raise UnsupportedOp(f"graph {graph.name} updates variables, which an ONNX model cannot; export a graph without updates")
    graph = exportable(graph)
    writer = Writer()
    infos = []
    writer.names.taken.update(graph.output_names)
    for name, value in zip(graph.input_names, graph.inputs, strict=True):
        writer.names.taken.add(name)
        writer.values[value] = name
        writer.define(name, value.type)
        infos.append(value_info(name, value.type))
    clash = set(graph.input_names) & set(graph.output_names)
    if clash:
        raise UnsupportedOp(f"graph {graph.name}: an input and an output are both named {min(clash)!r}; rename one")
    writer.run(graph)
    proto = writer.finish(graph, graph.name or "graph", infos, graph.output_names)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="octavo")
    model.ir_version = 10
    return model
