"""A fused graph -> object code: every different kernel compiled once, in parallel, and cached on disk by what it says.

The key of a kernel's object code is the text of its loops, the target, and the sources of the emitter, so that a stale cache cannot
exist; a cache folder may be shared by processes (files appear whole, by renaming).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from ...ir import config
from ...ir.graph import Graph
from ...ir.loops import LoopFunction, to_text
from ...ir.text import digest
from ..lower.lower import lower
from ..program import Kernel, Program
from ..runtime.native import Variant
from ..target import Target, optimized
from .kernel import emit_kernel, scratch_bytes
from .main import emit_main, most_scratch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """A variant's code, with what reports want to show of it."""

    variant: Variant
    functions: dict[str, LoopFunction]  # symbol -> loops
    calls: list[tuple[str, Kernel]]  # symbol and step, in program order
    cached: int  # kernels that came from the cache


@cache
def _emitter_digest() -> str:
    here = Path(__file__).parent
    h = hashlib.sha256(".".join(map(str, llvm.llvm_version_info)).encode())
    for path in (here.parent / "llvm.py", here / "kernel.py", here / "main.py", here / "build.py", here.parent / "target.py"):
        h.update(path.read_bytes())
    return h.hexdigest()


def key_of(text: str, target: Target) -> str:
    """The name under which object code is cached."""
    return hashlib.sha256(f"{_emitter_digest()}\n{target}\n{text}".encode()).hexdigest()[:24]


def build(program: Program, target: Target, prefix: str, symbols: tuple[str, ...], progress: Progress | None = None) -> Built:
    """Object code of a program for one target.  Raises CodegenError where LLVM refuses, UnsupportedOp for ops without code.

    symbols: the order in which `sizes` come; progress(done, total) is called after every kernel.
    """
    functions: dict[str, LoopFunction] = {}
    names: dict[int, str] = {}
    calls: list[tuple[str, Kernel]] = []
    known: dict[str, tuple[str, tuple[str, ...]]] = {}
    for step in program.kernels():
        text = _body_key(step.body)
        if text not in known:
            function = lower(step.body, target)
            symbol = "octavo_k_" + key_of(to_text(function), target)
            known[text] = (symbol, function.symbols)
            functions.setdefault(symbol, function)
        symbol, _ = known[text]
        names[id(step)] = symbol
        calls.append((symbol, step))
    objects: dict[str, bytes] = {}
    hits = 0
    todo = []
    for symbol in functions:
        found = _cached(symbol)
        if found is None:
            todo.append(symbol)
        else:
            objects[symbol] = found
            hits += 1
    total = len(functions)
    done = hits
    if todo:
        with ThreadPoolExecutor(max_workers=_workers()) as pool:
            for symbol, code in zip(todo, pool.map(lambda s: _compile_kernel(functions[s], s, target), todo), strict=True):
                objects[symbol] = code
                _remember(symbol, code)
                done += 1
                if progress:
                    progress(done, total)
    scratch = most_scratch([scratch_bytes(f) for f in functions.values()])
    main = emit_main(program, prefix, symbols, names, scratch, target.triple.split("-")[0])
    code = compile_module(main, target)
    variant = Variant(target.requires, target.triple, prefix, [*(objects[s] for s in sorted(objects)), code])
    return Built(variant, functions, calls, hits)


def _body_key(body: Graph) -> str:
    """Equal bodies are lowered once."""
    return digest(body)


def _workers() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _compile_kernel(function: LoopFunction, symbol: str, target: Target) -> bytes:
    return compile_module(emit_kernel(function, symbol), target)


def compile_module(text: str, target: Target) -> bytes:
    """LLVM text -> object code."""
    module, machine = optimized(f'target triple = "{target.triple}"\n{text}', target)
    return machine.emit_object(module)


def _cache_file(symbol: str) -> Path | None:
    folder = config.cache_dir()
    return folder / "objects" / f"{symbol}.o" if folder else None


def _cached(symbol: str) -> bytes | None:
    path = _cache_file(symbol)
    try:
        return path.read_bytes() if path else None
    except OSError:
        return None


def _remember(symbol: str, code: bytes) -> None:
    """Keep object code for the next compile; a cache that cannot be written is no reason to fail."""
    path = _cache_file(symbol)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as f:
            f.write(code)
        os.replace(temporary, path)
    except OSError:
        return
