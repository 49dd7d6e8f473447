"""Small ONNX models for the tests, written in ONNX's own text form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from octavo.frontend.onnx import import_model
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph
from octavo.ir.verify import verify


def model(graph: str, *, opset: int = 21, functions: str = "", domains: str = "") -> onnx.ModelProto:
    """A model from the text of its graph: `(float[n] x) => (float[n] y) { y = Relu(x) }`."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}{domains}]> g {graph} {functions}'
    return onnx.parser.parse_model(text)


def imported(graph: str, *, opset: int = 21, **options: Any) -> Graph:
    """The verified graph of such a model; `options` are those of `import_model`."""
    result = import_model(model(graph, opset=opset), **options)
    verify(result)
    return result


def run(graph: Graph | onnx.ModelProto, **feeds: Any) -> list[np.ndarray]:
    """The outputs of a graph or model by the reference evaluator."""
    if isinstance(graph, onnx.ModelProto):
        graph = import_model(graph)
        verify(graph)
    return evaluate(graph, {name: np.asarray(x) for name, x in feeds.items()})


def onnxruntime_run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model by onnxruntime."""
    import onnxruntime  # optional: only these comparisons need it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, dict(feeds))]


def ops(graph: Graph) -> list[str]:
    """The names of the ops that compute something, in order."""
    return [node.op for node in graph.nodes if node.op not in ("input", "const")]
