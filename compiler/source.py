"""What can be compiled, and the graph of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..frontend.onnx import import_model
from ..ir.errors import ModelError
from ..ir.graph import Graph
from ..passes.pin import pin


def graph_of(model: Any, dims: Mapping[str, int] | None = None) -> Graph:
    """The graph of anything that `compile` takes.  Raises ModelError for what is no model."""
    if isinstance(model, Graph):
        graph = model
    elif hasattr(model, "graph") and isinstance(model.graph, Graph):
        graph = model.graph
    elif isinstance(model, str | os.PathLike | bytes) or hasattr(model, "SerializeToString"):
        return import_model(model, dims)
    else:
        raise ModelError(f"cannot compile a {type(model).__name__}; give a path, bytes, a ModelProto, a Graph or a traced function")
    return pin(graph, dims) if dims else graph
