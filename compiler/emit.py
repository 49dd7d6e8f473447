"""The forms that a model passes through on its way to an artifact, as files: fused graph, LLVM IR, assembly, object code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backends.cpu.listing import FORMS as CODE
from ..backends.cpu.listing import listing
from ..backends.target import find_target
from ..ir.text import to_text
from .driver import compile_native
from .progress import report

FORMS = ("graph", *CODE)


def emit(model: Any, form: str, *, target: str = "native", dims: Mapping[str, int] | None = None) -> bytes:
    """One of `FORMS` of anything that `compile` takes.  Raises what `compile` raises."""
    result = compile_native(model, target=target, dims=dims, progress=report)
    if form == "graph":
        return to_text(result.fused).encode()
    signature = result.native.signature
    symbols = (*signature.symbols, *signature.defined)
    return listing(result.program, result.built[0], find_target(target), symbols, form)
