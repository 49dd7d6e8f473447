"""What this machine can do at most, measured: multiply-adds a second, of f32 and of bytes, and bytes a second of loops that read, copy
and add.

Clocks change by a third between runs and processors differ, so a share of the peak means something only when the peak was measured
next to the kernel: create one `Peaks`, then call it between runs.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...ir.loops import MatrixDot, Names, Var
from ...ir.types import i32, i64
from ..instructions import Instructions, Val
from ..lower.matrices import SIDE, matrix_tile
from ..runtime.executable import aligned
from ..runtime.native import link_in_process
from ..target import Target
from .build import compile_module
from .kernel import KernelEmitter

STEPS = 100_000  # of the multiply-add loop: a few tenths of a millisecond
ACCUMULATORS = 8  # of the reading loop
BUFFER_BYTES = 256 << 20  # of each thread; a cache shared by a whole processor may hold that, the cores' own do not
WRITERS = {"copy": 1, "add": 2}  # loops that write, and how many arrays they read
STORES = {"_through": "", "_past": ", !nontemporal !0"}  # ways to store: through the caches or past them

_MATRICES = matrix_tile(Names(), 2 * SIDE, 2, SIDE)
_PRODUCTS = [
    MatrixDot(m, a, b) for row, a in zip(_MATRICES.sums, _MATRICES.a, strict=True) for m, b in zip(row, _MATRICES.b, strict=True)
]

Loop = Callable[[int, int], None]  # (address, count)


class Peaks:
    """Measures the peaks of `threads` cores at once, f32 vectors of a target."""

    def __init__(self, target: Target, threads: int = 1):
        lanes = target.lanes(32)
        chains = 24 if target.registers >= 32 else 12
        self._flops = 2 * chains * lanes * STEPS
        self._dots = 8 * SIDE**3 * len(_PRODUCTS) * STEPS if target.matrices else 4 * self._flops
        self.block = lanes * ACCUMULATORS
        dot = _matrix_loop(target) if target.matrices else _dot_loop(target, lanes, chains)
        texts = {"multiply": _fma_loop(lanes, chains), "dot": dot, "read": _read_loop(lanes)}
        texts.update({f"{name}{way}": _write_loop(f"{name}{way}", lanes, n, way) for name, n in WRITERS.items() for way in STORES})
        self.loops, self._owner = _loops(texts, target)
        self._results = [np.zeros(lanes * chains, np.float32) for _ in range(threads)]
        self._threads = threads

    def flops(self, repeats: int = 10) -> float:
        """Multiply-adds in GFLOP/s (two operations each): independent chains in registers, best of `repeats`."""
        return self._rate("multiply", self._flops, repeats)

    def dots(self, repeats: int = 10) -> float:
        """The same of u8 and i8 that are summed in i32, in GOP/s."""
        return self._rate("dot", self._dots, repeats)

    def _rate(self, loop: str, operations: int, repeats: int) -> float:
        calls = [(r.ctypes.data, STEPS) for r in self._results]
        return self._threads * operations / min(self._seconds(self.loops[loop], calls) for _ in range(repeats)) / 1e9

    def bandwidth(self, nbytes: int = BUFFER_BYTES, repeats: int = 5) -> float:
        """Bytes read from memory in GB/s: sums over a buffer for each thread, best of `repeats`."""
        buffers = [aligned(nbytes) for _ in range(self._threads)]
        for b in buffers:
            b[:] = 0  # pages that were never written are all one page of zeros
        calls = [(b.ctypes.data, nbytes // 4 // self.block) for b in buffers]
        return self._threads * nbytes / min(self._seconds(self.loops["read"], calls) for _ in range(repeats)) / 1e9

    def streams(self, nbytes: int = BUFFER_BYTES, repeats: int = 5) -> dict[str, float]:
        """GB/s, reads and writes together, of the best loops known that read one array, copy it, or add two into a third.

        nbytes: of each thread, over all arrays of a loop.  Stores go through the caches or past them, whichever is faster.
        """
        buffers = [aligned(nbytes) for _ in range(self._threads)]
        for b in buffers:
            b[:] = 0
        found = {}
        for name, arrays in {"read": 1, **{name: reads + 1 for name, reads in WRITERS.items()}}.items():
            count = nbytes // 4 // self.block // arrays
            calls = [(b.ctypes.data, count) for b in buffers]
            ways = [name + way for way in STORES] if name in WRITERS else [name]
            seconds = min(self._seconds(self.loops[way], calls) for way in ways for _ in range(repeats))
            found[name] = self._threads * count * self.block * 4 * arrays / seconds / 1e9
        return found

    def _seconds(self, loop: Loop, calls: Sequence[tuple[int, int]]) -> float:
        """The time of these calls at once, each on a thread."""
        together = threading.Barrier(len(calls))

        def run(call: tuple[int, int]) -> tuple[float, float]:
            together.wait()
            start = time.perf_counter()
            loop(*call)
            return start, time.perf_counter()

        if len(calls) == 1:
            times = [run(calls[0])]
        else:
            with ThreadPoolExecutor(len(calls)) as pool:
                times = list(pool.map(run, calls))
        return max(end for _, end in times) - min(start for start, _ in times)


def _loops(texts: Mapping[str, str], target: Target) -> tuple[dict[str, Loop], object]:
    module = "".join(texts.values()) + "!0 = !{i32 1}\n"
    *found, owner = link_in_process([compile_module(module, target)], [f"octavo_{name}" for name in texts])
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    return {name: prototype(address) for name, address in zip(texts, found, strict=True)}, owner


def _loop(name: str, phis: list[str], body: list[str], after: list[str], declaration: str) -> str:
    lines = [f"define void @{name}(ptr %p, i64 %n) {{", "entry:", "  br label %loop", "loop:"]
    lines += ["  %i = phi i64 [ 0, %entry ], [ %j, %loop ]", *phis, *body]
    lines += ["  %j = add i64 %i, 1", "  %more = icmp slt i64 %j, %n", "  br i1 %more, label %loop, label %done", "done:"]
    return "\n".join([*lines, *after, "  ret void", "}", declaration, ""])


def _fma_loop(lanes: int, chains: int) -> str:
    t = f"<{lanes} x float>"
    name = f"@llvm.fma.v{lanes}f32"
    phis = [f"  %a{k} = phi {t} [ zeroinitializer, %entry ], [ %b{k}, %loop ]" for k in range(chains)]
    shrink, one = "splat (float 0x3FEFFFFFE0000000)", "splat (float 1.0)"
    body = [f"  %b{k} = call {t} {name}({t} %a{k}, {t} {shrink}, {t} {one})" for k in range(chains)]
    after = []
    for k in range(chains):
        after += [f"  %q{k} = getelementptr {t}, ptr %p, i64 {k}", f"  store {t} %b{k}, ptr %q{k}, align 4"]
    return _loop("octavo_multiply", phis, body, after, f"declare {t} {name}({t}, {t}, {t})")


def _dot_loop(target: Target, lanes: int, chains: int) -> str:
    code, t = Instructions(target), f"<{lanes} x i32>"
    phis = [f"  %a{k} = phi {t} [ zeroinitializer, %entry ], [ %s{k}, %loop ]" for k in range(chains)]
    first = code.splat(code.define("trunc i64 %n to i32", i32), lanes)
    after = []
    for k in range(chains):
        total = code.operation("dot4", [first, first, Val(f"%a{k}", i32, lanes)], i32)
        code.put(f"%s{k} = add {t} {total.text}, zeroinitializer")
        after += [f"  %q{k} = getelementptr {t}, ptr %p, i64 {k}", f"  store {t} %s{k}, ptr %q{k}, align 4"]
    return _loop("octavo_dot", phis, code.lines, after, "\n".join(sorted(code.declarations)))


def _matrix_loop(target: Target) -> str:
    code = KernelEmitter(target)
    code.matrices.begin(_MATRICES.registers)
    code.counted_loop(Var("i"), Val("0", i64), Val("%n", i64), _PRODUCTS)
    code.matrices.end()
    lines = ["define void @octavo_dot(ptr %p, i64 %n) {", "entry:", *code.lines, "  ret void", "}", *sorted(code.declarations), ""]
    return "\n".join(lines)


def _read_loop(lanes: int) -> str:
    t = f"<{lanes} x float>"
    phis = [f"  %a{k} = phi {t} [ zeroinitializer, %entry ], [ %b{k}, %loop ]" for k in range(ACCUMULATORS)]
    body = [f"  %at = mul i64 %i, {ACCUMULATORS}"]
    for k in range(ACCUMULATORS):
        body += [
            f"  %i{k} = add i64 %at, {k}",
            f"  %q{k} = getelementptr {t}, ptr %p, i64 %i{k}",
            f"  %x{k} = load {t}, ptr %q{k}, align 4",
            f"  %b{k} = fadd {t} %a{k}, %x{k}",
        ]
    after = []
    for k in range(ACCUMULATORS):
        after += [f"  %r{k} = getelementptr {t}, ptr %p, i64 {k}", f"  store {t} %b{k}, ptr %r{k}, align 4"]
    return _loop("octavo_read", phis, body, after, "")


def _write_loop(name: str, lanes: int, reads: int, way: str) -> str:
    """Sums `reads` arrays, one behind the other in memory, into the next."""
    t = f"<{lanes} x float>"
    body = [f"  %at = mul i64 %i, {ACCUMULATORS}", f"  %vectors = mul i64 %n, {ACCUMULATORS}"]
    for k in range(ACCUMULATORS):
        body.append(f"  %i{k}.0 = add i64 %at, {k}")
        for a in range(reads + 1):
            if a:
                body.append(f"  %i{k}.{a} = add i64 %i{k}.{a - 1}, %vectors")
            body.append(f"  %q{k}.{a} = getelementptr {t}, ptr %p, i64 %i{k}.{a}")
        body += [f"  %x{k}.{a} = load {t}, ptr %q{k}.{a}, align 64" for a in range(reads)]
        body += [f"  %s{k} = fadd {t} %x{k}.0, %x{k}.1"] if reads == 2 else []
        result = f"%s{k}" if reads == 2 else f"%x{k}.0"
        body.append(f"  store {t} {result}, ptr %q{k}.{reads}, align 64{STORES[way]}")
    return _loop(f"octavo_{name}", [], body, [], "")
