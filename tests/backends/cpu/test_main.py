"""The entry points of a program: how much workspace a call needs, and what it finds in it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from octavo.backends.cpu.main import most_scratch
from octavo.backends.runtime.native import link_in_process
from octavo.compiler.driver import Compilation, compile_native
from octavo.ir.dims import dim_max, symbol
from octavo.ir.evaluate import evaluate
from octavo.ir.text import parse


class Entry:
    """The two functions of a compiled program, called as the runtime calls them."""

    def __init__(self, c: Compilation):
        (variant,) = c.native.variants
        names = [f"{variant.prefix}_main", f"{variant.prefix}_workspace"]
        main, workspace, self.owner = link_in_process(variant.objects, names)
        self.main = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 6)(main)
        self.workspace_bytes = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32)(workspace)
        self.weights = np.zeros(c.native.weights_array.size + 64, np.uint8)
        self.weights_at = self.weights.ctypes.data + -self.weights.ctypes.data % 64
        ctypes.memmove(self.weights_at, c.native.weights_array.ctypes.data, c.native.weights_array.size)

    def workspace(self, sizes: list[int], workers: int = 1) -> int:
        table = np.array([*sizes, 0], np.int64)
        return self.workspace_bytes(table.ctypes.data, workers)

    def run(self, inputs: list[np.ndarray], outputs: list[np.ndarray], sizes: list[int]) -> bool:
        """One serial call in a workspace of exactly the bytes asked for; whether it left alone what lies behind."""
        table = np.array([*sizes, 0], np.int64)
        needed = self.workspace(sizes)
        memory = np.full(needed + 64 + 4096, 0xA5, np.uint8)
        start = -memory.ctypes.data % 64
        pointers = [np.array([a.ctypes.data for a in arrays] or [0]) for arrays in (inputs, outputs)]
        place = memory.ctypes.data + start
        status = self.main(pointers[0].ctypes.data, pointers[1].ctypes.data, table.ctypes.data, self.weights_at, place, None)
        assert status == 0
        return bool((memory[start + needed :] == 0xA5).all() and (memory[:start] == 0xA5).all())


CHAIN = """graph g(%x: f32[n,m]) -> (%y) {
  %a = softmax(%x, axis=1)
  %b = softmax(%a, axis=0)
  %y = softmax(%b, axis=1)
}"""


def test_the_workspace_is_the_arena_and_scratch_for_each_worker():
    entry = Entry(compile_native(parse(CHAIN)))
    one, two, three = (entry.workspace([10, 30_000], workers) for workers in (1, 2, 3))
    scratch = two - one
    assert scratch >= 30_000 * 4  # the exponentials of a row
    assert three - two == scratch
    assert one - scratch == 2 * 10 * 30_000 * 4  # two values of the chain at once
    assert entry.workspace([0, 0]) < 64 * 64


@pytest.mark.parametrize("sizes", [(1, 1), (3, 17), (40, 1000), (2, 9000), (0, 5)])
def test_a_call_stays_within_its_workspace(sizes: tuple[int, int]):
    graph = parse(CHAIN)
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    y = np.zeros_like(x)
    assert Entry(compile_native(graph)).run([x], [y], list(sizes)), "it wrote outside its workspace"
    (expected,) = evaluate(graph, {"x": x})
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_a_call_that_finds_sizes_stays_within_its_workspace_and_reports_them():
    graph = parse(
        """graph g(%x: f32[n], %c: bool[n]) -> (%y) {
          %f = compress(%x, %c, axis=0)
          %s = bind_size(%f, %f#1, axis=0, symbol="found")
          %t = softmax(%s, axis=0)
          %k = broadcast_to(%t, shape=[2,found])
          %y = reduce_sum(%k, axes=[1], keepdims=false)
        }"""
    )
    n = 20_000
    x, c, y = np.ones(n, np.float32), np.arange(n) % 10 > 0, np.zeros(2, np.float32)
    assert Entry(compile_native(graph)).run([x, c], [y], [n]), "it wrote outside its workspace"
    np.testing.assert_allclose(y, 1, rtol=1e-4)


def test_the_greediest_kernel_decides_on_scratch_memory():
    n = symbol("n")
    assert most_scratch([]) == 0
    assert most_scratch([64, 128, 0]) == 128
    assert most_scratch([64, n]) == dim_max(64, n)
