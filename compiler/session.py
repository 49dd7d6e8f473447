"""`InferenceSession`, the class that onnxruntime users know: the common surface over a compiled model.

Only what changes no result is accepted and ignored (providers, graph optimisation levels); anything else that Octavo lacks is
an AttributeError, not silence.

>>> session = InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
>>> session.run(None, {session.get_inputs()[0].name: x})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.runtime.signature import TensorSpec
from ..frontend.metadata import ModelMetadata
from ..ir.types import DType
from .artifact import load
from .model import Model

_TYPE_NAMES = {"f64": "double", "f32": "float", "f16": "float16", "bf16": "bfloat16", "c64": "complex64", "c128": "complex128"}
_TYPE_NAMES |= {"f8e4m3": "float8e4m3fn", "f8e5m2": "float8e5m2"}


@dataclass(frozen=True)
class NodeArg:
    """An input or output: `type` as in "tensor(float)", symbolic dims as strings."""

    name: str
    shape: list[int | str]
    type: str


@dataclass
class SessionOptions:
    """The options of onnxruntime that have a meaning here, and those that can be ignored because they change no result."""

    intra_op_num_threads: int = 0  # 0: what affinity and the container allow
    inter_op_num_threads: int = 0  # a program runs its steps in order
    graph_optimization_level: Any = None  # optimisation is always whole
    use_deterministic_compute: bool = True  # results never depend on threads or batch
    log_severity_level: int = 2
    free_dimensions: dict[str, int] = field(default_factory=dict)

    def add_free_dimension_override_by_name(self, dim_name: str, dim_value: int) -> None:
        """Fix a symbolic dimension when the model is compiled."""
        self.free_dimensions[dim_name] = dim_value


class InferenceSession:
    """A model compiled (an ONNX file or its bytes) or loaded (an artifact), behind onnxruntime's calls.

    Raises OctavoError kinds where onnxruntime raises its own.
    """

    def __init__(
        self,
        path_or_bytes: str | Path | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ):
        options = sess_options or SessionOptions()
        threads = options.intra_op_num_threads or None
        self._options = options
        if not isinstance(path_or_bytes, bytes) and Path(path_or_bytes).is_dir():
            self._model = load(path_or_bytes, threads=threads)
            self._metadata = ModelMetadata(self._model.name)
        else:
            from ..frontend.onnx.metadata import read_metadata  # imports onnx and llvmlite, without which artifacts run
            from .driver import compile

            self._model = compile(path_or_bytes, threads=threads, dims=options.free_dimensions or None)
            self._metadata = read_metadata(path_or_bytes)

    @property
    def model(self) -> Model:
        """The compiled model itself."""
        return self._model

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, np.ndarray], run_options: Any = None) -> list[Any]:
        """The outputs of these names, or all of them."""
        return self._model.run(output_names, input_feed)

    def get_inputs(self) -> list[NodeArg]:
        return [_node_arg(spec) for spec in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [_node_arg(spec) for spec in self._model.outputs]

    def get_modelmeta(self) -> ModelMetadata:
        return self._metadata

    def get_session_options(self) -> SessionOptions:
        return self._options

    def get_providers(self) -> list[str]:
        return ["OctavoExecutionProvider"]


def _node_arg(spec: TensorSpec) -> NodeArg:
    return NodeArg(spec.name, list(spec.shape), f"tensor({_type_name(spec.type)})")


def _type_name(dtype: DType) -> str:
    if dtype.is_int:
        return f"{'u' if dtype.kind == 'u' else ''}int{dtype.bits}"
    return _TYPE_NAMES.get(dtype.name, dtype.name)
