"""Pointwise ops: one scalar function each, run over NumPy arrays (reference) and loop expressions (code).

Operands broadcast as in NumPy and have one dtype unless said otherwise; the result has it too.  f16, bf16 and f8 operands
arrive as f32 and the result is rounded back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from ..errors import ShapeError
from ..types import DType, bool_
from .registry import Quant, Sample, Types, pointwise, predicate, same_dtype

S: TypeAlias = Any  # a scalar namespace: scalar.NUMPY or scalar.LOOPS
X: TypeAlias = Any  # its scalars


def float_dtype(types: Types, **attrs: Any) -> DType:
    """The common dtype of operands that must be floating point.  Raises ShapeError."""
    dtype = same_dtype(types)
    if not dtype.is_float:
        raise ShapeError(f"needs floating-point operands, got {dtype}; cast them")
    return dtype


def _float_predicate(types: Types, **attrs: Any) -> DType:
    float_dtype(types)
    return bool_


def _bits(types: Types, **attrs: Any) -> DType:
    dtype = same_dtype(types)
    if dtype.is_float:
        raise ShapeError(f"works on bool and integers, got {dtype}; cast the operands")
    return dtype


def between(low: float, high: float, arity: int = 1, dtypes: str = "float32 float64 float16") -> Callable[..., Iterable[Sample]]:
    """Samples drawn uniformly from low..high, for functions with a bounded domain."""

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for dtype in dtypes.split():
            shapes = [(5, 37), (37,), (1, 1)][:arity]
            yield Sample(tuple(rng.uniform(low, high, shape).astype(dtype) for shape in shapes))

    return samples


def with_attrs(*cases: dict[str, Any], arity: int = 1) -> Callable[..., Iterable[Sample]]:
    """Float samples for each set of attributes."""

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for attrs in cases:
            for dtype in (np.float32, np.float64, np.float16):
                shapes = [(3, 41), (41,), (3, 1)][:arity]
                yield Sample(tuple((rng.standard_normal(shape) * 2).astype(dtype) for shape in shapes), attrs)

    return samples


# --- arithmetic -------------------------------------------------------------------------------------------------------------


@pointwise(dtypes="fiu")
def add(s: S, x: X, y: X) -> X:
    """x + y; integers wrap around."""
    return x + y


@pointwise(dtypes="fiu")
def sub(s: S, x: X, y: X) -> X:
    """x - y; integers wrap around."""
    return x - y


@pointwise(dtypes="fiu")
def mul(s: S, x: X, y: X) -> X:
    """x * y; integers wrap around."""
    return x * y


@pointwise(dtypes="fiu")
def div(s: S, x: X, y: X) -> X:
    """x / y; integers truncate towards zero, and division by zero gives 0."""
    return s.div(x, y)


@pointwise(dtypes="fiu")
def rem(s: S, x: X, y: X) -> X:
    """x - y * trunc(x / y): the sign is the dividend's; integers by zero give 0."""
    return s.rem(x, y)


def _signed_pairs(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.int32, np.int64, np.int8, np.float32, np.float64):
        x, y = rng.integers(-60, 60, (7, 13)), rng.integers(1, 9, (13,)) * rng.choice([-1, 1], 13)
        yield Sample((x.astype(dtype), y.astype(dtype)))
    yield Sample((rng.integers(0, 200, (7, 13)).astype(np.uint8), rng.integers(1, 9, (13,)).astype(np.uint8)))


@pointwise(samples=_signed_pairs)
def mod(s: S, x: X, y: X) -> X:
    """x - y * floor(x / y): the sign is the divisor's; integers by zero give 0."""
    r = s.rem(x, y)
    if s.dtype(x).kind == "u":
        return r
    return s.where(s.ne(r, 0) & ((r < 0) ^ (y < 0)), r + y, r)


def _powers(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16):
        yield Sample((rng.uniform(0.1, 4, (5, 33)).astype(dtype), rng.uniform(-2, 2, (33,)).astype(dtype)))
    yield Sample((np.array([-2, -1, 0, 3], np.float32), np.array([2, 3, 0, 0.5], np.float32)))
    for dtype in (np.int32, np.int64):
        yield Sample((rng.integers(-5, 6, (4, 9)).astype(dtype), rng.integers(0, 6, (9,)).astype(dtype)))


@pointwise(samples=_powers)
def pow_(s: S, x: X, y: X) -> X:
    """x to the power y.  Integers: exact modulo 2**bits; a negative exponent gives 1/x**-y truncated."""
    dtype = s.dtype(x)
    if not dtype.is_int:
        return s.pow(x, y)
    result, square = s.where(s.ne(y & 1, 0), x, 1), x
    for bit in range(1, 6):
        square = square * square
        result = s.where(s.ne(y & (1 << bit), 0), result * square, result)
    if dtype.kind == "u":
        return result
    unit = s.eq(x, 1) | s.eq(x, -1)
    return s.where(y < 0, s.where(unit, result, 0), result)


@pointwise(dtypes="fiub", quant=Quant.EXACT)
def min_(s: S, x: X, y: X) -> X:
    """The smaller; NaN if either is."""
    return s.min(x, y)


@pointwise(dtypes="fiub", quant=Quant.EXACT)
def max_(s: S, x: X, y: X) -> X:
    """The larger; NaN if either is."""
    return s.max(x, y)


# --- bits and comparisons ---------------------------------------------------------------------------------------------------


@pointwise(name="and", dtype=_bits, dtypes="biu")
def and_(s: S, x: X, y: X) -> X:
    """Bitwise and of integers, logical and of bools."""
    return x & y


@pointwise(name="or", dtype=_bits, dtypes="biu")
def or_(s: S, x: X, y: X) -> X:
    """Bitwise or of integers, logical or of bools."""
    return x | y


@pointwise(name="xor", dtype=_bits, dtypes="biu")
def xor(s: S, x: X, y: X) -> X:
    """Bitwise exclusive or of integers, logical of bools."""
    return x ^ y


@pointwise(name="not", dtype=_bits, dtypes="biu")
def not_(s: S, x: X) -> X:
    """All bits of an integer flipped, or a bool negated."""
    return ~x


def _shifts(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.uint8, np.uint32, np.uint64, np.int32):
        yield Sample((rng.integers(0, 100, (3, 19)).astype(dtype), rng.integers(0, 12, (19,)).astype(dtype)))


@pointwise(dtype=_bits, samples=_shifts)
def shl(s: S, x: X, y: X) -> X:
    """x shifted left by y bits; 0 from the width on."""
    width = s.dtype(x).bits
    return s.where(y < width, x << s.min(y, width - 1), 0)


@pointwise(dtype=_bits, samples=_shifts)
def shr(s: S, x: X, y: X) -> X:
    """x shifted right by y bits, keeping the sign; from the width on, as if by width - 1, or 0 if unsigned."""
    width = s.dtype(x).bits
    shifted = x >> s.min(y, width - 1)
    return shifted if s.dtype(x).kind == "i" else s.where(y < width, shifted, 0)


@pointwise(dtype=predicate, dtypes="fiub")
def eq(s: S, x: X, y: X) -> X:
    """x == y, as bool."""
    return s.eq(x, y)


@pointwise(dtype=predicate, dtypes="fiub")
def ne(s: S, x: X, y: X) -> X:
    """x != y, as bool."""
    return s.ne(x, y)


@pointwise(dtype=predicate, dtypes="fiu")
def lt(s: S, x: X, y: X) -> X:
    """x < y, as bool."""
    return x < y


@pointwise(dtype=predicate, dtypes="fiu")
def le(s: S, x: X, y: X) -> X:
    """x <= y, as bool."""
    return x <= y


@pointwise(dtype=predicate, dtypes="fiu")
def gt(s: S, x: X, y: X) -> X:
    """x > y, as bool."""
    return x > y


@pointwise(dtype=predicate, dtypes="fiu")
def ge(s: S, x: X, y: X) -> X:
    """x >= y, as bool."""
    return x >= y


# --- functions of one number ------------------------------------------------------------------------------------------------


@pointwise(dtypes="fi")
def neg(s: S, x: X) -> X:
    """-x."""
    return -x


@pointwise(name="abs", dtypes="fiu")
def abs_(s: S, x: X) -> X:
    """|x|."""
    return s.abs(x)


@pointwise(dtypes="fiu")
def sign(s: S, x: X) -> X:
    """-1, 0 or 1; NaN stays NaN."""
    if s.dtype(x).kind == "u":
        return s.min(x, 1)
    return s.where(x > 0, 1, s.where(x < 0, -1, x))


@pointwise(dtype=float_dtype)
def exp(s: S, x: X) -> X:
    """e**x, of floats."""
    return s.exp(x)


@pointwise(dtype=float_dtype, samples=between(1e-3, 50))
def log(s: S, x: X) -> X:
    """The natural logarithm, of floats."""
    return s.log(x)


@pointwise(dtype=float_dtype, samples=between(0, 50))
def sqrt(s: S, x: X) -> X:
    """The square root, of floats."""
    return s.sqrt(x)


@pointwise(dtype=float_dtype, samples=between(0.1, 9))
def reciprocal(s: S, x: X) -> X:
    """1 / x, of floats."""
    return 1.0 / x


@pointwise(dtype=float_dtype)
def floor(s: S, x: X) -> X:
    """Rounded down, of floats."""
    return s.floor(x)


@pointwise(dtype=float_dtype)
def ceil(s: S, x: X) -> X:
    """Rounded up, of floats."""
    return s.ceil(x)


def _halves(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16):
        yield Sample(((rng.integers(-40, 40, (3, 21)) / 4).astype(dtype),))


@pointwise(name="round", dtype=float_dtype, samples=_halves)
def round_(s: S, x: X) -> X:
    """The nearest integer, halves to even, of floats."""
    return s.rint(x)


@pointwise(dtype=float_dtype)
def trunc(s: S, x: X) -> X:
    """Rounded towards zero, of floats."""
    return s.trunc(x)


@pointwise(dtype=float_dtype)
def sin(s: S, x: X) -> X:
    """Sine of radians."""
    return s.sin(x)


@pointwise(dtype=float_dtype)
def cos(s: S, x: X) -> X:
    """Cosine of radians."""
    return s.cos(x)


@pointwise(dtype=float_dtype, samples=between(-1.4, 1.4))
def tan(s: S, x: X) -> X:
    """Tangent of radians."""
    return s.tan(x)


@pointwise(dtype=float_dtype, samples=between(-0.99, 0.99))
def asin(s: S, x: X) -> X:
    """Arc sine of -1..1."""
    return s.asin(x)


@pointwise(dtype=float_dtype, samples=between(-0.99, 0.99))
def acos(s: S, x: X) -> X:
    """Arc cosine of -1..1."""
    return s.acos(x)


@pointwise(dtype=float_dtype)
def atan(s: S, x: X) -> X:
    """Arc tangent."""
    return s.atan(x)


@pointwise(dtype=float_dtype)
def sinh(s: S, x: X) -> X:
    """Hyperbolic sine."""
    return s.sinh(x)


@pointwise(dtype=float_dtype)
def cosh(s: S, x: X) -> X:
    """Hyperbolic cosine."""
    return s.cosh(x)


@pointwise(dtype=float_dtype)
def tanh(s: S, x: X) -> X:
    """Hyperbolic tangent."""
    return s.tanh(x)


@pointwise(dtype=float_dtype)
def asinh(s: S, x: X) -> X:
    """Inverse hyperbolic sine."""
    return s.asinh(x)


@pointwise(dtype=float_dtype, samples=between(1.05, 20))
def acosh(s: S, x: X) -> X:
    """Inverse hyperbolic cosine, of numbers >= 1."""
    return s.acosh(x)


@pointwise(dtype=float_dtype, samples=between(-0.95, 0.95))
def atanh(s: S, x: X) -> X:
    """Inverse hyperbolic tangent, of -1..1."""
    return s.atanh(x)


@pointwise(dtype=float_dtype)
def erf(s: S, x: X) -> X:
    """The error function."""
    return s.erf(x)


def _specials(*cases: dict[str, bool]) -> Callable[..., Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for dtype in (np.float32, np.float64, np.float16):
            for attrs in cases:
                yield Sample((np.array([[1, np.nan, np.inf], [-np.inf, 0, -1]], dtype),), attrs)

    return samples


@pointwise(dtype=_float_predicate, samples=_specials({}))
def is_nan(s: S, x: X) -> X:
    """Whether x is NaN, as bool."""
    return s.is_nan(x)


@pointwise(dtype=_float_predicate, samples=_specials({}, {"positive": False}, {"negative": False}))
def is_inf(s: S, x: X, *, positive: bool = True, negative: bool = True) -> X:
    """Whether x is +inf (where `positive`) or -inf (where `negative`), as bool."""
    up, down = s.eq(x, math.inf), s.eq(x, -math.inf)
    return (up | down) if positive and negative else up if positive else down if negative else (up & down)
