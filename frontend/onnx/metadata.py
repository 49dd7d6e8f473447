"""The metadata of an ONNX file."""

from __future__ import annotations

import os

import onnx

from ..metadata import ModelMetadata
from .files import read_model


def read_metadata(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> ModelMetadata:
    """The descriptive fields of a model.  Raises ModelError when it cannot be read."""
    proto, _ = read_model(model)
    return ModelMetadata(
        proto.graph.name,
        proto.producer_name,
        proto.doc_string,
        proto.domain,
        proto.model_version,
        {p.key: p.value for p in proto.metadata_props},
    )
