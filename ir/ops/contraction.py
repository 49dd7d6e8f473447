"""Contractions: matmul and convolution, sums of products over shared axes, which the `contract` template computes.

Floats are summed in f32 or wider and rounded once; 8-bit integers give i32, and integer sums wrap.  Bias, activation and
requantization are following pointwise ops, which fuse.

`tile` (rows, vectors in a row) names the register tile that a kernel computes with, for a target whose best is known: it changes how
long a contraction takes, and not one bit of its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..dims import Dim, floordiv
from ..errors import ShapeError
from ..scalar import compute_dtype
from ..types import DType, TensorType, dtype_of, i32
from .registry import Sample, Types, broadcast_shape, contraction


def _out_dtype(a: TensorType, b: TensorType, out: DType | None) -> DType:
    """The result's dtype: the operands' own, or i32 for 8-bit integers.  Raises ShapeError where the operands do not fit."""
    bytes_ = {"i8", "u8", "i4", "u4"}
    if a.dtype.name in bytes_ and b.dtype.name in bytes_:
        return out or i32
    if a.dtype is not b.dtype:
        raise ShapeError(f"operands have different dtypes ({a.dtype}, {b.dtype}); cast one of them")
    return out or a.dtype


def _check_equal(what: str, a: Dim, b: Dim) -> None:
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise ShapeError(f"{what} differ: {a} and {b}")


def _check_tile(tile: tuple[int, int] | None) -> None:
    if tile is not None and not (len(tile) == 2 and all(isinstance(n, int) and n > 0 for n in tile)):
        raise ShapeError(f"a tile is its rows and the vectors in a row, not {tile!r}")


def _infer_matmul(types: Types, *, out: DType | None = None, tile: tuple[int, int] | None = None) -> Types:
    a, b = types
    _check_tile(tile)
    if a.rank < 2 or b.rank < 2:
        raise ShapeError("both operands need two axes or more; reshape vectors")
    _check_equal("the columns of the first and rows of the second operand", a.shape[-1], b.shape[-2])
    batch = broadcast_shape(a.shape[:-2], b.shape[:-2])
    return (TensorType(_out_dtype(a, b, out), (*batch, a.shape[-2], b.shape[-1])),)


def _wide(x: np.ndarray, dtype: DType) -> np.ndarray:
    """Operands as the reference multiplies them: f64 holds sums of 8-bit products exactly and has a fast matmul."""
    return x.astype(np.float64 if dtype.bits <= 8 else compute_dtype(dtype).np)


def _rounded(x: np.ndarray, dtype: DType) -> np.ndarray:
    return x.astype(np.int64).astype(dtype.np) if dtype.is_int else x.astype(dtype.np)


def _numbers(rng: np.random.Generator, dtype: Any, *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    if np.dtype(dtype).kind in "iu":
        low = 0 if np.dtype(dtype).kind == "u" else -99
        return tuple(rng.integers(low, 100, shape).astype(dtype) for shape in shapes)
    return tuple(rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes)


def _matmul_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32):
        for a, b in (
            ((5, 37), (37, 19)),
            ((1, 64), (64, 33)),
            ((3, 1, 17, 5), (2, 5, 16)),
            ((2, 7, 1), (1, 9)),
            ((4, 0), (0, 3)),
        ):
            yield Sample(_numbers(rng, dtype, a, b))
    (a,), (b,) = _numbers(rng, np.uint8, (9, 65)), _numbers(rng, np.int8, (65, 17))
    yield Sample((a, b))


@contraction(infer=_infer_matmul, samples=_matmul_samples)
def matmul(a: np.ndarray, b: np.ndarray, *, out: DType | None = None, tile: tuple[int, int] | None = None) -> np.ndarray:
    """a[..., m, k] times b[..., k, n]; leading axes broadcast; one dtype, or 8-bit integers of either sign giving i32."""
    types = TensorType(dtype_of(a.dtype), a.shape), TensorType(dtype_of(b.dtype), b.shape)
    return _rounded(np.matmul(_wide(a, types[0].dtype), _wide(b, types[1].dtype)), _out_dtype(*types, out))


def conv_sizes(
    sizes: tuple[Dim, ...],
    kernel: tuple[Dim, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[Dim, Dim], ...],
    dilations: tuple[int, ...],
) -> tuple[Dim, ...]:
    """Spatial sizes of a convolution's or pool's result.  Raises ShapeError where the kernel does not fit."""
    if not len(sizes) == len(kernel) == len(strides) == len(pads) == len(dilations):
        raise ShapeError(f"kernel, strides, pads and dilations must have one entry for each of the {len(sizes)} spatial axes")
    result = []
    for d, k, stride, (low, high), dilation in zip(sizes, kernel, strides, pads, dilations, strict=True):
        size = floordiv(d + low + high - dilation * (k - 1) - 1, stride) + 1
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"a kernel of {k} (dilation {dilation}) does not fit a size of {d} with pads {low} and {high}")
        result.append(size)
    return tuple(result)


def _infer_conv(
    types: Types,
    *,
    strides: tuple[int, ...],
    pads: tuple[tuple[Dim, Dim], ...],
    dilations: tuple[int, ...],
    groups: int = 1,
    layout: str = "channels_first",
    out: DType | None = None,
    tile: tuple[int, int] | None = None,
) -> Types:
    x, w = types
    _check_tile(tile)
    if x.rank < 3 or x.rank != w.rank:
        raise ShapeError("the input and the weights need one rank of at least 3")
    if layout not in ("channels_first", "channels_last"):
        raise ShapeError(f"the layout is channels_first or channels_last, not {layout!r}")
    last = layout == "channels_last"
    channels, spatial = (x.shape[-1], x.shape[1:-1]) if last else (x.shape[1], x.shape[2:])
    _check_equal("the channels of the input and of the weights times the groups", channels, w.shape[1] * groups)
    if isinstance(w.shape[0], int) and w.shape[0] % groups:
        raise ShapeError(f"{w.shape[0]} output channels do not divide into {groups} groups")
    sizes = conv_sizes(spatial, w.shape[2:], strides, pads, dilations)
    shape = (x.shape[0], *sizes, w.shape[0]) if last else (x.shape[0], w.shape[0], *sizes)
    return (TensorType(_out_dtype(x, w, out), shape),)


def _conv_samples(rng: np.random.Generator) -> Iterable[Sample]:
    plain: dict[str, Any] = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
    for dtype in (np.float32, np.float64, np.float16, np.int8):
        yield Sample(_numbers(rng, dtype, (2, 3, 9, 11), (5, 3, 3, 3)), plain)
        yield Sample(_numbers(rng, dtype, (1, 4, 8, 7), (6, 2, 3, 2)), plain | {"groups": 2, "strides": (2, 3)})
        yield Sample(_numbers(rng, dtype, (1, 5, 9, 9), (5, 1, 3, 3)), plain | {"groups": 5, "dilations": (2, 1)})
        last = plain | {"layout": "channels_last", "pads": ((0, 2), (1, 0)), "strides": (2, 1)}
        yield Sample(_numbers(rng, dtype, (2, 9, 11, 3), (17, 3, 3, 3)), last)
        yield Sample(_numbers(rng, dtype, (1, 5, 6, 4), (4, 1, 3, 3)), last | {"groups": 4})
    one = {"strides": (2,), "pads": ((3, 0),), "dilations": (3,)}
    yield Sample(_numbers(rng, np.float32, (2, 3, 19), (4, 3, 3)), one)
    three = {"strides": (1, 2, 1), "pads": ((1, 1), (0, 1), (0, 0)), "dilations": (1, 1, 1)}
    yield Sample(_numbers(rng, np.float32, (1, 2, 5, 6, 7), (3, 2, 2, 3, 3)), three)
    yield Sample((*_numbers(rng, np.uint8, (1, 3, 7, 7)), *_numbers(rng, np.int8, (4, 3, 3, 3))), plain)


@contraction(infer=_infer_conv, samples=_conv_samples)
def conv(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int = 1,
    layout: str = "channels_first",
    out: DType | None = None,
    tile: tuple[int, int] | None = None,
) -> np.ndarray:
    """Correlation of x[n, c, *spatial] (or [n, *spatial, c]: `layout`) with w[o, c / groups, *kernel]; pads are zeros.

    One dtype, or 8-bit integers of either sign giving i32.  The result has x's layout.
    """
    result_dtype = _out_dtype(TensorType(dtype_of(x.dtype), x.shape), TensorType(dtype_of(w.dtype), w.shape), out)
    x, w = _wide(x, dtype_of(x.dtype)), _wide(w, dtype_of(w.dtype))
    x = np.moveaxis(x, -1, 1) if layout == "channels_last" else x
    kernel = w.shape[2:]
    sizes = tuple(int(d) for d in conv_sizes(x.shape[2:], kernel, strides, pads, dilations))  # type: ignore[arg-type]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    weights = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    total = np.zeros((x.shape[0], groups, w.shape[0] // groups, math.prod(sizes)), x.dtype)
    for position in np.ndindex(*kernel):
        starts = [p * d for p, d in zip(position, dilations, strict=True)]
        part = x[(..., *(slice(a, a + max(0, (n - 1) * t + 1), t) for a, n, t in zip(starts, sizes, strides, strict=True)))]
        total += weights[(slice(None), slice(None), slice(None), *position)] @ part.reshape(
            x.shape[0], groups, w.shape[1], math.prod(sizes)
        )
    result = _rounded(total.reshape(x.shape[0], w.shape[0], *sizes), result_dtype)
    return np.ascontiguousarray(np.moveaxis(result, 1, -1)) if layout == "channels_last" else result
