"""Kernels that compute the same, timed on the same operands in turns.

The loop around the calls is native too.  Constants come in several copies that are read in turn, so that they lie beyond the
second-level cache as in a model, whose other layers have been there in between; the other operands stay where the last call left them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim, evaluate_dim
from ...ir.graph import Graph, Value
from ..lower.kernel import body_symbols
from ..runtime.executable import aligned
from ..runtime.native import link_in_process
from ..target import Target
from .build import compile_kernels, compile_module, symbol_of

AWAY_BYTES = 8 << 20  # of constants that are read before the first copy comes again: some times a second-level cache
MOST_COPIES = 16
_ENTRY = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)


class Race:
    """Kernels compiled and ready to run on one core.

    bodies: what they compute, over the same inputs but for the width of packed operands; constants: which inputs are constants;
    sizes: of the bodies' symbols, in the order of `body_symbols`.
    """

    def __init__(self, bodies: Sequence[Graph], constants: Sequence[bool], sizes: Sequence[int], target: Target):
        by_symbol = {symbol_of(body, target): body for body in bodies}
        codes, _ = compile_kernels(by_symbol, target)
        symbols = [symbol_of(body, target) for body in bodies]
        loops = compile_module("".join(_loop(s, len(bodies[0].inputs) + len(bodies[0].outputs)) for s in by_symbol), target, effort=0)
        entries = {s: f"octavo_times_{s}" for s in by_symbol}
        *addresses, self._owner = link_in_process([*(codes[s].data for s in by_symbol), loops], list(entries.values()))
        functions = dict(zip(by_symbol, map(_ENTRY, addresses), strict=True))
        self._entries = [functions[s] for s in symbols]
        known = dict(zip(body_symbols(bodies[0]), sizes, strict=True))
        self._sizes = np.array(sizes or [0], np.int64)
        self._scratch = aligned(max(1, *(evaluate_dim(code.scratch, known) for code in codes.values())))
        self._operands(bodies, constants, known)

    def _operands(self, bodies: Sequence[Graph], constants: Sequence[bool], known: Mapping[str, int]) -> None:
        """Buffers that fit every kernel, and the pointers to them, a row for each copy of the constants."""
        rng = np.random.default_rng(0)

        def largest(values: Sequence[Value]) -> int:
            return max(_nbytes(v.type.nbytes, known) for v in values)

        inputs = [(values, largest(values)) for values in zip(*(body.inputs for body in bodies), strict=True)]
        weights = sum(nbytes for (_, nbytes), constant in zip(inputs, constants, strict=True) if constant)
        self._copies = max(1, min(MOST_COPIES, -(-AWAY_BYTES // max(1, weights))))
        columns: list[list[np.ndarray]] = []
        for (values, nbytes), constant in zip(inputs, constants, strict=True):
            columns.append([_filled(rng, values[0], nbytes) for _ in range(self._copies if constant else 1)])
        results = [aligned(largest(values)) for values in zip(*(body.outputs for body in bodies), strict=True)]
        rows = [[c[k % len(c)].ctypes.data for c in columns] + [o.ctypes.data for o in results] for k in range(self._copies)]
        self._buffers = (columns, results)  # which the pointers keep nobody from freeing
        self._pointers = np.array(rows, np.uint64)

    def seconds(self, number: int, least: float) -> float:
        """The time of a call of a kernel: the mean over as many calls as take `least` seconds."""
        count, spent = 1, self._run(number, 1)
        while spent < least:
            count = max(2 * count, min(64 * count, int(1.2 * count * least / max(spent, 1e-9))))
            spent = self._run(number, count)
        return spent / count

    def _run(self, number: int, count: int) -> float:
        args: list[Any] = [self._pointers.ctypes.data, self._sizes.ctypes.data, self._scratch.ctypes.data, None]
        start = time.perf_counter()
        self._entries[number](*args, self._scratch.size, count, self._copies)
        return time.perf_counter() - start


def _nbytes(size: Dim, known: Mapping[str, int]) -> int:
    return max(1, evaluate_dim(size, known))


def _filled(rng: np.random.Generator, value: Value, nbytes: int) -> np.ndarray:
    """Numbers that are usual in models: floats between -1 and 1, integers 0 or 1."""
    buffer, dtype = aligned(nbytes), value.dtype
    count = nbytes // dtype.itemsize
    numbers = rng.uniform(-1, 1, count) if dtype.is_float else rng.integers(0, 2, count)
    buffer[: count * dtype.itemsize] = numbers.astype(dtype.np).view(np.uint8)
    return buffer


def _loop(symbol: str, buffers: int) -> str:
    """octavo_times_SYMBOL(pointers, sizes, scratch, threads, scratch bytes, count, copies): `count` calls of a kernel."""
    return f"""
declare void @{symbol}(ptr, ptr, ptr, ptr, i64)
define void @octavo_times_{symbol}(ptr %pointers, ptr %sizes, ptr %scratch, ptr %threads, i64 %stride, i64 %count, i64 %copies) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %copy = urem i64 %i, %copies
  %at = mul i64 %copy, {8 * buffers}
  %row = getelementptr inbounds i8, ptr %pointers, i64 %at
  call void @{symbol}(ptr %row, ptr %sizes, ptr %threads, ptr %scratch, i64 %stride)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
