"""The NumPy interpreter of loop expressions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from octavo.ir.interpret import interpret
from octavo.ir.loops import Buf, Load, Var, Word
from octavo.ir.scalar import LOOPS
from octavo.ir.types import DType, f32, f64, i32, u8


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_fma_rounds_once(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.uniform(-2, 2, 300).astype(dtype.np) for _ in range(2))
    c = (-a * b * (1 + rng.integers(-1, 2, 300) * 1e-3 * rng.uniform(0, 1, 300))).astype(dtype.np)
    got = interpret(LOOPS.fma(*(Var(v, dtype) for v in "abc")), {"a": a, "b": b, "c": c})
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)]
    error = [abs(Fraction(float(g)) - e) for g, e in zip(got, exact)]
    assert all(e <= Fraction(float(np.spacing(np.abs(g)))) / 2 for e, g in zip(error, got))


def test_fma_of_f32_is_not_rounded_to_f64_first() -> None:
    # a * b is halfway between two f32, of which ties take the lower; c, too small for an f64 sum to keep, decides for the upper
    a, b, c = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2.0**-80)
    got = interpret(LOOPS.fma(*(Var(v, f32) for v in "abc")), {"a": a, "b": b, "c": c})
    assert got == np.float32(1 + 2**-11 + 2**-23)


def test_dot4_multiplies_unsigned_by_signed_bytes_and_wraps() -> None:
    a, b, c = (Var(v, i32) for v in "abc")
    words = {"a": np.uint32([0xFFFFFFFF, 0x01020304]).view(np.int32), "b": np.uint32([0x80808080, 0x7FFF8001]).view(np.int32)}
    got = interpret(LOOPS.dot4(a, b, c), {**words, "c": np.int32([-(1 << 31), 5])})
    assert got.tolist() == [(1 << 31) - 4 * 255 * 128, 5 + 127 - 2 - 3 * 128 + 4]


def test_evaluates_integers_bits_and_conditions() -> None:
    x = Var("x", f32)
    e = LOOPS.where((LOOPS.bitcast(x, i32) >> 23) < 127, LOOPS.cast(-x, i32), LOOPS.cast(x, i32) << 2)
    assert interpret(e, {"x": np.float32([0.5, 1.5, 3.0])}).tolist() == [0, 4, 12]


def test_a_shared_sub_expression_is_evaluated_once() -> None:
    e = Var("x", f64)
    for _ in range(200):
        e = e * 0.5 + e * 0.5  # 2**200 paths
    assert interpret(e, {"x": 3.0}) == 3.0


def test_memory_is_refused() -> None:
    with pytest.raises(TypeError, match="Load has no value without memory"):
        interpret(Load(Buf("b", f32), 0), {})
    with pytest.raises(TypeError, match="Word has no value without memory"):
        interpret(Word(Buf("b", u8), 0), {})
