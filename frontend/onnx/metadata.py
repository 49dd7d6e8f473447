"""What a model file says of itself, apart from what it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from .files import read_model


@dataclass(frozen=True)
class Metadata:
    """The descriptive fields of an ONNX file; `properties` are free (character lists, class names)."""

    graph_name: str = ""
    producer_name: str = ""
    description: str = ""
    domain: str = ""
    version: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)


def read_metadata(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Metadata:
    """The descriptive fields of a model.  Raises ModelError when it cannot be read."""
    proto, _ = read_model(model)
    return Metadata(
        proto.graph.name,
        proto.producer_name,
        proto.doc_string,
        proto.domain,
        proto.model_version,
        {p.key: p.value for p in proto.metadata_props},
    )
