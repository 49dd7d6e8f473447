"""Graph -> ONNX model."""

from __future__ import annotations

import onnx

from ...ir.errors import UnsupportedOp
from ...ir.graph import Graph


def export_model(graph: Graph) -> onnx.ModelProto:
    raise UnsupportedOp(f"{graph.name}: export is not written yet")
