"""A fused graph -> one PTX module and the list of what to launch.

>>> built = build(plan(fuse(legalize(graph, target), attention=False)), target)
>>> built.text                 # PTX, every different kernel once
>>> built.launches[id(step)]   # for each kernel step of the program: entry, blocks over size symbols, threads
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ...ir.loops import LoopFunction, expr_text, to_text
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
    functions, launches = lowered(program, target)
    parts: list[str] = []
    for symbol, function in functions.items():
        parts.append(assemble(symbol, function, target))
        if progress:
            progress(len(parts), len(functions))
    text = launch_list(program, launches) + joined(parts or [_ptx([], set(), target)])
    return Built(target, text, functions, launches)


def lowered(program: Program, target: Target) -> tuple[dict[str, LoopFunction], dict[int, list[Entry]]]:
    """(symbol -> loops, id(step) -> launches) of a program's kernels; equal kernels are one."""
    functions: dict[str, LoopFunction] = {}
    symbols: dict[str, str] = {}
    launches: dict[int, list[Entry]] = {}
    for step in program.kernels():
        key = digest(step.code)
        if key not in symbols:
            function = lower(step.code, target)
            symbols[key] = symbol_of(step, function)
            functions.setdefault(symbols[key], function)
        launches[id(step)] = entries(functions[symbols[key]], symbols[key])
    return functions, launches


def launch_list(program: Program, launches: dict[int, list[Entry]]) -> str:
    """What is launched, in program order, as a comment: the kernel, how many blocks of how many threads, and for which node."""
    lines = ["// launches in order, as kernel<<<blocks, threads>>> and the node they come from:"]
    for step in program.kernels():
        for entry in launches[id(step)]:
            loc = "".join(c if c.isascii() and c.isprintable() else "?" for c in step.loc)
            lines.append(f"//   {entry.symbol}<<<{expr_text(entry.blocks)}, {entry.threads}>>> {loc}".rstrip())
    return "\n".join([*lines, ""])


def symbol_of(step: Kernel, function: LoopFunction) -> str:
    """A kernel's name: its template and what it does."""
    return f"octavo_{step.body.name}_{hashlib.sha256(to_text(function).encode()).hexdigest()[:12]}"


def assemble(symbol: str, function: LoopFunction, target: Target) -> str:
    """PTX of one loop function."""
    return _ptx(*emit_kernels(function, symbol, target), target)


def _ptx(kernels: list[str], declarations: set[str], target: Target) -> str:
    module, machine = optimized("\n".join([f'target triple = "{target.triple}"', *sorted(declarations), *kernels]), target)
    return machine.emit_assembly(module)


def joined(parts: list[str]) -> str:
    """Modules for the same target as one: the header of the first, the bodies of all."""

    def split(text: str) -> int:
        return text.index("\n", text.index(".address_size")) + 1

    return parts[0][: split(parts[0])] + "".join(p[split(p) :] for p in parts)
