"""The interface of `onnx.backend.base` as a module: what the onnx package's backend test suite and other tools call.

Where shapes depend on the contents of an input (the `shape` of Reshape, the `axes` of ReduceSum), the model is compiled when it
is run, once for each content of these inputs; everything else compiles in `prepare`.

>>> onnx_backend.prepare(model).run([x])
"""

from __future__ import annotations

import unittest
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..frontend.onnx import check_model, import_model, model_of_node, shape_inputs
from ..ir.errors import OctavoError, ShapeError, UnsupportedOp
from .driver import compile
from .model import Model

MAX_SPECIALISED = 64  # models kept for different contents of shape inputs


class Declined(UnsupportedOp, unittest.SkipTest):
    """An unsupported model, in the form that test suites count as skipped rather than failed."""


class Prepared:
    """A model ready to run: what `prepare` returns."""

    def __init__(self, model: Any, dims: Mapping[str, int] | None = None):
        self._source = model
        self._dims = dims
        self._model: Model | None = None
        self._specialised: dict[tuple, Model] = {}
        try:
            self._model = compile(import_model(model, dims))
        except UnsupportedOp as e:
            self._reason = str(e)
            self._names = [v.name for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer}]
            if not shape_inputs(model):
                raise Declined(self._reason) from None

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], **options: Any) -> tuple[np.ndarray, ...]:
        """The outputs for arrays in the order of the model's inputs, or by name.  Raises ShapeError when one does not fit."""
        if isinstance(inputs, Mapping):
            feeds = {name: np.asarray(x) for name, x in inputs.items()}
        else:
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            names = [spec.name for spec in self._model.inputs] if self._model is not None else self._names
            if len(given) != len(names):
                raise ShapeError(f"the model takes {len(names)} inputs ({', '.join(names)}), got {len(given)}")
            feeds = {name: np.asarray(x) for name, x in zip(names, given, strict=True)}
        model = self._model if self._model is not None else self._specialise(feeds)
        return tuple(model.run(None, feeds))

    def _specialise(self, feeds: Mapping[str, np.ndarray]) -> Model:
        """The model compiled for what its shape inputs hold."""
        constants: dict[str, np.ndarray] = {}
        while wanted := shape_inputs(self._source, constants) - set(constants):
            missing = wanted - set(feeds)
            if missing:
                raise ShapeError(f"the input {min(missing)!r} is missing")
            constants.update({name: feeds[name] for name in wanted})
        key = tuple((name, x.shape, x.tobytes()) for name, x in sorted(constants.items()))
        if key not in self._specialised:
            try:
                model = compile(import_model(self._source, self._dims, constants))
            except UnsupportedOp as e:
                raise Declined(str(e)) from None
            while len(self._specialised) >= MAX_SPECIALISED:
                del self._specialised[next(iter(self._specialised))]
            self._specialised[key] = model
        return self._specialised[key]


def prepare(model: Any, device: str = "CPU", **options: Any) -> Prepared:
    """Compile a ModelProto.  Raises UnsupportedOp for what Octavo lacks, and ModelError for what is malformed."""
    if not supports_device(device):
        raise Declined(f"the device {device!r} is not supported; use CPU")
    return Prepared(model, options.get("dims"))


def run_model(model: Any, inputs: Sequence[Any] | Mapping[str, Any], device: str = "CPU", **options: Any) -> tuple[np.ndarray, ...]:
    return prepare(model, device, **options).run(inputs)


def run_node(node: Any, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None, **options: Any) -> tuple[np.ndarray, ...]:
    """Run a single NodeProto on arrays."""
    arrays = [np.asarray(x) for x in inputs]
    return run_model(model_of_node(node, arrays, options.get("opset_version")), arrays, device)


def supports_device(device: str) -> bool:
    return device.upper() == "CPU"


def is_compatible(model: Any, device: str = "CPU", **options: Any) -> bool:
    """Can the model be compiled, as far as its import tells?"""
    try:
        return supports_device(device) and not check_model(model)
    except OctavoError:
        return False
