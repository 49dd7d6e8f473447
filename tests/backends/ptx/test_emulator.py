"""The emulator of grids finds the mistakes that hardware forgives."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.backends.lower.grid import blocks
from octavo.ir.loops import Alloc, Barrier, Buf, Const, If, Load, LoopFunction, Stmt, Store, Var
from octavo.ir.types import f32

from .simt import execute

X, Y = Buf("x", f32), Buf("y", f32)
SHARED = Buf("s", f32, "shared", 4)
BLOCK, THREAD = Var("block"), Var("thread")


def run(*body: Stmt, threads: int = 4) -> np.ndarray:
    """The output of two blocks over x = 0..7."""
    function = LoopFunction("f", (X, Y), 1, (), (blocks(BLOCK, 2, THREAD, threads, body),))
    result = np.zeros(8, np.float32)
    execute(function, [np.arange(8, dtype=np.float32)], [result], {})
    return result


AT = BLOCK * 4 + THREAD
FILL = (Alloc(SHARED), Store(SHARED, THREAD, Load(X, AT)))


def test_threads_exchange_values_through_shared_memory():
    reverse = Store(Y, AT, Load(SHARED, 3 - THREAD))
    assert run(*FILL, Barrier(), reverse).tolist() == [3, 2, 1, 0, 7, 6, 5, 4]


def test_a_missing_barrier_is_a_race():
    with pytest.raises(AssertionError, match="reads what another thread writes in s without a barrier"):
        run(*FILL, Store(Y, AT, Load(SHARED, 3 - THREAD)))


def test_overwriting_what_others_still_read_is_a_race():
    read, overwrite = Store(Y, AT, Load(SHARED, 3 - THREAD)), Store(SHARED, THREAD, Load(X, AT))
    with pytest.raises(AssertionError, match="writes what another thread reads in s"):
        run(*FILL, Barrier(), read, overwrite)


def test_one_element_written_by_two_threads_is_a_race():
    with pytest.raises(AssertionError, match="two threads write the same element of s"):
        run(Alloc(SHARED), Store(SHARED, THREAD // 2, Load(X, AT)))
    with pytest.raises(AssertionError, match="two threads store the same element of y"):
        run(Store(Y, THREAD, Load(X, AT)))


def test_a_barrier_must_be_reached_by_the_whole_block():
    with pytest.raises(AssertionError, match="some threads of a block do not reach"):
        run(If(THREAD < 2, (Barrier(),)))
    run(If(BLOCK < 1, (Barrier(),)))  # blocks do not wait for each other


def test_an_access_outside_a_buffer_is_found():
    with pytest.raises(AssertionError, match=r"x\[1\.\.8\] of 8"):
        run(Store(Y, AT, Load(X, AT + 1)))
    with pytest.raises(AssertionError, match="a store into the input x"):
        run(Store(X, AT, Load(Y, AT)))


def test_threads_go_their_own_ways():
    odd = If(THREAD % 2 > 0, (Store(Y, AT, Const(1.0, f32)),), (Store(Y, AT, Load(X, AT)),))
    assert run(odd).tolist() == [0, 1, 2, 1, 4, 1, 6, 1]
