"""A built program as one LLVM module: what `octavo compile --emit llvm|asm|o` writes.

The parts are those that the artifact holds, optimised one by one as there and joined afterwards, so the listing shows the code
that runs.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding as llvm

from ..lower.lower import lower
from ..program import Program
from ..target import Target, optimized, target_machine
from .build import Built
from .kernel import emit_kernel
from .main import emit_main

FORMS: dict[str, Callable[[llvm.ModuleRef, llvm.TargetMachine], bytes]] = {
    "llvm": lambda module, machine: str(module).encode(),
    "asm": lambda module, machine: machine.emit_assembly(module).encode(),
    "o": lambda module, machine: machine.emit_object(module),
}


def listing(program: Program, built: Built, target: Target, symbols: tuple[str, ...], form: str) -> bytes:
    """The whole program as text or object code; `symbols` as `build` took them."""
    names = {id(step): symbol for symbol, step in built.calls}
    texts = [emit_kernel(lower(body, target), symbol, target) for symbol, body in built.bodies.items()]
    texts.append(emit_main(program, built.variant.prefix, symbols, names, built.scratch, target.triple.split("-")[0]))
    context = llvm.create_context()
    whole: llvm.ModuleRef | None = None
    for text in texts:
        module, _ = optimized(f'target triple = "{target.triple}"\n{text}', target)
        part = llvm.parse_assembly(str(module), context=context)
        if whole is None:
            whole = part
        else:
            whole.link_in(part)
    assert whole is not None, "there is always the main function"
    whole.name = program.graph.name
    return FORMS[form](whole, target_machine(target))
