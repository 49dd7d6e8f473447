"""Octavo: an ahead-of-time compiler for neural networks.

>>> model = octavo.compile("model.onnx")            # or bytes, a ModelProto, a Graph, a traced function
>>> model.save("model.octavo")                      # native code, weights and a C header
>>> y = octavo.load("model.octavo")(x)              # needs NumPy alone

Every public name is here; each is imported when it is first used, so that `import octavo` costs nothing but Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .compiler.artifact import load
    from .compiler.calibrate import calibrate
    from .compiler.driver import compile
    from .compiler.model import Model
    from .compiler.quantize import quantize
    from .compiler.session import InferenceSession, SessionOptions
    from .frontend.tracing import spec, trace
    from .ir import ops
    from .ir.errors import (
        ArtifactError,
        CodegenError,
        GateError,
        InternalError,
        ModelError,
        OctavoError,
        PassError,
        QuantError,
        QuantWarning,
        ShapeError,
        TargetError,
        UnsupportedOp,
        VerifyError,
    )
    from .ir.graph import Graph
    from .ir.ops import custom as op
    from .passes.quantize.profile import Profile

_HOMES = {
    "compile": ".compiler.driver",
    "load": ".compiler.artifact",
    "calibrate": ".compiler.calibrate",
    "quantize": ".compiler.quantize",
    "Profile": ".passes.quantize.profile",
    "Model": ".compiler.model",
    "InferenceSession": ".compiler.session",
    "SessionOptions": ".compiler.session",
    "trace": ".frontend.tracing",
    "spec": ".frontend.tracing",
    "Graph": ".ir.graph",
    "ArtifactError": ".ir.errors",
    "CodegenError": ".ir.errors",
    "GateError": ".ir.errors",
    "InternalError": ".ir.errors",
    "ModelError": ".ir.errors",
    "OctavoError": ".ir.errors",
    "PassError": ".ir.errors",
    "QuantError": ".ir.errors",
    "QuantWarning": ".ir.errors",
    "ShapeError": ".ir.errors",
    "TargetError": ".ir.errors",
    "UnsupportedOp": ".ir.errors",
    "VerifyError": ".ir.errors",
}
_MODULES = {"ops": ".ir.ops", "op": ".ir.ops.custom"}

__all__ = [
    "compile",
    "load",
    "calibrate",
    "quantize",
    "Profile",
    "Model",
    "InferenceSession",
    "SessionOptions",
    "Graph",
    "trace",
    "spec",
    "ops",
    "op",
    "OctavoError",
    "ShapeError",
    "UnsupportedOp",
    "ModelError",
    "QuantError",
    "QuantWarning",
    "GateError",
    "ArtifactError",
    "TargetError",
    "InternalError",
    "VerifyError",
    "PassError",
    "CodegenError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name], __name__)
    else:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
