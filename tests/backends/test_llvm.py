"""The emitter: every operation and conversion of the loop IR, as scalars and as vectors, gives what NumPy gives, bit for bit."""

from __future__ import annotations

import math
import struct

import ml_dtypes
import numpy as np
import pytest
from octavo.backends.cpu.kernel import emit_kernel
from octavo.backends.instructions import bf16_bits
from octavo.backends.llvm import Emitter
from octavo.backends.target import Target, find_target, optimized, runnable
from octavo.ir.dims import symbol
from octavo.ir.errors import CodegenError
from octavo.ir.interpret import interpret
from octavo.ir.loops import (
    OPERATIONS,
    Alloc,
    Bitcast,
    Buf,
    Cast,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopFunction,
    Op,
    Prefetch,
    Reread,
    Stmt,
    Store,
    Sym,
    Var,
    While,
    Word,
)
from octavo.ir.scalar import LOOPS
from octavo.ir.types import DTYPES, DType, bool_, f32, i32, i64

from .native import LANES, computed, execute, same_bits

FLOATS = [DTYPES[n] for n in ("f64", "f32", "f16")]  # f16 never computes, but may
INTEGERS = [DTYPES[n] for n in ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")]
NARROW = [DTYPES[n] for n in ("bf16", "f8e4m3", "f8e5m2", "i4", "u4")]  # never compute
DTYPES_IN_REGISTERS = [*FLOATS, *NARROW, *INTEGERS, bool_]
COUNT = 70  # four vectors and a rest

COMPARISONS = ("lt", "le", "eq", "ne")
FLOAT_OPERATIONS = ("add", "sub", "mul", "div", "neg", "abs", "sqrt", "floor", "ceil", "rint", "trunc", *COMPARISONS)
INTEGER_OPERATIONS = ("add", "sub", "mul", "div", "rem", "min", "max", "and", "or", "xor", "shl", "shr", "not", "neg", *COMPARISONS)
BOOL_OPERATIONS = ("and", "or", "xor", "not", "eq", "ne")
UNARY = ("neg", "abs", "sqrt", "floor", "ceil", "rint", "trunc", "not")

both = pytest.mark.parametrize("vector", [False, True], ids=["scalars", "vectors"])


def operands(dtype: DType, seed: int) -> np.ndarray:
    """Edge cases and random elements, in another order for each seed."""
    rng = np.random.default_rng(seed)
    if dtype is bool_:
        return rng.random(COUNT) < 0.5
    if dtype.is_float:
        top = float(ml_dtypes.finfo(dtype.np).max)
        edges = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, top, -top, 127.6, -128.7, 255.9, 3e9, -3e9, 1e19]
        with np.errstate(over="ignore"):
            values = np.concatenate([edges, rng.standard_normal(COUNT - len(edges)) * 10 ** rng.uniform(-3, 6, COUNT - len(edges))])
            return rng.permutation(values).astype(dtype.np)
    if dtype.bits == 4:
        return rng.integers(dtype.min, dtype.max, COUNT, endpoint=True).astype(dtype.np)
    edges = [0, 1, 2, dtype.max, dtype.max - 1, dtype.min, dtype.min + 1, dtype.bits - 1, dtype.bits, dtype.bits + 1]
    edges += [-1, -2, -dtype.bits] if dtype.kind == "i" else []
    values = [*edges, *rng.integers(dtype.min, dtype.max, COUNT - len(edges), dtype.np, endpoint=True).tolist()]
    return rng.permutation(np.array(values, dtype.np))


def assert_same(names: list[str], results: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    wrong = {n: (a, b) for n, a, b in zip(names, *results, strict=True) if not same_bits(a, b)}
    assert not wrong, wrong


def operation(name: str, a: Expr, b: Expr) -> Expr:
    return Op(name, (a,) if name in UNARY else (a, b), bool_ if name in COMPARISONS else a.dtype)


def operations_of(dtype: DType) -> tuple[str, ...]:
    if dtype.is_float:
        return FLOAT_OPERATIONS
    return BOOL_OPERATIONS if dtype is bool_ else (*INTEGER_OPERATIONS, *(["abs"] if dtype.kind == "i" else []))


@both
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, bool_], ids=str)
def test_operations(dtype: DType, vector: bool):
    names = operations_of(dtype)
    arrays = [operands(dtype, 1), operands(dtype, 2)]
    assert_same(list(names), computed(lambda i, a, b: [operation(n, Load(a, i), Load(b, i)) for n in names], arrays, COUNT, vector))


@both
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_operations_by_a_literal(dtype: DType, vector: bool):
    """LLVM's own division and shifts are undefined for some of these."""
    literals = [k for k in (0, 1, -1, 3, dtype.bits, 100, dtype.max, dtype.min) if dtype.min <= k <= dtype.max]
    names = [(n, k) for n in ("div", "rem", "shl", "shr") for k in literals]
    results = computed(lambda i, a: [operation(n, Load(a, i), Const(k, dtype)) for n, k in names], [operands(dtype, 3)], COUNT, vector)
    assert_same([f"{n} {k}" for n, k in names], results)


@both
@pytest.mark.parametrize("dtype", [DTYPES["f64"], f32], ids=str)
def test_fma_rounds_once(dtype: DType, vector: bool):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, COUNT)).astype(dtype.np)
    c = -(a * b)  # what is left is the rounding error of the product
    results = computed(lambda i, *bufs: [Op("fma", tuple(Load(x, i) for x in bufs), dtype)], [a, b, c], COUNT, vector)
    assert_same(["fma"], results)
    assert np.any(results[0][0] != 0)


@both
@pytest.mark.parametrize("target", runnable(), ids=lambda t: t.name)
def test_dot4_sums_four_products_and_saturates_nowhere(target: Target, vector: bool):
    def words(dtype: DType, *edges: int) -> np.ndarray:
        rng = np.random.default_rng(len(edges))
        mixed = rng.choice(edges, 4 * (COUNT - len(edges)))
        return np.concatenate([np.repeat(edges, 4), mixed]).astype(dtype.np).view(np.int32)

    a, b = words(DTYPES["u8"], 255, 255, 255, 0, 1, 127, 128), words(DTYPES["i8"], -128, 127, -1, -128, -128, 127, 1)
    c = operands(i32, 9)
    lanes = target.lanes(i32.bits)
    for n in {LANES, lanes, lanes // 2}:
        results = computed(lambda i, *bufs: [Op("dot4", tuple(Load(x, i) for x in bufs), i32)], [a, b, c], COUNT, vector, target, n)
        assert_same([f"{n} lanes"], results)


def test_dot4_is_one_instruction_where_there_is_one():
    a, b, c = (Buf(name, i32) for name in "abc")
    v = Var("v")
    store = Store(c, v, Op("dot4", (Load(a, v), Load(b, v), Load(c, v)), i32))

    def assembly(name: str) -> str:
        target = find_target(name)
        function = LoopFunction("k", (a, b, c), 2, (), (For(v, const(target.lanes(i32.bits)), (store,), "vector"),))
        module, machine = optimized(f'target triple = "{target.triple}"\n{emit_kernel(function, "k", target)}', target)
        return machine.emit_assembly(module)

    assert assembly("x86-64-v4-vnni").count("vpdpbusd") == 1
    assert assembly("x86-64-v3-vnni").count("{vex}\tvpdpbusd") == 1
    assert assembly("x86-64-v4").count("vpmaddwd") == 2
    assert "mla" in assembly("aarch64")
    assert assembly("aarch64-i8mm").count("usdot") == 1
    assert assembly("aarch64-dotprod").count("sdot") == 3  # two of them for all the rows that meet a vector


@both
def test_flooring_division_by_positive_divisors(vector: bool):
    count = 4 * LANES  # no lane is dead, whose divisor would be 0
    a, b = np.arange(count) * 7 - 200, np.arange(count) % 9 + 1
    names = [(n, d) for n in ("floordiv", "mod") for d in (None, 1, 2, 3, 64, 1 << 40)]

    def make(i: Expr, x: Buf, y: Buf) -> list[Expr]:
        return [Op(n, (Load(x, i), Load(y, i) if d is None else Const(d, i64)), i64) for n, d in names]

    assert_same([f"{n} {d}" for n, d in names], computed(make, [a, b], count, vector))


@both
@pytest.mark.parametrize("dtype", DTYPES_IN_REGISTERS, ids=str)
def test_where_picks(dtype: DType, vector: bool):
    arrays = [operands(bool_, 5), operands(dtype, 6), operands(dtype, 7)]

    def make(i: Expr, c: Buf, a: Buf, b: Buf) -> list[Expr]:
        x, y = Load(a, i), Load(b, i)
        shared = Load(c, Const(0, i64))  # a condition of all lanes
        return [Op("where", (Load(c, i), x, y), dtype), Op("where", (shared, x, y), dtype), Op("where", (Load(c, i), x, x), dtype)]

    assert_same(["each", "all", "same"], computed(make, arrays, COUNT, vector))


def test_every_operation_is_tested_here():
    tested = {"fma", "dot4", "floordiv", "mod", "where"}.union(*map(operations_of, [*FLOATS, *INTEGERS, bool_]))
    assert tested == OPERATIONS


# --- conversions --------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", DTYPES_IN_REGISTERS, ids=str)
def test_casts(dtype: DType, vector: bool):
    """Floats saturate to integers, integers wrap, NaN is 0; narrow floats round half to even and keep NaN and infinities."""
    with np.errstate(all="ignore"):
        results = computed(lambda i, a: [Cast(Load(a, i), to) for to in DTYPES_IN_REGISTERS], [operands(dtype, 8)], COUNT, vector)
    assert_same([f"to {to}" for to in DTYPES_IN_REGISTERS], results)


@both
@pytest.mark.parametrize("dtype", ["i4", "u4"])
@pytest.mark.parametrize("target", runnable(), ids=lambda t: t.name)
def test_each_4_bit_integer_of_a_word_becomes_a_float(target: Target, dtype: str, vector: bool):
    words = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, COUNT, np.int64).astype(np.int32)
    words[:16] = [n * 0x11111111 - (n >> 3 << 32) for n in range(16)]  # every integer at every bit

    def make(i: Expr, a: Buf) -> list[Expr]:
        return [Cast(Cast(Op("shr", (Load(a, i), Const(bit, i32)), i32), DTYPES[dtype]), f32) for bit in range(0, 32, 4)]

    lanes = target.lanes(i32.bits)
    for n in {LANES, lanes, lanes // 2}:
        assert_same([f"{n} lanes, bit {bit}" for bit in range(0, 32, 4)], computed(make, [words], COUNT, vector, target, n))


@pytest.mark.parametrize("registers", [0, 1, 2, 4])
@pytest.mark.parametrize("zero", [0, 3, 255, -128, 32767, 0.5])
@pytest.mark.parametrize("target", runnable(), ids=lambda t: t.name)
def test_numbers_are_quantized_as_if_they_were_rounded_moved_and_saturated_in_turn(target: Target, zero: float, registers: int):
    """A number at a time, or as many as fill that many registers."""
    near = [k - zero + d for k in (-32768, -128, 0, 127, 255, 32767, 65535) for d in (-0.5, -0.49, 0, 0.5, 0.51)]
    x = np.concatenate([near, [2.0**23, -(2.0**24), 2.0**31, -(2.0**31), 1e30, -1e30], operands(f32, 13)]).astype(np.float32)
    to = [DTYPES[name] for name in ("u8", "i8", "u16", "i16", "i32")]

    def make(i: Expr, a: Buf) -> list[Expr]:
        moved = [Op("rint", (Load(a, i),), f32) + zero]
        return [Cast(y, t) for y in (*moved, *(LOOPS.where(y < math.inf, y, math.inf) for y in moved)) for t in to]

    results = computed(make, [x], len(x), registers > 0, target, max(1, registers) * target.lanes(32))
    assert_same([f"{t}{how}" for how in ("", ", of NaN the greatest") for t in to], results)


def test_bytes_of_several_registers_are_packed_together():
    x, y, v = Buf("x", f32), Buf("y", DTYPES["i8"]), Var("v")
    number = Op("rint", (Load(x, v),), f32) + 3.0
    store = Store(y, v, Cast(LOOPS.where(number < math.inf, number, math.inf), y.dtype))
    for name in ("x86-64-v3", "x86-64-v4"):
        target = find_target(name)
        function = LoopFunction("k", (x, y), 1, (), (For(v, const(4 * target.lanes(32)), (store,), "vector"),))
        module, machine = optimized(f'target triple = "{target.triple}"\n{emit_kernel(function, "k", target)}', target)
        found = machine.emit_assembly(module)
        assert [found.count(step) for step in ("cvtps2dq", "packssdw", "packsswb", "vpmov")] == [4, 2, 1, 0], name


@both
@pytest.mark.parametrize(("wide", "narrow"), [("f32", "bf16"), ("f32", "f16"), ("f64", "f16"), ("f64", "f32")])
def test_casts_round_halves_to_even_and_only_once(wide: str, narrow: str, vector: bool):
    of, to = DTYPES[wide], DTYPES[narrow]
    info = ml_dtypes.finfo(to.np)
    rng = np.random.default_rng(9)
    unit = float(info.eps) * rng.integers(1 << info.nmant, 2 << info.nmant, COUNT)  # exact in the narrow type
    half = float(info.eps) / 2
    nudge = float(ml_dtypes.finfo(of.np).eps)
    x = unit + np.select([np.arange(COUNT) % 5 == k for k in range(4)], [half, half + nudge, half - nudge, -half], 0)
    x = (x * rng.choice([1, -1], COUNT)).astype(of.np)
    x[:3] = [float(info.max) * (1 + half / 2), -float(info.max) * (1 + half), float(info.smallest_subnormal) * 2.5]
    assert_same([narrow], computed(lambda i, a: [Cast(Load(a, i), to)], [x], COUNT, vector))


@both
@pytest.mark.parametrize(
    ("dtype", "to"), [("f32", "i32"), ("i32", "f32"), ("f64", "u64"), ("i16", "f16"), ("f16", "u16"), ("bf16", "i16"), ("bool", "u8")]
)
def test_bits_stay(dtype: str, to: str, vector: bool):
    assert_same([to], computed(lambda i, a: [Bitcast(Load(a, i), DTYPES[to])], [operands(DTYPES[dtype], 10)], COUNT, vector))


LITERALS = [0.0, -0.0, 1.0, -1.5, 0.1, 1e-40, 1e30, 1e300, 65519.9, 65520.0, 2.0**-25, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("dtype", [*FLOATS, DTYPES["bf16"]], ids=str)
def test_literals_are_rounded_to_their_dtype(dtype: DType):
    with np.errstate(over="ignore"):
        results = computed(lambda i, a: [Const(v, dtype) for v in LITERALS], [np.zeros(1, np.float32)], 1, False)
        assert_same([str(v) for v in LITERALS], results)


def test_bits_of_a_bf16():
    for x in (1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 3.39e38, 1e-40, float("inf")):
        assert bf16_bits(x) == int(np.float32(x).astype(ml_dtypes.bfloat16).view(np.uint16))
    assert bf16_bits(float("nan")) & 0x7FFF > 0x7F80
    low = struct.unpack("<f", struct.pack("<I", 0x7F800001))[0]  # a NaN whose upper half says infinity
    assert bf16_bits(low) & 0x7FFF > 0x7F80


# --- memory ------------------------------------------------------------------------------------------------------------------

MEMORY = [f32, DTYPES["f16"], DTYPES["bf16"], DTYPES["i64"], DTYPES["u8"], bool_]


@both
@pytest.mark.parametrize("dtype", MEMORY, ids=str)
@pytest.mark.parametrize("target", runnable(), ids=lambda t: t.name)
def test_reads(target: Target, dtype: DType, vector: bool):
    data = np.concatenate([operands(dtype, 11)] * 4)
    places = np.random.default_rng(12).integers(0, len(data), COUNT)
    half = np.arange(COUNT) % 2 == 0

    def make(i: Expr, x: Buf, p: Buf, m: Buf) -> list[Expr]:
        at = Load(p, i)
        mask = Load(m, i)
        other = Const(True if dtype is bool_ else 3, dtype)
        far = Const(1 << 40, i64)  # never touched
        return [
            Load(x, i + 5),
            Load(x, Const(7, i64)),
            Load(x, i * 3),
            Load(x, -i + (COUNT - 1)),
            Load(x, at),
            Load(x, i, mask, other),
            Load(x, Op("where", (mask, i * 3, far), i64), mask, other),
            Load(x, Op("where", (mask, at, far), i64), mask, Load(x, i)),
            Load(x, Const(7, i64), Load(m, Const(0, i64)), other),
            Load(x, far, Load(m, Const(1, i64)), other),
            Load(x, far, Load(m, Const(1, i64)), Load(x, i)),
            Load(x, Const(7, i64), mask, other),
            Load(x, i + 1, Const(True, bool_), other),
            Load(x, far, Const(False, bool_), other),
        ]

    names = ["next", "one", "strided", "backwards", "gathered", "masked", "strided and masked", "gathered and masked"]
    names += ["one if", "one unless", "one unless, else each", "one for some", "always", "never"]
    assert_same(names, computed(make, [data, places, half], COUNT, vector, target))


def test_an_index_that_does_not_move_may_mention_the_lane():
    data = np.arange(5, dtype=np.float32)
    v = Var("v")
    x, y = Buf("x", f32), Buf("y", f32)
    body = For(v, Const(LANES, i64), (Store(y, v, Load(x, v - v + 3)),), "vector")
    result = np.zeros(LANES, np.float32)
    execute(LoopFunction("kernel", (x, y), 1, (), (body,)), [data, result])
    assert (result == 3).all()


@both
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("target", runnable(), ids=lambda t: t.name)
def test_words_are_four_bytes_from_anywhere(target: Target, dtype: str, vector: bool):
    data = np.random.default_rng(3).integers(0, 256, 4 * COUNT + 7).astype(np.uint8).view(DTYPES[dtype].np)
    assert_same(["each", "one"], computed(lambda i, x: [Word(x, i * 4 + 3), Word(x, Const(5, i64))], [data], COUNT, vector, target))


def vector_store(index, value, mask=None, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(what was stored over sevens, the lane's values) by one vector store into 64 elements."""
    v = Var("v")
    x, m, y = Buf("x", f32), Buf("m", bool_), Buf("y", f32)
    data, live, result = np.arange(LANES, dtype=np.float32) + 100, np.arange(LANES) % 3 == 0, np.full(64, 7, np.float32)
    store = Store(y, index(v), value(Load(x, v)), None if mask is None else mask(Load(m, v)))
    loop = For(v, Const(LANES, i64), (store,), "vector", limit=None if limit is None else Const(limit, i64))
    execute(LoopFunction("kernel", (x, m, y), 2, (), (loop,)), [data, live, result])
    return result, data


def test_stores():
    result, data = vector_store(lambda v: v + 2, lambda x: x)
    assert result.tolist() == [7, 7, *data, *[7] * 46]
    result, data = vector_store(lambda v: v * 3, lambda x: x)
    assert result[0:48:3].tolist() == data.tolist()
    assert (np.delete(result, range(0, 48, 3)) == 7).all()
    result, _ = vector_store(lambda v: v, lambda x: Const(1.0, f32))
    assert result.tolist() == [1] * LANES + [7] * 48


def test_stores_leave_dead_lanes_alone():
    for index in (lambda v: v, lambda v: v * 2):
        step = 2 if index(Const(1, i64)).value == 2 else 1
        result, data = vector_store(index, lambda x: x, limit=5)
        assert result[: 5 * step : step].tolist() == data[:5].tolist()
        assert (result[5 * step :] == 7).all()
        result, data = vector_store(index, lambda x: x, mask=lambda m: m, limit=8)
        assert [k for k in range(64) if result[k] != 7] == [0, 3 * step, 6 * step]
    result, _ = vector_store(lambda v: Const(4, i64), lambda x: Const(1.0, f32), mask=lambda m: Const(False, bool_))
    assert (result == 7).all()


def test_of_lanes_that_store_to_one_place_the_last_wins():
    result, data = vector_store(lambda v: Const(3, i64), lambda x: x)
    assert result[3] == data[-1]


def test_masks_hold_for_registers_too():
    v, w = Var("v"), Var("w")
    x, y, r = Buf("x", f32), Buf("y", f32), Buf("r", f32, "reg", LANES)
    odd = Op("eq", (Op("mod", (w, Const(2, i64)), i64), Const(1, i64)), bool_)
    lanes = Const(LANES, i64)
    fill = For(v, lanes, (Store(r, v, Const(1.0, f32)),), "vector")
    some = For(w, lanes, (Store(r, w, Load(x, w), odd), Store(y, w, Load(r, w, odd, -1.0))), "vector")
    result = np.zeros(LANES, np.float32)
    body = For(Var("once"), Const(1, i64), (Alloc(r), fill, some))
    execute(LoopFunction("kernel", (x, y), 1, (), (body,)), [np.arange(LANES, dtype=np.float32), result])
    assert result.tolist() == [k if k % 2 else -1 for k in range(LANES)]


# --- statements --------------------------------------------------------------------------------------------------------------


def run(body: tuple[Stmt, ...], y: Buf, size: int = 8, sizes: dict[str, int] | None = None) -> list[float]:
    result = np.zeros(size, y.dtype.np)
    execute(LoopFunction("kernel", (y,), 0, tuple(sizes or ()), (For(Var("once"), Const(1, i64), body),)), [result], sizes)
    return result.tolist()


Y = Buf("y", i64)
NATIVE = find_target("native")


def const(k: int) -> Const:
    return Const(k, i64)


def add_to(buf: Buf, at: Expr, k: Expr) -> Store:
    return Store(buf, at, Load(buf, at) + k)


def test_a_value_read_from_memory_is_read_anew_by_each_statement():
    assert run((add_to(Y, const(0), const(1)), add_to(Y, const(0), const(1)), Store(Y, const(1), Load(Y, const(0)))), Y)[:2] == [2, 2]


def test_a_let_keeps_what_was_read():
    let = Let(Var("a"), Load(Y, const(0)))
    assert run((let, Store(Y, const(0), const(5)), Store(Y, const(1), let.var)), Y)[:2] == [5, 0]


def test_a_while_asks_each_time():
    assert run((While(Load(Y, const(0)) < 5, (add_to(Y, const(0), const(2)), add_to(Y, const(1), const(1)))),), Y)[:2] == [6, 3]


def test_a_branch_takes_one_way():
    body = tuple(If(Sym("n") < k, (Store(Y, const(k), const(1)),), (Store(Y, const(k), const(2)),)) for k in range(3))
    assert run(body, Y, sizes={"n": 1})[:3] == [2, 2, 1]
    assert run((If(Const(False, bool_), (Store(Y, const(0), const(1)),)),), Y)[0] == 0


def test_loops_nest_and_values_of_one_branch_are_not_used_in_another():
    i, j = Var("i"), Var("j")
    shared = i * 3 + j
    inner = For(j, const(2), (If(j < 1, (add_to(Y, const(0), shared),), (add_to(Y, const(1), shared),)),))
    assert run((For(i, const(3), (inner,)),), Y)[:2] == [0 + 3 + 6, 1 + 4 + 7]


def test_loops_may_run_no_times():
    i = Var("i")
    assert run((For(i, Sym("n"), (Store(Y, const(0), const(1)),)),), Y, sizes={"n": 0})[0] == 0


def test_memory_of_a_size_that_the_run_tells_and_of_a_large_one():
    i = Var("i")
    for size in (DTYPES["i64"].itemsize, 100_000):
        local = Buf("local", i64, "local", size)
        body = (Alloc(local), For(i, const(8), (Store(local, i, i * i),)), Store(Y, const(0), Load(local, const(7))))
        assert run(body, Y)[0] == 49


def test_memory_inside_an_unrolled_loop_is_reserved_once():
    u = Var("u")
    local = Buf("local", i64, "local", 4096)  # too large for the stack
    last = (Alloc(local), Store(local, const(4095), u), Store(Y, u, Load(local, const(4095))))
    guard = Buf("guard", i64, "local", 4096)
    keep = (Alloc(guard), Store(guard, const(0), const(9)))
    assert run((*keep, For(u, const(4), last, "unroll"), Store(Y, const(7), Load(guard, const(0)))), Y) == [0, 1, 2, 3, 0, 0, 0, 9]


def test_a_hint_may_point_anywhere():
    assert run((Prefetch(Y, const(1 << 30)), Store(Y, const(0), const(1))), Y)[0] == 1


@pytest.mark.parametrize("again", [False, True])
def test_what_is_to_be_reread_stays_in_its_loop(again):
    x, i = Buf("x", i64), Var("i")
    body = (*([Reread()] if again else []), Store(Y, i, Load(x, const(0)) + i))
    function = LoopFunction("f", (x, Y), 1, ("n",), (For(i, Sym("n"), body),))
    module, _ = optimized(emit_kernel(function, "kernel", NATIVE), NATIVE)
    (kernel,) = (f for f in module.functions if f.name == "kernel.0")
    found = [[i.opcode for i in block.instructions] for block in kernel.blocks]
    (loop,) = (opcodes for opcodes in found if "store" in opcodes)
    assert ("load" in loop) == again


def test_deep_expressions_are_emitted_without_recursion():
    e: Expr = Load(Y, const(0))
    for _ in range(5000):
        e = e ^ 1
    assert run((Store(Y, const(1), e + 2),), Y)[1] == 2


def test_a_shared_expression_is_emitted_once():
    e: Expr = Load(Y, const(0))
    for _ in range(60):
        e = e + e  # 2**60 paths
    text = emit_kernel(LoopFunction("k", (Y,), 0, (), (Store(Y, const(1), e),)), "k", NATIVE)
    assert text.count(" = add i64") == 60
    assert interpret(e, {}, lambda load, index: np.int64(1)) == 1 << 60


# --- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c64", "string"])
def test_dtypes_without_registers_are_refused(name: str):
    with pytest.raises(CodegenError, match=f"no machine code for values of dtype {name}"):
        Emitter().type(DTYPES[name])


V = Var("v")

REFUSED = {
    "inside another": For(V, const(4), (For(Var("w"), const(4), (), "vector"),), "vector"),
    "needs a constant extent": For(V, Sym("n"), (), "vector"),
    "differs from lane to lane": For(V, const(4), (If(V < 2, ()),), "vector"),
    "that are no neighbours": For(V, const(4), (Store(Y, V, Cast(Word(Buf("x", DTYPES["u8"]), V), i64)),), "vector"),
    "'thread' cannot stand here": For(V, const(4), (), "thread"),
    "needs a constant size, not n": Alloc(Buf("r", i32, "reg", symbol("n"))),
    "no operation cosine": Store(Y, const(0), Op("cosine", (Load(Y, const(0)),), i64)),
}


@pytest.mark.parametrize("text", REFUSED)
def test_malformed_loops_are_refused(text: str):
    with pytest.raises(CodegenError, match=text):
        emit_kernel(LoopFunction("k", (Y,), 0, ("n",), (For(Var("t"), const(1), (REFUSED[text],)),)), "k", NATIVE)


@both
@pytest.mark.parametrize("name", ["f8e4m3", "f8e5m2"])
def test_every_8_bit_float_widens_and_every_step_between_two_rounds(name: str, vector: bool):
    """Half-way points too, and what lies just beside them, from subnormal to too large."""
    dtype = DTYPES[name]
    codes = np.arange(256, dtype=np.uint8).view(dtype.np)
    assert_same(["widened"], computed(lambda i, a: [Cast(Load(a, i), f32)], [codes], 256, vector))
    finite = np.sort(codes.astype(np.float32)[np.isfinite(codes.astype(np.float32))])
    middles = (finite[1:] + finite[:-1]) / 2
    top = finite[-1] * np.float32(1 + 1 / 16)  # half-way between the largest and what would follow, or near
    values = np.concatenate([middles, [top, -top, 464, 61440, 1e30, -1e30, np.inf, -np.inf, np.nan]]).astype(np.float32)
    values = np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(-np.inf))])
    values = values[(np.abs(values) >= np.finfo(np.float32).tiny) | (values == 0) | np.isnan(values)]  # subnormals are flushed
    assert_same(["rounded"], computed(lambda i, a: [Cast(Load(a, i), dtype)], [values], values.size, vector))
