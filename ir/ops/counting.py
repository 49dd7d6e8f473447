"""The histogram, by which calibration sees the values of a model without keeping them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..dims import ceildiv, dim_product
from ..errors import ShapeError
from ..loops import Expr, If, Let, Names, Stmt, Tensor, size_expr
from ..scalar import LOOPS
from ..types import TensorType, f32, i32, i64
from .looping import STEP_COST, each
from .registry import Sample, Types, opaque


def _infer(types: Types, *, bins: int, parts: int = 1) -> Types:
    x, scale = types
    if x.dtype is not f32 or scale != TensorType(f32, ()):
        raise ShapeError("takes f32 values and a scale f32[]")
    if bins < 2 or bins % 2 or parts < 1:
        raise ShapeError(f"bins must be even and parts at least 1, got {bins} and {parts}")
    return (TensorType(i32, (parts, bins)),)


def _loops(names: Names, ins: list[Tensor], outs: list[Tensor], *, bins: int, parts: int = 1) -> list[Stmt]:
    (values, scale), (counts,) = ins, outs
    size = dim_product(values.shape)
    x = values.view(size)
    length = ceildiv(size, parts)

    def count(p: Expr, k: Expr) -> list[Stmt]:
        value, magnitude, step = names.var("x", f32), names.var("magnitude", f32), names.var("step")
        bin_ = LOOPS.where(value < 0, bins // 2 - 1 - step, bins // 2 + step)
        add = counts.store((p, bin_), counts[p, bin_] + 1)
        return [
            Let(value, x[p * size_expr(length) + k]),
            Let(magnitude, LOOPS.abs(value * scale[()])),
            If(magnitude < bins // 2, (Let(step, LOOPS.cast(magnitude, i64)), add)),  # NaN is not less
        ]

    def part(p: Expr) -> list[Stmt]:
        clear = each(names, "b", bins, lambda b: [counts.store((p, b), 0)])
        here = LOOPS.max(LOOPS.min(size_expr(length), size_expr(size) - p * size_expr(length)), 0)
        return [clear, each(names, "k", here, lambda k: count(p, k))]

    return [each(names, "p", parts, part, "parallel", length * STEP_COST)]


def _samples(rng: np.random.Generator) -> Iterable[Sample]:
    x = rng.standard_normal((7, 33)).astype(np.float32)
    x[0, :6] = 0, -0.0, np.nan, np.inf, -np.inf, 2.0
    for parts in (1, 4):
        yield Sample((x, np.asarray(8, np.float32)), {"bins": 32, "parts": parts})
    yield Sample((x[0, :3], np.asarray(1, np.float32)), {"bins": 8, "parts": 5})
    yield Sample((x, np.asarray(-8, np.float32)), {"bins": 32})
    yield Sample((x[:0], np.asarray(1, np.float32)), {"bins": 8, "parts": 2})


@opaque(infer=_infer, loops=_loops, samples=_samples)
def histogram(x: np.ndarray, scale: np.ndarray, *, bins: int, parts: int = 1) -> np.ndarray:
    """How many elements of f32 x fall into each of `bins` bins 1 / |scale| wide around zero: i32[parts, bins].

    Zero and what is above it count from bin `bins // 2` on, what is below from bin `bins // 2 - 1` down; an element between two bins
    belongs to the one farther from zero.  What lies outside and NaN are not counted.  Each row counts an equally long part of x.
    """
    length = -(-x.size // parts)
    magnitude = np.abs(x.reshape(-1) * scale)
    inside = magnitude < bins // 2
    step = magnitude[inside].astype(np.int64)
    bin_ = np.where(x.reshape(-1)[inside] < 0, bins // 2 - 1 - step, bins // 2 + step)
    part = np.flatnonzero(inside) // max(length, 1)
    return np.bincount(part * bins + bin_, minlength=parts * bins).reshape(parts, bins).astype(np.int32)
