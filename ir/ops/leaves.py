"""The ops without a computation: what comes in (`input`), what is fixed (`const`), what persists (`variable`), and `kernel`.

Leaves are built by `graph.input_value`, `const_value` and `variable_value`; `kernel` is made by the fuser.
"""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError
from ..graph import Constant, Graph
from .registry import OpDef, Types, register


def _infer_input(types: Types, **attrs: Any) -> Types:
    raise ShapeError("an input has no operands to infer its type from; build it with input_value(name, type)")


def _infer_const(types: Types, *, value: Constant) -> Types:
    return (value.type,)


def _infer_variable(types: Types, *, name: str, init: Constant) -> Types:
    return (init.type,)


def _infer_kernel(types: Types, *, body: Graph) -> Types:
    expected = tuple(v.type for v in body.inputs)
    if types != expected:
        raise ShapeError(f"the body takes ({', '.join(map(str, expected))})")
    return tuple(v.type for v in body.outputs)


register(OpDef("input", "leaf", _infer_input, doc="A value given by the caller.  Attribute: name."))
register(OpDef("const", "leaf", _infer_const, doc="A constant array.  Attribute: value (a `Constant`)."))
register(OpDef("variable", "leaf", _infer_variable, doc="State that persists between runs.  Attributes: name, init (a `Constant`)."))
register(OpDef("kernel", "kernel", _infer_kernel, doc="A fused group: computes `body`'s outputs from its operands."))
