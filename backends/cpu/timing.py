"""A built program whose main function notes when each kernel call begins and ends, for profiles; artifacts never hold it.

    ptr octavo_log          set by the caller before a run: i64 count, i64 room, then `room` + 1 rows of i64 (call, begin, end)
    i64 octavo_clock()      the counter that begin and end are read from

The kernels are the objects of the normal program; only the main function is emitted anew.  `call` numbers `Program.kernels()`.  The
count goes on when the rows are full (the last one is then overwritten), so that the caller learns how much room a run needs.
Reading the counter takes some 10 ns, which is all that a profile adds to a kernel.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..program import Kernel, Program
from ..runtime.native import NativeProgram, Variant, load_variant
from ..target import Target
from .build import Built, compile_module
from .main import MainEmitter, emit_main

FIRST_ROOM = 1024  # kernel calls that the log of the first run holds
# Both counters tick at one rate whatever the clock of the core; AArch64's cycle counter is closed to programs.
_COUNTERS = {"x86_64": "llvm.readcyclecounter", "aarch64": "llvm.readsteadycounter"}
_OWN = """
@octavo_log = global ptr null
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @{counter}()
define i64 @octavo_clock() alwaysinline {{
  %now = call i64 @{counter}()
  ret i64 %now
}}
"""


class TimingEmitter(MainEmitter):
    """Emits every kernel call between two readings of the counter."""

    def call(self, step: Kernel) -> None:
        begin, end, log, count, place, room = (self.fresh(hint) for hint in ("begin", "end", "log", "count", "place", "room"))
        self.put(f"{begin} = call i64 @octavo_clock()")
        super().call(step)
        self.put(f"{end} = call i64 @octavo_clock()")
        self.put(f"{log} = load ptr, ptr @octavo_log")
        self.put(f"{count} = load i64, ptr {log}")
        self.put(f"{place} = getelementptr inbounds i64, ptr {log}, i64 1")
        self.put(f"{room} = load i64, ptr {place}")
        rows, row, following = self.fresh("rows"), self.fresh("row"), self.fresh("count")
        self.put(f"{rows} = getelementptr inbounds i64, ptr {log}, i64 2")
        self.put(f"{row} = call i64 @llvm.umin.i64(i64 {count}, i64 {room})")
        for k, value in enumerate((str(self._numbers[id(step)]), begin, end)):
            field = self.fresh("field")
            self.put(f"{field} = getelementptr inbounds [3 x i64], ptr {rows}, i64 {row}, i64 {k}")
            self.put(f"store i64 {value}, ptr {field}")
        self.put(f"{following} = add i64 {count}, 1")
        self.put(f"store i64 {following}, ptr {log}")

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {id(step): number for number, step in enumerate(self.program.kernels())}


def timed(program: Program, built: Built, target: Target, symbols: Sequence[str]) -> Variant:
    """The variant of a built program that keeps the log; `symbols` as `build` took them."""
    names = {id(step): symbol for symbol, step in built.calls}
    processor = target.triple.split("-")[0]
    main = emit_main(program, built.variant.prefix, symbols, names, built.scratch, processor, TimingEmitter)
    code = compile_module(main + _OWN.format(counter=_COUNTERS[processor]), target, effort=0)
    return replace(built.variant, objects=[*built.variant.objects[:-1], code])


@dataclass(frozen=True)
class Logged:
    """One run: seconds that it took in all, and rows of (call, begin, end), the times in ticks of the counter."""

    seconds: float
    rows: np.ndarray
    outputs: list[np.ndarray]


class TimedProgram:
    """The timed variant in this process."""

    def __init__(self, native: NativeProgram, variant: Variant, threads: int | None = None):
        self.executable, (log, clock) = load_variant(native, variant, threads, ["octavo_log", "octavo_clock"])
        self._clock: Callable[[], int] = ctypes.CFUNCTYPE(ctypes.c_int64)(clock)
        self._pointer = ctypes.c_void_p.from_address(log)
        self._reserve(FIRST_ROOM)

    def run(self, arrays: Sequence[Any]) -> Logged:
        """Run once and read the log; a run that needs more room than there is goes again with enough."""
        while True:
            self._log[0] = 0
            start = time.perf_counter()
            outputs = self.executable.run(arrays)
            seconds = time.perf_counter() - start
            count = int(self._log[0])
            if count <= self._log[1]:
                return Logged(seconds, self._log[2 : 2 + 3 * count].reshape(count, 3).copy(), outputs)
            self._reserve(2 * count)

    def now(self) -> tuple[float, int]:
        """The same moment in seconds and in ticks: two of these calibrate the counter."""
        return time.perf_counter(), self._clock()

    def _reserve(self, room: int) -> None:
        self._log = np.zeros(2 + 3 * (room + 1), np.int64)
        self._log[1] = room
        self._pointer.value = self._log.ctypes.data
