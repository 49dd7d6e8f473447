"""The micro-kernel in matrix registers: what its loops mean, and what their machine code computes."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.backends.cpu.kernel import emit_kernel
from octavo.backends.lower.matrices import SIDE, TILES, matrix_tile, multiply_matrices, words_in_a_step
from octavo.backends.target import find_target
from octavo.ir.errors import CodegenError
from octavo.ir.loops import Buf, Const, LoopFunction, Matrices, Matrix, MatrixDot, MatrixLoad, MatrixZero, Names, Stmt
from octavo.ir.ops.registry import op_def
from octavo.ir.types import i32, i64, u8
from octavo.tests.backends.amx import LEVEL, Emulator
from octavo.tests.backends.native import execute
from octavo.tests.ir.test_ops_loops import Machine

EXTREMES = (0, 255, 255, 128), (-128, -128, 127, 1)


def product(rows: int, vectors: int, k: tuple[int, int], gap: int) -> tuple[LoopFunction, list[np.ndarray], np.ndarray]:
    """Loops for a tile whose rows lie `gap` bytes apart, over k (taps, words of each), and operands: x, panels, the result, of ones; the sums in 64 bits."""
    x, panels, y = Buf("x", u8), Buf("p", i32), Buf("y", i32)
    taps, words = k
    depth = 4 * taps * words
    rng = np.random.default_rng(rows * vectors)
    a = rng.choice(EXTREMES[0], (rows, depth)).astype(np.uint8)
    b = rng.choice(EXTREMES[1], (depth, vectors * SIDE)).astype(np.int8)
    a[0], b[:, 0] = 255, -128
    step = words_in_a_step(words)
    pitch = 4 * words + gap  # of taps
    tile, names = matrix_tile(Names(), rows, vectors, step), Names()

    def row(q: int) -> Const:
        return Const(q * taps * pitch, i64)

    moves, start = (pitch, 4), Const(0, i64)
    body = multiply_matrices(names, tile, y, vectors, x, row, taps * pitch, moves, panels, start, vectors * SIDE, k)
    function = LoopFunction("k", (x, panels, y), 2, (), (Matrices(tile.registers, tuple(body)),))
    lying = np.full((rows, taps, pitch), 77, np.uint8)
    lying[:, :, : 4 * words] = a.reshape(rows, taps, -1)
    last = lying.reshape(-1)[: lying.size - gap]  # not a byte more than is meant to be read
    packed = op_def("pack_dots").reference(b, vectors * SIDE)  # type: ignore[misc]
    return (
        function,
        [last.copy(), packed.reshape(-1), np.ones(rows * vectors * SIDE, np.int32)],
        a.astype(np.int64) @ b.astype(np.int64),
    )


CASES = [(rows, vectors, (1, 32), 0) for rows, vectors in TILES]
CASES += [(32, 2, (3, 24), 13), (27, 2, (1, 10), 1), (5, 1, (2, 7), 0), (16, 3, (1, 1), 3), (1, 1, (3, 17), 0)]


@pytest.mark.parametrize(("rows", "vectors", "k", "gap"), CASES)
def test_its_loops_sum_products(rows: int, vectors: int, k: tuple[int, int], gap: int):
    function, arrays, expected = product(rows, vectors, k, gap)
    machine = Machine(dict(zip(function.params, arrays, strict=True)), {})
    machine.run(function.body)
    np.testing.assert_array_equal(arrays[2].reshape(expected.shape), expected)


@pytest.mark.parametrize(("rows", "vectors", "k", "gap"), CASES)
def test_its_machine_code_sums_products(rows: int, vectors: int, k: tuple[int, int], gap: int, amx: Emulator | None):
    function, arrays, expected = product(rows, vectors, k, gap)
    execute(function, arrays, target=find_target(LEVEL))
    np.testing.assert_array_equal(arrays[2].reshape(expected.shape), expected)


@pytest.mark.parametrize(("words", "step"), [(16, 16), (48, 16), (24, 12), (10, 10), (17, 1), (34, 2), (0, 0)])
def test_steps_divide_what_lies_in_a_row(words: int, step: int):
    assert words_in_a_step(words) == step


M, N = Matrix("m", 16, 16), Matrix("n", 4, 16)
BAD: dict[str, tuple[str, Stmt]] = {
    "there are 8 of up to 16x16": ("x86-64-v4-amx", Matrices((Matrix("m", 17, 16),), ())),
    "x86-64-v4-vnni has no matrix registers": ("x86-64-v4-vnni", Matrices((M,), ())),
    "m is not among those of the body around it": ("x86-64-v4-amx", Matrices((N,), (MatrixZero(M),))),
    "cannot hold the products of": ("x86-64-v4-amx", Matrices((M, N), (MatrixDot(M, N, M),))),
    "no matrix register holds words of i64": (
        "x86-64-v4-amx",
        Matrices((M,), (MatrixLoad(M, Buf("x", i64, "local", 256), Const(0, i64), Const(16, i64)),)),
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_no_processor_has_is_refused(message: str):
    level, statement = BAD[message]
    with pytest.raises(CodegenError, match=message):
        emit_kernel(LoopFunction("k", (), 0, (), (statement,)), "k", find_target(level))
