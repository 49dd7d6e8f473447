"""A fused graph -> object code: every different kernel compiled once, in parallel, and cached on disk by what it means.

The key of a kernel's object code is the text of its body, the target, and the sources of everything between a body and its code, so
that a stale cache cannot exist; a body with ops from outside is keyed by its loops instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from ...ir import config
from ...ir.dims import Dim, bounds, parse_dim, substitute
from ...ir.graph import Graph
from ...ir.loops import to_text
from ...ir.ops.registry import op_def
from ...ir.text import digest
from .. import store
from ..lower.kernel import body_symbols
from ..lower.lower import lower
from ..program import Kernel, Program
from ..runtime.native import Variant
from ..target import Target, object_code, optimized
from .kernel import emit_kernel, scratch_bytes
from .main import emit_main, most_scratch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """A variant's code, with what reports want to show of it."""

    variant: Variant
    bodies: dict[str, Graph]  # symbol -> what the kernel computes
    calls: list[tuple[str, Kernel]]  # symbol and step, in program order
    scratch: Dim  # bytes of scratch memory that the greediest kernel needs
    cached: int  # kernels that came from the cache


@dataclass(frozen=True)
class Code:
    """The object code of one kernel and the scratch memory that it needs."""

    data: bytes
    scratch: Dim


def build(program: Program, target: Target, prefix: str, symbols: tuple[str, ...], progress: Progress | None = None) -> Built:
    """Object code of a program for one target.  Raises CodegenError where LLVM refuses, UnsupportedOp for ops without code.

    symbols: the order in which `sizes` come; progress(done, total) is called after every kernel.
    """
    bodies: dict[str, Graph] = {}
    names: dict[int, str] = {}
    calls: list[tuple[str, Kernel]] = []
    for step in program.kernels():
        symbol = symbol_of(step.code, target)
        bodies.setdefault(symbol, step.code)
        names[id(step)] = symbol
        calls.append((symbol, step))
    found, cached = compile_kernels(bodies, target, progress)
    scratch = most_scratch({bounds(_scratch(found[s], step), program.limits)[1] for s, step in calls})
    main = emit_main(program, prefix, symbols, names, scratch, target.triple.split("-")[0])
    objects = [*(found[s].data for s in sorted(found)), compile_module(main, target, effort=0)]
    return Built(Variant(target.requires, target.triple, prefix, objects), bodies, calls, scratch, cached)


def symbol_of(body: Graph, target: Target) -> str:
    """The name of a kernel's entry."""
    return "octavo_k_" + key_of(body, target)


def compile_kernels(bodies: Mapping[str, Graph], target: Target, progress: Progress | None = None) -> tuple[dict[str, Code], int]:
    """The code of kernels by symbol, several at a time, and how many came from the cache."""
    found = {symbol: code for symbol in bodies if (code := _cached(symbol)) is not None}
    todo = sorted((symbol for symbol in bodies if symbol not in found), key=lambda s: not _is_long(bodies[s]))
    cached = len(found)
    if todo:
        with ThreadPoolExecutor(max_workers=_workers()) as pool:
            for symbol, code in zip(todo, pool.map(lambda s: compile_kernel(bodies[s], s, target), todo), strict=True):
                found[symbol] = code
                _remember(symbol, code)
                if progress:
                    progress(len(found), len(bodies))
    return found, cached


def _scratch(code: Code, step: Kernel) -> Dim:
    """The scratch memory of a call, over the symbols of the program."""
    return substitute(code.scratch, dict(zip(body_symbols(step.code), step.sizes, strict=True)))


@cache
def sources(*floors: str) -> str:
    """A digest of LLVM's version and of all our code in some folders of the package."""
    package = Path(__file__).parents[2]
    h = hashlib.sha256(".".join(map(str, llvm.llvm_version_info)).encode())
    for floor in floors:
        for path in sorted((package / floor).rglob("*.py")):
            h.update(path.read_bytes())
    return h.hexdigest()


def key_of(body: Graph, target: Target) -> str:
    """The name under which a kernel's object code is cached."""
    meaning = digest(body)
    if not all(is_ours(node.op) for node in body.nodes):
        meaning += to_text(lower(body, target))
    return hashlib.sha256(f"{sources('ir', 'backends')}\n{target}\n{meaning}".encode()).hexdigest()[:24]


@cache
def is_ours(op: str) -> bool:
    """Whether an op's definition is part of this package, whose sources are in the key."""
    definition = op_def(op)
    home = __name__.rsplit(".", 3)[0]
    monoid = vars(definition.reduction).values() if definition.reduction else ()
    meanings = (definition.fn, definition.loops, definition.infer, *monoid)
    return all(f is None or (getattr(f, "__module__", "") or "").startswith(home + ".") for f in meanings)


def _is_long(body: Graph) -> bool:
    """Whether a body is among those that take long to compile; when they come first, no thread has to wait for one at the end."""
    return any(op_def(node.op).kind == "contraction" for node in body.nodes)


def _workers() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def compile_kernel(body: Graph, symbol: str, target: Target) -> Code:
    """The object code of one kernel, whose entry is called `symbol`."""
    function = lower(body, target)
    return Code(compile_module(emit_kernel(function, symbol, target), target), scratch_bytes(function))


def compile_module(text: str, target: Target, effort: int = 3) -> bytes:
    """LLVM text -> object code.  effort: see `optimized`."""
    module, machine = optimized(f'target triple = "{target.triple}"\n{text}', target, effort)
    return object_code(module, machine)


def _cache_file(symbol: str) -> Path | None:
    folder = config.cache_dir()
    return folder / "objects" / f"{symbol}.o" if folder else None


def _cached(symbol: str) -> Code | None:
    """Object code from the cache: the scratch size on a line, then the object."""
    path = _cache_file(symbol)
    content = store.find(path) if path else None
    if content is None:
        return None
    scratch, _, data = bytes(content).partition(b"\n")
    return Code(data, parse_dim(scratch.decode()))


def _remember(symbol: str, code: Code) -> None:
    """Keep object code for the next compile."""
    path = _cache_file(symbol)
    if path:
        store.keep(path, [str(code.scratch).encode() + b"\n", code.data])
