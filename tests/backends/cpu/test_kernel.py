"""A loop function's entry: what runs in parallel, and whose scratch memory is whose."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from octavo.backends.cpu.build import compile_module
from octavo.backends.cpu.kernel import SERIAL_COST, STACK_BYTES, emit_kernel, scratch_bytes
from octavo.backends.runtime.native import link_in_process
from octavo.backends.target import find_target
from octavo.ir.dims import evaluate_dim, symbol
from octavo.ir.loops import Alloc, Buf, Const, For, If, Load, LoopFunction, Stmt, Store, Sym, Var, size_expr
from octavo.ir.types import f64, i64
from octavo.tests.backends.native import ENTRY, execute

NATIVE = find_target("native")
Y = Buf("y", i64)
T = Var("t")
N = symbol("n")


def function(*body: Stmt) -> LoopFunction:
    return LoopFunction("kernel", (Y,), 0, ("n",), body)


def local(size, name: str = "local") -> Buf:
    return Buf(name, f64, "local", size)


def const(k: int) -> Const:
    return Const(k, i64)


# --- scratch memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "needed"),
    [
        ((Alloc(local(STACK_BYTES // 8)),), 0),  # on the stack
        ((Alloc(local(STACK_BYTES // 8 + 1)),), STACK_BYTES + 64),
        ((Alloc(local(N)),), 8064),
        ((Alloc(local(N)), Alloc(local(4000))), 32_000),  # statements run one after another
        ((For(T, const(3), (Alloc(local(4000)), If(T < 1, (Alloc(local(5000)),)))),), 72_000),
    ],
)
def test_scratch_memory_is_what_the_greediest_statement_needs(body: tuple[Stmt, ...], needed: int):
    assert evaluate_dim(scratch_bytes(function(*body)), {"n": 1001}) == needed


def test_each_worker_has_its_own():
    """parallel_for gives every iteration to a worker of its own; each finds in its scratch memory what it wrote."""
    buf = local(N)
    fill = (Alloc(buf), Store(buf, size_expr(N) - 1, Load(buf, const(0)) + 1.0), Store(Y, T, T + 1))
    f = function(For(T, const(4), fill, "parallel", cost=const(SERIAL_COST)))
    scratch, chunks = np.zeros(4 * 1024, np.float64), []
    result = run_with_threads(f, {"n": 1000}, scratch, chunks)
    assert chunks == [4]
    assert result[:4].tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(scratch).tolist() == [k * 1024 + 999 for k in range(4)]


# --- parallel loops ----------------------------------------------------------------------------------------------------------------

CHUNK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Threads(ctypes.Structure):
    _fields_ = [("parallel_for", PARALLEL_FOR), ("pool", ctypes.c_void_p), ("workers", ctypes.c_int32)]


def run_with_threads(f: LoopFunction, sizes: dict[str, int], scratch: np.ndarray, asked: list[int]) -> np.ndarray:
    """Run a function with a parallel_for that notes how many iterations it is asked for and runs them backwards, one a worker."""

    def parallel_for(pool: int, body: int, context: int, n: int) -> None:
        asked.append(n)
        for k in reversed(range(n)):
            CHUNK(body)(context, k, k + 1, k % 4)

    threads = Threads(PARALLEL_FOR(parallel_for), None, 4)
    address, owner = link_in_process([compile_module(emit_kernel(f, "kernel", NATIVE) + ENTRY, NATIVE)], ["entry"])
    entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(address)
    result = np.zeros(64, np.int64)
    pointers, symbols = np.array([result.ctypes.data]), np.array([sizes[s] for s in f.symbols])
    entry(pointers.ctypes.data, symbols.ctypes.data, ctypes.addressof(threads), scratch.ctypes.data, 8 * 1024)
    del owner
    return result


@pytest.mark.parametrize(
    ("extent", "cost", "parallel"),
    [(8, SERIAL_COST // 8, True), (8, SERIAL_COST // 8 - 1, False), (1, SERIAL_COST, False), (0, SERIAL_COST, False), (2, None, True)],
)
def test_a_loop_goes_to_the_threads_where_that_is_worth_it(extent: int, cost: int | None, parallel: bool):
    asked: list[int] = []
    loop = For(T, Sym("n"), (Store(Y, T, T + 1),), "parallel", cost=None if cost is None else const(cost))
    result = run_with_threads(function(loop), {"n": extent}, np.zeros(1), asked)
    assert asked == ([extent] if parallel else [])
    assert result[: extent + 1].tolist() == [*range(1, extent + 1), 0]


def test_statements_run_one_after_another():
    double = Store(Y, T, Load(Y, T) * 2)
    loops = [For(T, const(5), (s,), "parallel") for s in (Store(Y, T, T), double, double)]
    result = np.zeros(5, np.int64)
    execute(function(*loops, Store(Y, const(0), const(9))), [result], {"n": 0})
    assert result.tolist() == [9, 4, 8, 12, 16]
