"""Every op, one definition each; `octavo.ops.<name>(*values, **attrs)` builds a node of any registered op.

>>> octavo.ops.relu(x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graph import Value
from ..location import caller
from . import (
    activations,
    arrange,
    contraction,
    control,
    conversion,
    counting,
    index,
    leaves,
    lookup,
    nn,
    packing,
    pointwise,
    pooling,
    recurrent,
    reduction,
    resize,
    scatter,
    selection,
    sorting,
    winograd,
)
from .operators import Operand, build
from .registry import OPS, op_def

MODULES = (
    leaves,
    pointwise,
    activations,
    conversion,
    index,
    lookup,
    reduction,
    contraction,
    packing,
    nn,
    pooling,
    arrange,
    resize,
    control,
    recurrent,
    scatter,
    sorting,
    selection,
    counting,
    winograd,
)  # importing them registers their ops


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in OPS:
        raise AttributeError(f"there is no op {name!r}; octavo.ops has {', '.join(sorted(OPS))}")

    def call(*operands: Operand, **attrs: Any) -> Value | tuple[Value, ...]:
        node = build(name, *operands, loc=caller(), **attrs).node
        return node.outputs if len(node.types) > 1 else node.outputs[0]

    call.__name__, call.__doc__ = name, op_def(name).doc
    return call


def __dir__() -> list[str]:
    return sorted(OPS)
