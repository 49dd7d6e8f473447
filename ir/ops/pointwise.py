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
from ..scalar import compute_dtype
from ..types import DTYPES, DType, bool_, f8e4m3, f8e5m2
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


def between(
    low: float, high: float, arity: int = 1, dtypes: str = "float32 float64 float16"
) -> Callable[..., Iterable[Sample]]:
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
    """x / y; integers truncate towards zero, and division by zero gives an unspecified value but never traps."""
    return s.div(x, y)


@pointwise(dtypes="fiu")
def rem(s: S, x: X, y: X) -> X:
    """x - y * trunc(x / y): the sign is the dividend's."""
    return s.rem(x, y)


def _signed_pairs(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.int32, np.int64, np.int8, np.float32, np.float64):
        x, y = rng.integers(-60, 60, (7, 13)), rng.integers(1, 9, (13,)) * rng.choice([-1, 1], 13)
        yield Sample((x.astype(dtype), y.astype(dtype)))
    yield Sample((rng.integers(0, 200, (7, 13)).astype(np.uint8), rng.integers(1, 9, (13,)).astype(np.uint8)))


@pointwise(samples=_signed_pairs)
def mod(s: S, x: X, y: X) -> X:
    """x - y * floor(x / y): the sign is the divisor's."""
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


# --- activations ------------------------------------------------------------------------------------------------------------


def _sigmoid(s: S, x: X) -> X:
    return 1.0 / (1.0 + s.exp(-x))


def _log1p(s: S, x: X) -> X:
    """log(1 + x) with the rounding of 1 + x taken back out, so that small x keep their digits."""
    u = 1.0 + x
    exact = s.eq(u, 1.0)
    return s.where(exact, x, s.log(u) * (x / s.where(exact, 1.0, u - 1.0)))


def _softplus(s: S, x: X) -> X:
    return s.max(x, 0.0) + _log1p(s, s.exp(-s.abs(x)))


@pointwise(dtypes="fi", quant=Quant.EXACT)
def relu(s: S, x: X) -> X:
    """max(x, 0)."""
    return s.max(x, 0)


@pointwise(dtype=float_dtype)
def sigmoid(s: S, x: X) -> X:
    """1 / (1 + exp(-x))."""
    return _sigmoid(s, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 0.01}, {"alpha": -0.5}))
def leaky_relu(s: S, x: X, *, alpha: float) -> X:
    """x where x >= 0, else alpha * x."""
    return s.where(x < 0, x * alpha, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": 2.0}))
def elu(s: S, x: X, *, alpha: float) -> X:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return s.where(x < 0, (s.exp(s.min(x, 0.0)) - 1.0) * alpha, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.67326, "gamma": 1.0507}))
def selu(s: S, x: X, *, alpha: float, gamma: float) -> X:
    """gamma * (x where x > 0, else alpha * (exp(x) - 1))."""
    return s.where(x > 0, x, (s.exp(s.min(x, 0.0)) - 1.0) * alpha) * gamma


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": 0.5}))
def celu(s: S, x: X, *, alpha: float) -> X:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return s.max(x, 0.0) + s.min((s.exp(s.min(x / alpha, 0.0)) - 1.0) * alpha, 0.0)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 0.2, "beta": 0.5}))
def hard_sigmoid(s: S, x: X, *, alpha: float, beta: float) -> X:
    """alpha * x + beta, limited to 0..1."""
    return s.max(s.min(x * alpha + beta, 1.0), 0.0)


@pointwise(dtype=float_dtype)
def hard_swish(s: S, x: X) -> X:
    """x * (x / 6 + 1/2 limited to 0..1)."""
    return x * s.max(s.min(x * (1 / 6) + 0.5, 1.0), 0.0)


@pointwise(dtype=float_dtype)
def silu(s: S, x: X) -> X:
    """x * sigmoid(x)."""
    return x * _sigmoid(s, x)


@pointwise(dtype=float_dtype, samples=with_attrs({}, {"approximate": "tanh"}))
def gelu(s: S, x: X, *, approximate: str = "none") -> X:
    """x times the normal distribution function of x, exact or by the tanh formula."""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + s.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)))
    return 0.5 * x * (1.0 + s.erf(x * math.sqrt(0.5)))


@pointwise(dtype=float_dtype)
def softplus(s: S, x: X) -> X:
    """log(1 + exp(x))."""
    return _softplus(s, x)


@pointwise(dtype=float_dtype)
def softsign(s: S, x: X) -> X:
    """x / (1 + |x|)."""
    return x / (s.abs(x) + 1.0)


@pointwise(dtype=float_dtype)
def mish(s: S, x: X) -> X:
    """x * tanh(softplus(x))."""
    return x * s.tanh(_softplus(s, x))


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": -0.5}))
def thresholded_relu(s: S, x: X, *, alpha: float) -> X:
    """x where x > alpha, else 0."""
    return s.where(x > alpha, x, 0.0)


@pointwise(dtypes="fi")
def prelu(s: S, x: X, slope: X) -> X:
    """x where x >= 0, else slope * x."""
    return s.where(x < 0, x * slope, x)


# --- selection and conversion -----------------------------------------------------------------------------------------------


def _where_dtype(types: Types, **attrs: Any) -> DType:
    if types[0].dtype is not bool_:
        raise ShapeError(f"the condition must be bool, got {types[0].dtype}; cast it")
    return same_dtype(types[1:])


def _where_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float16, np.int64, np.uint8, np.bool_):
        a, b = (rng.integers(0, 2, (7, 1)) * 9).astype(dtype), rng.integers(0, 9, (17,)).astype(dtype)
        yield Sample((rng.random((7, 17)) < 0.5, a, b))
        yield Sample((rng.random((17,)) < 0.5, a, b))


@pointwise(dtype=_where_dtype, samples=_where_samples)
def where(s: S, condition: X, x: X, y: X) -> X:
    """x where the bool condition holds, else y; x and y have one dtype."""
    return s.where(condition, x, y)


def _clip_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16, np.int32, np.int8):
        x = (rng.standard_normal((5, 19)) * 6).astype(dtype)
        yield Sample((x, np.asarray(-2, dtype), np.asarray(3, dtype)))


@pointwise(samples=_clip_samples, quant=Quant.EXACT)
def clip(s: S, x: X, low: X, high: X) -> X:
    """x limited to low..high (high where low > high)."""
    return s.min(s.max(x, low), high)


def _to(types: Types, *, to: DType) -> DType:
    return to


def _cast_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for source in (np.float32, np.float64, np.float16, np.int32, np.int64, np.int8, np.uint8, np.bool_):
        x = (rng.standard_normal((3, 17)) * 50).astype(np.float32)
        x = np.abs(x).astype(source) if source == np.uint8 else x.astype(source)
        for to in ("f32", "f64", "f16", "i32", "i64", "i8", "u8", "bool"):
            if to != "u8" or (x >= 0).all():  # what negative floats become as unsigned is said by Cast, integers wrap
                yield Sample((x,), {"to": DTYPES[to]})
    yield Sample((np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 0.5], np.float32),), {"to": DTYPES["i32"]})


@pointwise(dtype=_to, samples=_cast_samples)
def cast(s: S, x: X, *, to: DType) -> X:
    """x as dtype `to`: floats to integers truncate and saturate (NaN gives 0), integers wrap, to bool is x != 0."""
    return s.cast(x, to)


def _bitcast_dtype(types: Types, *, to: DType) -> DType:
    source = types[0].dtype
    if source.itemsize != to.itemsize or any(compute_dtype(d) is not d for d in (source, to)):
        raise ShapeError(f"cannot see the bits of {source} as {to}; both need one size, and narrow floats are not supported")
    return to


def _bitcast_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for source, to in (("f32", "i32"), ("i32", "f32"), ("f64", "i64"), ("i8", "u8"), ("u64", "f64")):
        yield Sample((rng.integers(1, 99, (3, 9)).astype(DTYPES[source].np),), {"to": DTYPES[to]})


@pointwise(dtype=_bitcast_dtype, samples=_bitcast_samples)
def bitcast(s: S, x: X, *, to: DType) -> X:
    """The bits of x read as dtype `to` of the same size."""
    return s.bitcast(x, to)


# --- quantization -----------------------------------------------------------------------------------------------------------

_LARGEST_F8 = {f8e4m3: 448.0, f8e5m2: 57344.0}


def _quantize_dtype(types: Types, *, to: DType) -> DType:
    float_dtype(types[:2])
    if types[2].dtype is not to:
        raise ShapeError(f"the zero point must be of the result's dtype {to}, got {types[2].dtype}")
    return to


def _quantize_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for to in ("i8", "u8", "i16", "u16"):
        x = (rng.standard_normal((4, 21)) * 40).astype(np.float32)
        zero = np.asarray(3, DTYPES[to].np)
        yield Sample((x, np.asarray(0.25, np.float32), zero), {"to": DTYPES[to]})
        yield Sample((x, rng.uniform(0.1, 0.5, (4, 1)).astype(np.float32), np.full((4, 1), zero)), {"to": DTYPES[to]})


@pointwise(dtype=_quantize_dtype, samples=_quantize_samples)
def quantize(s: S, x: X, scale: X, zero: X, *, to: DType) -> X:
    """rint(x / scale) + zero limited to the range of `to`; x and scale are floats of one dtype, zero is of dtype `to`."""
    if to in _LARGEST_F8:
        return s.cast(s.min(s.max(x / scale, -_LARGEST_F8[to]), _LARGEST_F8[to]), to)
    q = s.rint(x / scale) + s.cast(zero, s.dtype(x))
    if to.bits <= 16:  # wider: the saturating cast alone, whose limits f32 cannot hold
        q = s.min(s.max(q, float(to.min)), float(to.max))
    return s.cast(q, to)


def _dequantize_dtype(types: Types, **attrs: Any) -> DType:
    if types[0].dtype is not types[2].dtype:
        raise ShapeError(f"the zero point must be of the operand's dtype {types[0].dtype}, got {types[2].dtype}")
    return float_dtype(types[1:2])


def _dequantize_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for name in ("i8", "u8", "i16", "i32"):
        q = rng.integers(0, 100, (4, 21)).astype(DTYPES[name].np)
        yield Sample((q, np.asarray(0.25, np.float32), np.asarray(7, q.dtype)))
        yield Sample((q, rng.uniform(0.1, 0.5, (4, 1)).astype(np.float32), rng.integers(0, 9, (4, 1)).astype(q.dtype)))


@pointwise(dtype=_dequantize_dtype, samples=_dequantize_samples)
def dequantize(s: S, q: X, scale: X, zero: X) -> X:
    """(q - zero) * scale, of the scale's dtype; q and zero have one dtype."""
    to = s.dtype(scale)
    return (s.cast(q, to) - s.cast(zero, to)) * scale
