"""What this machine can do at most, measured: multiply-adds and bytes a second of one core.

Clocks change by a third between runs and processors differ, so a share of the peak means something only when the peak was measured
next to the kernel.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np

from ..runtime.native import link_in_process
from ..target import Target
from .build import compile_module

STEPS = 100_000


def fma_peak(target: Target, repeats: int = 10) -> float:
    """f32 multiply-adds of one core in GFLOP/s (two operations each): independent chains in registers, best of `repeats`."""
    lanes = target.lanes(32)
    chains = 24 if target.registers >= 32 else 12
    function, owner = _function(_fma_loop(lanes, chains), target)
    out = np.zeros(lanes * chains, np.float32)
    seconds = min(_time(function, out.ctypes.data, STEPS) for _ in range(repeats))
    del owner
    return 2 * chains * lanes * STEPS / seconds / 1e9


def read_bandwidth(target: Target, nbytes: int = 256 << 20, repeats: int = 5) -> float:
    """Bytes that one core reads from memory in GB/s: a sum over a buffer larger than any cache, best of `repeats`."""
    lanes = target.lanes(32)
    function, owner = _function(_read_loop(lanes), target)
    data = np.ones(nbytes // 4, np.float32)
    steps = data.size // (lanes * 8)
    seconds = min(_time(function, data.ctypes.data, steps) for _ in range(repeats))
    del owner
    return nbytes / seconds / 1e9


def _time(function: Callable[[int, int], None], pointer: int, count: int) -> float:
    start = time.perf_counter()
    function(pointer, count)
    return time.perf_counter() - start


def _function(text: str, target: Target) -> tuple[Callable[[int, int], None], object]:
    address, owner = link_in_process([compile_module(text, target)], ["octavo_peak"])
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address), owner


def _loop(phis: list[str], body: list[str], after: list[str], declaration: str) -> str:
    lines = ["define void @octavo_peak(ptr %p, i64 %n) {", "entry:", "  br label %loop", "loop:"]
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
    return _loop(phis, body, after, f"declare {t} {name}({t}, {t}, {t})")


def _read_loop(lanes: int) -> str:
    t = f"<{lanes} x float>"
    phis = [f"  %a{k} = phi {t} [ zeroinitializer, %entry ], [ %b{k}, %loop ]" for k in range(8)]
    body = ["  %at = mul i64 %i, 8"]
    for k in range(8):
        body += [
            f"  %i{k} = add i64 %at, {k}",
            f"  %q{k} = getelementptr {t}, ptr %p, i64 %i{k}",
            f"  %x{k} = load {t}, ptr %q{k}, align 4",
            f"  %b{k} = fadd {t} %a{k}, %x{k}",
        ]
    after = []
    for k in range(8):
        after += [f"  %r{k} = getelementptr {t}, ptr %p, i64 {k}", f"  store {t} %b{k}, ptr %r{k}, align 4"]
    return _loop(phis, body, after, "")
