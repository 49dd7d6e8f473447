"""What a model's file says of itself, apart from what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelMetadata:
    """The descriptive fields of a file, under the names that users of onnxruntime know; an artifact knows its graph's name only.

    custom_metadata_map: free texts by name (character lists, class names).
    """

    graph_name: str = ""
    producer_name: str = ""
    description: str = ""
    domain: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)
