"""Pointwise ops that select between operands or change their dtype: where, clip, cast, bitcast, quantize, dequantize."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..scalar import compute_dtype
from ..types import DTYPES, DType, bool_, f8e4m3, f8e5m2
from .pointwise import S, X, float_dtype
from .registry import Quant, Sample, Types, pointwise, same_dtype


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
    for name in ("f8e4m3", "f8e5m2", "i4", "u4"):
        x = rng.integers(0 if name == "u4" else -8, 8, (3, 17)).astype(np.float32)
        for to in ("f32", "f16", "i8", "u8" if name == "u4" else "i64", "bool"):
            yield Sample((x.astype(DTYPES[name].np),), {"to": DTYPES[to]})
        for source in (np.float32, np.float64, np.int32):
            yield Sample(((x * 3 if DTYPES[name].is_float else x).astype(source),), {"to": DTYPES[name]})  # ONNX leaves overflow open


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
        x = x.copy()
        x[::2, ::5], x[1, :3], x[1, 3:6] = np.nan, np.inf, -np.inf
        yield Sample((x, rng.uniform(0.1, 0.5, (4, 1)).astype(np.float32), np.full((4, 1), zero)), {"to": DTYPES[to]})
    for to in ("i4", "u4", "f8e4m3", "f8e5m2"):
        zero = np.asarray(2 if DTYPES[to].is_int else 0, DTYPES[to].np)
        yield Sample(((rng.standard_normal((4, 21)) * 3).astype(np.float32), np.asarray(0.5, np.float32), zero), {"to": DTYPES[to]})


@pointwise(dtype=_quantize_dtype, samples=_quantize_samples)
def quantize(s: S, x: X, scale: X, zero: X, *, to: DType) -> X:
    """rint(x / scale) + zero limited to the range of `to`; x and scale are floats of one dtype, zero is of dtype `to`.

    NaN gives the greatest integer of `to`, as if it were greater than every number, and NaN of an 8-bit float.
    """
    if to in _LARGEST_F8:
        return s.cast(s.min(s.max(x / scale, -_LARGEST_F8[to]), _LARGEST_F8[to]), to)
    y = s.rint(x / scale) + s.cast(zero, s.dtype(x))
    return s.cast(s.where(y < math.inf, y, math.inf), to)  # which saturates


def _dequantize_dtype(types: Types, **attrs: Any) -> DType:
    if types[0].dtype is not types[2].dtype:
        raise ShapeError(f"the zero point must be of the operand's dtype {types[0].dtype}, got {types[2].dtype}")
    return float_dtype(types[1:2])


def _dequantize_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for name in ("i8", "u8", "i16", "i32", "i4", "u4", "f8e4m3", "f8e5m2"):
        q = rng.integers(0, 8 if DTYPES[name].bits == 4 else 100, (4, 21)).astype(DTYPES[name].np)
        yield Sample((q, np.asarray(0.25, np.float32), np.asarray(7, q.dtype)))
        yield Sample((q, rng.uniform(0.1, 0.5, (4, 1)).astype(np.float32), rng.integers(0, 8, (4, 1)).astype(q.dtype)))


@pointwise(dtype=_dequantize_dtype, samples=_dequantize_samples)
def dequantize(s: S, q: X, scale: X, zero: X) -> X:
    """(q - zero) * scale, of the scale's dtype; q and zero have one dtype."""
    to = s.dtype(scale)
    return (s.cast(q, to) - s.cast(zero, to)) * scale
