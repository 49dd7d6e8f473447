"""What can be compiled, and the graph of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..frontend.onnx import import_model
from ..ir.errors import ModelError, QuantError
from ..ir.graph import Graph
from ..passes.pin import pin
from ..passes.quantize.profile import Profile


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


def profile_of(profile: Profile | str | os.PathLike[str]) -> Profile:
    """A profile, from its file if it is a path.  Raises QuantError for anything else, OSError for a file that cannot be read."""
    if isinstance(profile, str | os.PathLike):
        profile = Profile.load(Path(profile))
    if not isinstance(profile, Profile):
        raise QuantError(f"a profile is what octavo.calibrate returns, or the path of its file, not a {type(profile).__name__}")
    return profile
