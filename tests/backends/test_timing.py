"""The log of kernel calls, and the peaks that they are compared with: their structure, not how long anything takes."""

from __future__ import annotations

import math

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.cpu import timing
from octavo.backends.cpu.peak import STORES, WRITERS, Peaks
from octavo.backends.cpu.timing import Logged, TimedProgram, timed
from octavo.backends.runtime.executable import aligned
from octavo.backends.target import TARGETS, find_target
from octavo.benchmarks import zoo
from octavo.compiler.driver import Compilation, compile_native
from octavo.ir.graph import Graph, Value


def two_kernels() -> Graph:
    w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)

    def two(x: Value) -> Value:
        return ops.softmax(x @ w, axis=1)

    return octavo.trace(two, octavo.spec("f32", ("n", 8)))


def load(compiled: Compilation) -> TimedProgram:
    signature = compiled.native.signature
    symbols = (*signature.symbols, *signature.defined)
    return TimedProgram(compiled.native, timed(compiled.program, compiled.built[0], find_target("native"), symbols), 1)


def check_order(logged: Logged) -> None:
    """Calls begin after the one before has ended."""
    times = logged.rows[:, 1:].ravel()
    assert (np.diff(times) >= 0).all()


def test_every_kernel_call_is_logged_in_order_and_results_stay() -> None:
    graph = two_kernels()
    compiled = compile_native(graph)
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    logged = load(compiled).run([x])
    assert logged.rows[:, 0].tolist() == list(range(len(compiled.program.kernels())))
    assert len(logged.rows) == 2
    check_order(logged)
    assert logged.outputs[0].tobytes() == octavo.compile(graph)(x).tobytes()


def test_calls_in_a_loop_are_logged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FIRST_ROOM", 3)  # far too little: the run goes again with enough
    compiled = compile_native(zoo.build("lstm", small=True))
    program = load(compiled)
    for _ in range(2):
        logged = program.run(list(zoo.feeds("lstm", small=True).values()))
        repeats = np.bincount(logged.rows[:, 0], minlength=len(compiled.program.kernels()))
        assert set(repeats) == {1, 5}  # 5 steps
        check_order(logged)


def test_the_normal_program_keeps_no_log() -> None:
    compiled = compile_native(two_kernels())
    assert not any(b"octavo_log" in part for part in compiled.native.variants[0].objects)


def test_the_counter_goes_forward() -> None:
    program = load(compile_native(two_kernels()))
    (first, before), (second, after) = program.now(), program.now()
    assert after > before
    assert second > first


def test_aarch64_has_a_counter_too() -> None:
    compiled = compile_native(two_kernels(), target="aarch64")
    variant = timed(compiled.program, compiled.built[0], TARGETS["aarch64"], ("n",))
    assert b"octavo_log" in variant.objects[-1]


@pytest.mark.parametrize("threads", [1, 2])
def test_peaks_are_positive_numbers(threads: int) -> None:
    peaks = Peaks(find_target("native"), threads)
    for figure in (peaks.flops(repeats=1), peaks.bandwidth(nbytes=1 << 20, repeats=1)):
        assert 0 < figure < math.inf
    assert all(0 < figure < math.inf for figure in peaks.streams(nbytes=1 << 20, repeats=1).values())


def test_loops_that_write_copy_and_add() -> None:
    peaks, size = Peaks(find_target("native")), 1 << 14
    arrays = np.arange(3 * size, dtype=np.float32)
    for name, reads in WRITERS.items():
        for way in STORES:
            given = arrays.copy()
            view = aligned(given.nbytes).view(np.float32)
            view[:] = given
            peaks.loops[name + way](view.ctypes.data, size // peaks.block)
            written = view[reads * size : (reads + 1) * size]
            np.testing.assert_array_equal(written, arrays[: reads * size].reshape(reads, size).sum(0))
