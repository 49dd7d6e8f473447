"""The forms that a model passes through on its way to machine code, as files.

graph: the kernels as text; llvm, asm, o: the code for a CPU; ptx: the kernels for a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backends.cpu.listing import FORMS as CPU_FORMS
from ..backends.cpu.listing import listing
from ..backends.lower.legalize import legalize
from ..backends.program import plan
from ..backends.ptx.build import build
from ..backends.target import TARGETS, find_target
from ..backends.tune import schedules
from ..ir.errors import TargetError
from ..ir.text import to_text
from ..passes.fuse import fuse
from ..passes.pipeline import optimize
from .driver import compile_native
from .progress import report
from .source import graph_of

FORMS = ("graph", *CPU_FORMS, "ptx")


def emit(model: Any, form: str, *, target: str = "native", dims: Mapping[str, int] | None = None) -> bytes:
    """One of `FORMS` of anything that `compile` takes.

    Raises TargetError where the target has no such form, and what `compile` raises.
    """
    chosen = find_target(target)
    if form not in FORMS:
        raise TargetError(f"no form is called {form!r}; there are {', '.join(FORMS)}")
    if form != "graph" and (chosen.kind == "gpu") != (form == "ptx"):
        fitting = ", ".join(t.name for t in TARGETS.values() if (t.kind == "gpu") == (form == "ptx"))
        raise TargetError(f"target {chosen.name!r} has no form {form!r}; {form} is for {fitting}")
    if form in CPU_FORMS:
        result = compile_native(model, target=target, dims=dims, progress=report)
        signature = result.native.signature
        symbols = (*signature.symbols, *signature.defined)
        return listing(result.program, result.built[0], chosen, symbols, form)
    legal = legalize(optimize(graph_of(model, dims), progress=report), chosen, schedules(chosen))
    fused = fuse(legal, attention=chosen.kind == "cpu")
    if form == "graph":
        return to_text(fused).encode()
    return build(plan(fused), chosen, lambda done, total: report("compile kernels", done, total)).text.encode()
