"""A fused graph -> one PTX module and the list of what to launch.

>>> built = build(plan(fuse(legalize(graph, target))), target)
>>> built.text                 # PTX, every different kernel once
>>> built.launches[id(step)]   # for each kernel step of the program: entry, blocks over size symbols, threads
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ...ir.loops import LoopFunction, to_text
from ...ir.text import digest
from ..lower.lower import lower
from ..program import Kernel, Program
from ..target import Target, optimized
from .kernel import Entry, emit_kernels, entries

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """A program's PTX.

    functions: the loops behind each symbol; launches: id(step) -> its entries, which all take the step's operands and symbols.
    """

    target: Target
    text: str
    functions: dict[str, LoopFunction]
    launches: dict[int, list[Entry]]


def build(program: Program, target: Target, progress: Progress | None = None) -> Built:
    """PTX of a program.  Raises CodegenError where LLVM refuses, UnsupportedOp for ops without code on a GPU."""
    functions: dict[str, LoopFunction] = {}
    symbols: dict[str, str] = {}
    launches: dict[int, list[Entry]] = {}
    for step in program.kernels():
        key = digest(step.body)
        if key not in symbols:
            function = lower(step.body, target)
            symbols[key] = symbol_of(step, function)
            functions.setdefault(symbols[key], function)
        launches[id(step)] = entries(functions[symbols[key]], symbols[key])
    parts: list[str] = []
    for k, (symbol, function) in enumerate(functions.items()):
        parts.append(assemble({symbol: function}, target))
        if progress:
            progress(k + 1, len(functions))
    return Built(target, joined(parts), functions, launches)


def symbol_of(step: Kernel, function: LoopFunction) -> str:
    """A kernel's name: its template and what it does."""
    return f"octavo_{step.body.name}_{hashlib.sha256(to_text(function).encode()).hexdigest()[:12]}"


def assemble(functions: dict[str, LoopFunction], target: Target) -> str:
    """PTX of loop functions by symbol."""
    texts: list[str] = []
    declarations: set[str] = set()
    for symbol, function in functions.items():
        kernels, needed = emit_kernels(function, symbol)
        texts += kernels
        declarations |= needed
    module, machine = optimized("\n".join([f'target triple = "{target.triple}"', *sorted(declarations), *texts]), target)
    return machine.emit_assembly(module)


def joined(parts: list[str]) -> str:
    """Modules for the same target as one: the header of the first, the bodies of all."""
    if not parts:
        return ""
    start = parts[0].index(".address_size")
    header = parts[0][: parts[0].index("\n", start) + 1]
    return header + "".join(p[p.index("\n", p.index(".address_size")) + 1 :] for p in parts)
