"""The transcendentals of generated code, against NumPy one precision up: accuracy, special values and length.

Bounds are in units in the last place of the result, and are those that `transcendental.py` promises.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from octavo.ir.interpret import interpret
from octavo.ir.loops import OPERATIONS, Cast, Const, Expr, Op, Var, children
from octavo.ir.scalar import LOOPS, NUMPY
from octavo.ir.types import DType, f32, f64

UNARY = ["exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf"]
INF, NAN = math.inf, math.nan
ULPS = {f32: 2.0, f64: 4.0}


def expression(name: str, dtype: DType, **fixed: float) -> Expr:
    args = [Const(fixed[v], dtype) if v in fixed else Var(v, dtype) for v in ("xy" if name == "pow" else "x")]
    return getattr(LOOPS, name)(*args)


def run(name: str, dtype: DType, x: object, y: object = 0.0) -> np.ndarray:
    return interpret(expression(name, dtype), {"x": np.asarray(x, dtype.np), "y": np.asarray(y, dtype.np)})


def reference(name: str, *args: np.ndarray) -> np.ndarray:
    """One precision up; erf of f64 is the C library's, which is within one ulp."""
    wide = np.float64 if args[0].dtype == np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        return getattr(NUMPY, name)(*(a.astype(wide) for a in args))


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in units in the last place; infinite where one is NaN or infinite and the other is not the same."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        exponent = np.clip(np.frexp(want)[1], info.minexp + 1, info.maxexp)
        distance = np.abs(got.astype(want.dtype) - want) / np.ldexp(np.ones((), want.dtype), exponent - info.nmant - 1)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(np.isfinite(got) & np.isfinite(rounded), distance, np.where(same, 0, np.inf))


def samples(dtype: DType) -> np.ndarray:
    """Every magnitude and sign, the ranges where functions do something, and the edges of formats and reductions."""
    rng = np.random.default_rng(7)
    bits = np.uint32 if dtype is f32 else np.uint64
    anything = rng.integers(0, np.iinfo(bits).max, 40_000, dtype=bits).view(dtype.np)
    usual = np.concatenate([rng.uniform(-a, a, 30_000) for a in (0.01, 0.5, 1, 2, 10, 100, 1e5)])
    info = np.finfo(dtype.np)
    edges = [0, info.smallest_subnormal, info.tiny, info.eps, 0.25, 0.5, math.sqrt(0.5), 1, math.sqrt(2), 2, info.max, INF]
    edges += [math.log(2) * k / 2 for k in range(1, 12)] + [math.pi * k / 4 for k in range(1, 40)]
    edges += [math.log(float(v)) for v in (info.max, info.tiny, info.smallest_subnormal)] + [9.01, 3.92, 5.93, 19.1]
    near = np.array(edges, np.float64).astype(dtype.np)
    with np.errstate(over="ignore"):
        around = np.concatenate([near, np.nextafter(near, dtype.np.type(0)), np.nextafter(near, dtype.np.type(INF))])
    return np.concatenate([anything, usual.astype(dtype.np), around, -around, [dtype.np.type(NAN)]])


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_is_accurate_over_the_whole_range(name: str, dtype: DType) -> None:
    x = samples(dtype)
    if name in ("sin", "cos", "tan"):
        x = x[~((np.abs(x) >= 2.0**48) & np.isfinite(x))]
    errors = ulps(run(name, dtype, x), reference(name, x))
    worst = errors.argmax()
    assert errors[worst] <= ULPS[dtype], f"{name}({x[worst]!r})"


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_pow_is_accurate_for_bases_and_exponents_that_do_not_overflow(dtype: DType) -> None:
    rng = np.random.default_rng(8)
    most = math.log(float(np.finfo(dtype.np).max))
    n = 60_000
    log_x = rng.uniform(-most, most, n) * rng.choice([1.0, 0.01, 0.0001], n)
    x = np.exp(log_x).astype(dtype.np)
    y = (rng.uniform(-1, 1, n) * most / np.abs(log_x)).astype(dtype.np)
    assert ulps(run("pow", dtype, x, y), reference("pow", x, y)).max() <= ULPS[dtype]


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_pow_of_a_negative_base_and_a_whole_exponent_is_accurate(dtype: DType) -> None:
    rng = np.random.default_rng(9)
    x, y = -rng.uniform(0.01, 100, 20_000).astype(dtype.np), rng.integers(-19, 19, 20_000).astype(dtype.np)
    assert ulps(run("pow", dtype, x, y), reference("pow", x, y)).max() <= ULPS[dtype]


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize(
    ("name", "x", "value"),
    [
        ("exp", -INF, 0.0), ("exp", INF, INF), ("exp", NAN, NAN), ("exp", 0.0, 1.0), ("exp", -0.0, 1.0),
        ("exp", 1000.0, INF), ("exp", -1000.0, 0.0),
        ("log", 0.0, -INF), ("log", -0.0, -INF), ("log", -1.0, NAN), ("log", INF, INF), ("log", -INF, NAN),
        ("log", NAN, NAN), ("log", 1.0, 0.0),
        ("sin", 0.0, 0.0), ("sin", -0.0, -0.0), ("sin", INF, NAN),
        ("cos", 0.0, 1.0), ("cos", -INF, NAN),
        ("tan", -0.0, -0.0), ("tan", NAN, NAN),
        ("asin", -0.0, -0.0), ("asin", 1.0, math.pi / 2), ("asin", 1.5, NAN),
        ("acos", 1.0, 0.0), ("acos", -1.0, math.pi), ("acos", -1.5, NAN),
        ("atan", -0.0, -0.0), ("atan", INF, math.pi / 2), ("atan", -INF, -math.pi / 2), ("atan", NAN, NAN),
        ("sinh", -0.0, -0.0), ("sinh", -INF, -INF), ("sinh", 1e5, INF),
        ("cosh", 0.0, 1.0), ("cosh", -INF, INF), ("cosh", NAN, NAN),
        ("tanh", -0.0, -0.0), ("tanh", INF, 1.0), ("tanh", -INF, -1.0), ("tanh", 50.0, 1.0), ("tanh", NAN, NAN),
        ("asinh", -0.0, -0.0), ("asinh", -INF, -INF), ("asinh", NAN, NAN),
        ("acosh", 1.0, 0.0), ("acosh", 0.5, NAN), ("acosh", -9.0, NAN), ("acosh", INF, INF),
        ("atanh", -0.0, -0.0), ("atanh", 1.0, INF), ("atanh", -1.0, -INF), ("atanh", 2.0, NAN), ("atanh", NAN, NAN),
        ("erf", -0.0, -0.0), ("erf", INF, 1.0), ("erf", -INF, -1.0), ("erf", 30.0, 1.0), ("erf", NAN, NAN),
        ("gelu", 0.0, 0.0), ("gelu", INF, INF), ("gelu", -INF, 0.0), ("gelu", -30.0, 0.0), ("gelu", 30.0, 30.0), ("gelu", NAN, NAN),
    ],
)  # fmt: skip
def test_special_values(name: str, x: float, value: float, dtype: DType) -> None:
    got, want = run(name, dtype, x), np.asarray(value, dtype.np)
    assert np.array_equal(got, want, equal_nan=True)
    assert np.isnan(value) or np.signbit(got) == np.signbit(want)


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_pow_follows_c99_at_special_values(dtype: DType) -> None:
    values = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1e-40, -1e-40, 1e38, -1e38, 2.0**24 - 1]
    x, y = (v.ravel() for v in np.meshgrid(np.array(values, dtype.np), np.array(values, dtype.np)))
    got = run("pow", dtype, x, y)
    want = reference("pow", x, y)
    assert ulps(got, want).max() <= ULPS[dtype]
    zero = want == 0
    assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_gelu_is_accurate_to_digits_above_zero_and_to_a_distance_below(dtype: DType) -> None:
    x = samples(dtype)
    got, want = run("gelu", dtype, x), reference("gelu", x)
    positive, negative = x >= 0, x < 0
    assert ulps(got[positive], want[positive]).max() <= {f32: 3.0, f64: 4.0}[dtype]
    assert np.abs(got[negative] - want[negative]).max() <= {f32: 2.0**-24, f64: 2.0**-51}[dtype]


def test_gelu_of_f32_keeps_digits_far_below_zero() -> None:
    x = np.linspace(-5, -1, 1001, dtype=np.float32)
    np.testing.assert_allclose(run("gelu", f32, x), reference("gelu", x), rtol=6e-6)


@pytest.mark.parametrize(("exponent", "length"), [(1.0, 0), (2.0, 1), (3.0, 2)])
def test_pow_with_a_small_constant_exponent_multiplies(exponent: float, length: int) -> None:
    e = expression("pow", f32, y=exponent)
    assert np.array_equal(interpret(e, {"x": np.float32([-3, 0, 7])}), np.float32([-3, 0, 7]) ** exponent)
    assert len(operations(e)) == length


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_an_angle_too_large_for_its_phase_to_be_known_gives_nan(name: str) -> None:
    assert np.isnan(run(name, f32, [2.0**48, -1e30])).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "gelu"])
def test_f32_functions_of_activations_do_not_widen(name: str) -> None:
    assert not any(isinstance(e, Cast) for e in operations(expression(name, f32)))


LENGTHS = {
    "exp": 18, "log": 29, "sin": 18, "cos": 19, "tan": 26, "asin": 27, "acos": 27, "atan": 22, "sinh": 34, "cosh": 24,
    "tanh": 21, "asinh": 83, "acosh": 81, "atanh": 46, "erf": 26, "gelu": 27, "pow": 74,
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_code_gets_no_longer(name: str) -> None:
    assert len(operations(expression(name, f32))) <= LENGTHS[name]


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize("name", LENGTHS)
def test_uses_operations_of_the_loop_ir_that_are_single_instructions(name: str, dtype: DType) -> None:
    names = {e.name for e in operations(expression(name, dtype)) if isinstance(e, Op)}
    assert names <= OPERATIONS - {"rem", "floordiv", "mod", "min", "max"}


def operations(root: Expr) -> list[Expr]:
    """Every operation and conversion of value, shared ones once."""
    seen: dict[int, Expr] = {}
    stack = [root]
    while stack:
        e = stack.pop()
        if id(e) not in seen:
            seen[id(e)] = e
            stack.extend(children(e))
    return [e for e in seen.values() if isinstance(e, Op | Cast)]
