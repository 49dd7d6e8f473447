"""Index ops: each says which operand element the result has at index `i`; no arithmetic on elements happens here.

`f(s, i, *reads, types, out, **attrs)` runs over NumPy index grids (reference) and over loop expressions (code).  Sizes
(`x.shape` and dims in attrs) are ints or scalars of `s`.  No read lies outside its operand: where one might, `x.at(where=...)`
guards it.  transpose, broadcast_to, slice, constant pad, concat and window are affine in `i`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..dims import Dim, ceildiv, dim_product, floordiv
from ..errors import ShapeError
from ..types import DType, TensorType, bool_, f16, f32, i64
from .registry import Sample, Types, index, same_dtype

S: TypeAlias = Any  # a scalar namespace
X: TypeAlias = Any  # its scalars, or an int
I: TypeAlias = tuple[Any, ...]  # an index: one scalar for each axis
R: TypeAlias = Any  # a reader: r[index], r.at(index, where=, other=), r.shape


def typed(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> np.ndarray:
    """Sample elements of any dtype."""
    return rng.integers(0, 2, shape).astype(bool) if dtype is bool else rng.integers(0, 99, shape).astype(dtype)


def _literal(value: float, dtype: DType) -> float | int | bool:
    """A Python number as a value of the dtype; infinities become the limits of an integer type."""
    if dtype is bool_:
        return bool(value)
    if dtype.is_int:
        return dtype.max if value == math.inf else dtype.min if value == -math.inf else int(value)
    return float(value)


def _all(conditions: Sequence[X]) -> X:
    """The conjunction of at least one condition."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = result & condition
    return result


def guarded(read: R, at: I, conditions: Sequence[X], other: float | int | bool = 0) -> X:
    """The element at an index where all conditions hold, else `other`."""
    return read.at(at, where=_all(conditions), other=other) if conditions else read[at]


# --- views ------------------------------------------------------------------------------------------------------------------


def _infer_reshape(types: Types, *, shape: tuple[Dim, ...]) -> Types:
    (t,) = types
    difference = dim_product(shape) - t.size
    if isinstance(difference, int) and difference:
        raise ShapeError(f"{t} has {t.size} elements, the shape {list(shape)} has {dim_product(shape)}")
    return (t.with_shape(tuple(shape)),)


def reshape_groups(source: tuple[Dim, ...], target: tuple[Dim, ...]) -> Iterable[tuple[range, range]]:
    """Cut both shapes where the products of what came before agree: runs of axes that hold the same elements."""
    ends: dict[Dim, int] = {}
    size: Dim = 1
    for k, d in enumerate(source):
        size = size * d
        ends[size] = k + 1
    at_source = at_target = 0
    size = 1
    for k, d in enumerate(target):
        size = size * d
        end = ends.get(size, 0)
        if end > at_source and k + 1 < len(target):
            yield range(at_source, end), range(at_target, k + 1)
            at_source, at_target = end, k + 1
    yield range(at_source, len(source)), range(at_target, len(target))


def _reshape_samples(rng: np.random.Generator) -> Iterable[Sample]:
    cases = [((2, 3, 35), (6, 5, 7)), ((12,), (3, 1, 4)), ((1, 7, 1), (7,)), ((5, 6), (3, 10)), ((1,), ()), ((0, 3), (3, 0, 2))]
    for k, (source, target) in enumerate(cases):
        dtype = (np.float32, np.int64, np.float16, np.uint8, bool, np.float64)[k]
        yield Sample((typed(source, dtype, rng),), {"shape": target})


@index(infer=_infer_reshape, reference=lambda x, shape: x.reshape(shape), samples=_reshape_samples)
def reshape(s: S, i: I, x: R, *, types: Types, out: TensorType, shape: tuple[X, ...]) -> X:
    """The same elements in row-major order under another shape of the same size; any dtype."""
    at: list[X] = []
    for source, target in reshape_groups(types[0].shape, out.shape):
        linear: X = 0
        for k in target:
            linear = linear * shape[k] + i[k]
        used = [k for k in source if types[0].shape[k] != 1]
        part: dict[int, X] = {}
        for k in reversed(used):  # the first axis that counts needs no modulus
            part[k] = linear if k == used[0] else linear % x.shape[k]
            linear = linear if k == used[0] else linear // x.shape[k]
        at.extend(part.get(k, 0) for k in source)
    return x[tuple(at)]


def _infer_transpose(types: Types, *, perm: tuple[int, ...]) -> Types:
    (t,) = types
    if sorted(perm) != list(range(t.rank)):
        raise ShapeError(f"{perm} is not a permutation of the axes of {t}")
    return (t.with_shape(tuple(t.shape[k] for k in perm)),)


def _transpose_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int8, np.float16, bool, np.float64):
        yield Sample((typed((5, 33), dtype, rng),), {"perm": (1, 0)})
        yield Sample((typed((3, 4, 1, 17), dtype, rng),), {"perm": (0, 3, 1, 2)})
    yield Sample((typed((), np.float32, rng),), {"perm": ()})


@index(infer=_infer_transpose, reference=lambda x, perm: x.transpose(perm), samples=_transpose_samples)
def transpose(s: S, i: I, x: R, *, types: Types, out: TensorType, perm: tuple[int, ...]) -> X:
    """Axis k of the result is axis perm[k] of x; any dtype."""
    return x[tuple(i[perm.index(k)] for k in range(len(perm)))]


def _infer_broadcast_to(types: Types, *, shape: tuple[Dim, ...]) -> Types:
    (t,) = types
    if t.rank > len(shape):
        raise ShapeError(f"{t} has more axes than the shape {list(shape)}")
    for d, wanted in zip(t.shape, shape[len(shape) - t.rank :], strict=True):
        if isinstance(d, int) and isinstance(wanted, int) and d not in (1, wanted):
            raise ShapeError(f"{t} does not broadcast to {list(shape)}")
    return (t.with_shape(tuple(shape)),)


def _broadcast_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, bool):
        for source, target in (((1, 17), (5, 17)), ((), (3,)), ((4, 1), (2, 4, 9)), ((3,), (3,)), ((1,), (0,))):
            yield Sample((typed(source, dtype, rng),), {"shape": target})


@index(infer=_infer_broadcast_to, reference=lambda x, shape: np.broadcast_to(x, shape), samples=_broadcast_samples)
def broadcast_to(s: S, i: I, x: R, *, types: Types, out: TensorType, shape: tuple[X, ...]) -> X:
    """x repeated along new leading axes and along axes of size 1; any dtype."""
    skip = out.rank - types[0].rank
    at: list[X] = []
    for k, d in enumerate(types[0].shape):
        wanted = out.shape[skip + k]
        # a symbolic size that is not visibly the wanted one is it or 1: only the run tells
        at.append(0 if d == 1 else i[skip + k] if d == wanted or isinstance(d, int) else s.min(i[skip + k], x.shape[k] - 1))
    return x[tuple(at)]


# --- parts ------------------------------------------------------------------------------------------------------------------


def _infer_slice(types: Types, *, starts: tuple[Dim, ...], stops: tuple[Dim, ...], steps: tuple[int, ...]) -> Types:
    (t,) = types
    if not len(starts) == len(stops) == len(steps) == t.rank or 0 in steps:
        raise ShapeError(f"needs a start, stop and nonzero step for each axis of {t}")
    shape = []
    for d, start, stop, step in zip(t.shape, starts, stops, steps, strict=True):
        size = ceildiv(stop - start, step) if step > 0 else ceildiv(start - stop, -step)
        size = max(size, 0) if isinstance(size, int) else size
        low, high = (start, stop) if step > 0 else (stop + 1, start + 1)
        over = high - d
        if size != 0 and ((isinstance(low, int) and low < 0) or (isinstance(over, int) and over > 0)):
            raise ShapeError(f"the range {start}..{stop} leaves an axis of size {d}; normalise it first")
        shape.append(size)
    return (t.with_shape(tuple(shape)),)


def _slice_reference(x: np.ndarray, starts: Any, stops: Any, steps: Any) -> np.ndarray:
    return x[tuple(slice(a, None if b < 0 else b, c) for a, b, c in zip(starts, stops, steps, strict=True))]


def _slice_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, bool):
        yield Sample((typed((7, 33), dtype, rng),), {"starts": (1, 3), "stops": (6, 32), "steps": (1, 2)})
        yield Sample((typed((7, 33), dtype, rng),), {"starts": (6, 30), "stops": (-1, 2), "steps": (-1, -3)})
        yield Sample((typed((5, 4, 3), dtype, rng),), {"starts": (0, 2, 0), "stops": (5, 2, 3), "steps": (1, 1, 2)})


@index(infer=_infer_slice, reference=_slice_reference, samples=_slice_samples)
def slice_(
    s: S, i: I, x: R, *, types: Types, out: TensorType, starts: tuple[X, ...], stops: tuple[X, ...], steps: tuple[int, ...]
) -> X:
    """Every step-th element of start..stop on each axis (stop -1 for a negative step: down to element 0); any dtype.

    Ranges lie within the operand; where they are symbolic, stop >= start (step > 0) or start >= stop (step < 0).
    """
    return x[tuple(k * step + start for k, start, step in zip(i, starts, steps, strict=True))]


def _infer_concat(types: Types, *, axis: int) -> Types:
    same_dtype(types)
    first = types[0]
    if not 0 <= axis < first.rank:
        raise ShapeError(f"axis {axis} is out of range for {first}")
    total: Dim = 0
    for t in types:
        if t.rank != first.rank:
            raise ShapeError("operands differ in rank")
        for k, (a, b) in enumerate(zip(first.shape, t.shape, strict=True)):
            if k != axis and isinstance(a, int) and isinstance(b, int) and a != b:
                raise ShapeError(f"sizes {a} and {b} of axis {k} differ")
        total = total + t.shape[axis]
    shape = [next((t.shape[k] for t in types if isinstance(t.shape[k], int)), d) for k, d in enumerate(first.shape)]
    shape[axis] = total
    return (first.with_shape(tuple(shape)),)


def _concat_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, bool):
        yield Sample((typed((3, 5), dtype, rng), typed((3, 17), dtype, rng), typed((3, 1), dtype, rng)), {"axis": 1})
        yield Sample((typed((2, 3), dtype, rng), typed((0, 3), dtype, rng), typed((4, 3), dtype, rng)), {"axis": 0})
    yield Sample((typed((4,), np.float32, rng),), {"axis": 0})


@index(infer=_infer_concat, reference=lambda *xs, axis: np.concatenate(xs, axis), samples=_concat_samples)
def concat(s: S, i: I, *xs: R, types: Types, out: TensorType, axis: int) -> X:
    """The operands one after another along `axis`; one dtype of any kind, other sizes equal."""
    if len(xs) == 1:
        return xs[0][i]
    offsets: list[X] = [0]
    for x in xs:
        offsets.append(offsets[-1] + x.shape[axis])
    at = i[axis]
    result = None
    for k in reversed(range(len(xs))):
        here = [at >= offsets[k]] * (k > 0) + [at < offsets[k + 1]] * (k + 1 < len(xs))
        value = guarded(xs[k], (*i[:axis], at - offsets[k], *i[axis + 1 :]), here)
        result = value if result is None else s.where(at < offsets[k + 1], value, result)
    return result


def _infer_tile(types: Types, *, repeats: tuple[Dim, ...]) -> Types:
    (t,) = types
    if len(repeats) != t.rank:
        raise ShapeError(f"needs a repeat for each axis of {t}, got {len(repeats)}")
    return (t.with_shape(tuple(d * r for d, r in zip(t.shape, repeats, strict=True))),)


def _tile_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, bool):
        yield Sample((typed((3, 7), dtype, rng),), {"repeats": (2, 3)})
        yield Sample((typed((1, 5, 2), dtype, rng),), {"repeats": (4, 1, 0)})


@index(infer=_infer_tile, reference=lambda x, repeats: np.tile(x, repeats), samples=_tile_samples)
def tile(s: S, i: I, x: R, *, types: Types, out: TensorType, repeats: tuple[X, ...]) -> X:
    """x repeated whole, repeats[k] times along axis k; any dtype."""
    at = (0 if d == 1 else k if a == d else k % n for k, n, d, a in zip(i, x.shape, types[0].shape, out.shape, strict=True))
    return x[tuple(at)]


def _repeat_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int64, np.float16, bool):
        yield Sample((typed((3, 37), dtype, rng),), {"repeats": (2, 3)})
        yield Sample((typed((1, 5, 2), dtype, rng),), {"repeats": (4, 1, 0)})


def _repeated(x: np.ndarray, repeats: tuple[int, ...]) -> np.ndarray:
    for axis, times in enumerate(repeats):
        x = x.repeat(times, axis)
    return x


@index(infer=_infer_tile, reference=_repeated, samples=_repeat_samples)
def repeat(s: S, i: I, x: R, *, types: Types, out: TensorType, repeats: tuple[X, ...]) -> X:
    """Each element of x repeated repeats[k] times along axis k; any dtype."""
    at = (0 if d == 1 else k if a == d else k // r for k, r, d, a in zip(i, repeats, types[0].shape, out.shape, strict=True))
    return x[tuple(at)]


# --- surroundings -----------------------------------------------------------------------------------------------------------

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _infer_pad(types: Types, *, low: tuple[Dim, ...], high: tuple[Dim, ...], mode: str = "constant", value: float = 0) -> Types:
    (t,) = types
    if not len(low) == len(high) == t.rank:
        raise ShapeError(f"needs a low and a high pad for each axis of {t}")
    if mode not in _PAD_MODES:
        raise ShapeError(f"pads by {', '.join(_PAD_MODES)}, not {mode!r}")
    if any(isinstance(p, int) and p < 0 for p in (*low, *high)):
        raise ShapeError("pads cannot be negative; slice instead")
    return (t.with_shape(tuple(a + d + b for a, d, b in zip(low, t.shape, high, strict=True))),)


def _pad_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int8, np.float16):
        for mode in _PAD_MODES:
            yield Sample((typed((5, 13), dtype, rng),), {"low": (2, 0), "high": (1, 9), "mode": mode})
        yield Sample((typed((1, 4, 3), dtype, rng),), {"low": (0, 1, 0), "high": (1, 0, 2), "value": -2})
        yield Sample((typed((2, 3), dtype, rng),), {"low": (5, 0), "high": (4, 7), "mode": "reflect"})
    yield Sample((typed((3,), bool, rng),), {"low": (1,), "high": (1,), "value": 1})


def _pad_reference(x: np.ndarray, low: Any, high: Any, mode: str = "constant", value: float = 0) -> np.ndarray:
    if x.ndim == 0:
        return x
    if mode != "constant" and any(n == 0 and a + b for n, a, b in zip(x.shape, low, high, strict=True)):
        raise ShapeError(f"padding by {mode!r} has nothing to repeat along an empty axis of {x.shape}")
    extra = {"constant_values": np.asarray(value).astype(x.dtype)} if mode == "constant" else {}
    return np.pad(x, list(zip(low, high, strict=True)), _PAD_MODES[mode], **extra)  # type: ignore[call-overload]


@index(infer=_infer_pad, reference=_pad_reference, samples=_pad_samples)
def pad(s: S, i: I, x: R, *, types: Types, out: TensorType, low: I, high: I, mode: str = "constant", value: float = 0) -> X:
    """x with low[k] elements before and high[k] after it on axis k; any dtype.

    They are `value`, or x mirrored about its edge ("reflect"), its edge ("edge") or its other end ("wrap").
    """
    at: list[X] = []
    inside: list[X] = []
    for k, n, d, a in zip(i, x.shape, types[0].shape, zip(low, high, strict=True), strict=True):
        before, after = (not (isinstance(p, int) and p == 0) for p in a)
        j = k - a[0]
        if mode == "constant":
            inside += [j >= 0] * before + [j < n] * after
        elif (before or after) and mode == "edge":
            j = s.min(s.max(j, 0), n - 1)
        elif (before or after) and mode == "wrap":
            j = j % n
        elif before or after:
            period = _at_least_one(s, 2 * n - 2, d)
            j = j % period
            j = s.min(j, period - j) if d != 1 else 0 * k
        at.append(j)
    return guarded(x, tuple(at), inside, _literal(value, types[0].dtype))


def _at_least_one(s: S, size: X, d: Dim) -> X:
    return size if isinstance(d, int) and d > 1 else s.max(size, 1) if not isinstance(size, int) else max(size, 1)


def _infer_window(
    types: Types,
    *,
    axes: tuple[int, ...],
    kernel: tuple[Dim, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    low: tuple[Dim, ...],
    high: tuple[Dim, ...],
    fill: float,
) -> Types:
    (t,) = types
    if not len(axes) == len(kernel) == len(strides) == len(dilations) == len(low) == len(high):
        raise ShapeError("axes, kernel, strides, dilations, low and high differ in length")
    if len(set(axes)) != len(axes) or any(not 0 <= a < t.rank for a in axes):
        raise ShapeError(f"the axes {axes} are not distinct axes of {t}")
    shape = list(t.shape)
    for a, k, stride, dilation, before, after in zip(axes, kernel, strides, dilations, low, high, strict=True):
        shape[a] = floordiv(t.shape[a] + before + after - dilation * (k - 1) - 1, stride) + 1
        if isinstance(shape[a], int) and shape[a] < 0:
            raise ShapeError(f"a window of {k} does not fit axis {a} of {t} with pads {before} and {after}")
    return (t.with_shape((*shape, *kernel)),)


def _window_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int8, np.float16):
        plain = {
            "axes": (1, 2),
            "kernel": (3, 2),
            "strides": (1, 2),
            "dilations": (1, 1),
            "low": (0, 0),
            "high": (0, 0),
            "fill": 0,
        }
        yield Sample((typed((2, 7, 9), dtype, rng),), plain)
        yield Sample((typed((2, 7, 9), dtype, rng),), plain | {"low": (1, 0), "high": (2, 3), "dilations": (2, 1)})
        yield Sample((typed((2, 7, 9), dtype, rng),), plain | {"low": (1, 1), "high": (1, 1), "fill": -math.inf})


@index(infer=_infer_window, samples=_window_samples)
def window(
    s: S,
    i: I,
    x: R,
    *,
    types: Types,
    out: TensorType,
    axes: tuple[int, ...],
    kernel: I,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    low: I,
    high: I,
    fill: float,
) -> X:
    """Sliding windows: `axes` shrink to window positions, and the windows' own axes follow at the end; any dtype.

    What lies outside x is `fill`, infinities meaning the limits of an integer dtype.
    """
    rank = types[0].rank
    at: list[X] = list(i[:rank])
    inside: list[X] = []
    for k, a in enumerate(axes):
        j = i[a] * strides[k] + i[rank + k] * dilations[k] - low[k]
        inside += [j >= 0] * (not (isinstance(low[k], int) and low[k] == 0))
        inside += [j < x.shape[a]] * (not (isinstance(high[k], int) and high[k] == 0))
        at[a] = j
    return guarded(x, tuple(at), inside, _literal(fill, types[0].dtype))


def _infer_dilate(types: Types, *, axes: tuple[int, ...], factors: tuple[int, ...]) -> Types:
    (t,) = types
    if len(axes) != len(factors) or any(not 0 <= a < t.rank for a in axes) or any(f < 1 for f in factors):
        raise ShapeError(f"needs a factor >= 1 for each of the axes {axes} of {t}")
    shape = list(t.shape)
    for a, f in zip(axes, factors, strict=True):
        shape[a] = (t.shape[a] - 1) * f + 1
    return (t.with_shape(tuple(shape)),)


def _dilate_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int8, np.float16):
        yield Sample((typed((2, 3, 5), dtype, rng),), {"axes": (1, 2), "factors": (2, 3)})
        yield Sample((typed((7,), dtype, rng),), {"axes": (0,), "factors": (1,)})


@index(infer=_infer_dilate, samples=_dilate_samples)
def dilate(s: S, i: I, x: R, *, types: Types, out: TensorType, axes: tuple[int, ...], factors: tuple[int, ...]) -> X:
    """x with factors[k] - 1 zeros between neighbours along axes[k]; any dtype."""
    at: list[X] = list(i)
    inside: list[X] = []
    for a, f in zip(axes, factors, strict=True):
        if f != 1:
            at[a] = i[a] // f
            inside.append(s.eq(i[a] % f, 0))
    return guarded(x, tuple(at), inside, _literal(0, types[0].dtype))


# --- from nothing -----------------------------------------------------------------------------------------------------------


def _infer_iota(types: Types, *, shape: tuple[Dim, ...], axis: int, dtype: DType) -> Types:
    if types or not 0 <= axis < len(shape):
        raise ShapeError(f"takes no operands and an axis below the rank {len(shape)}")
    return (TensorType(dtype, tuple(shape)),)


def _iota_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (i64, f32, f16):
        yield Sample((), {"shape": (7,), "axis": 0, "dtype": dtype})
        yield Sample((), {"shape": (3, 17), "axis": 1, "dtype": dtype})


@index(infer=_infer_iota, samples=_iota_samples)
def iota(s: S, i: I, *, types: Types, out: TensorType, shape: I, axis: int, dtype: DType) -> X:
    """The position along `axis`, as `dtype`; no operands."""
    return s.cast(i[axis], dtype)


def _infer_sizes(types: Types, *, dims: tuple[Dim, ...]) -> Types:
    if types or not dims:
        raise ShapeError("takes no operands and at least one size")
    return (TensorType(i64, (len(dims),)),)


def _sizes_samples(rng: np.random.Generator) -> Iterable[Sample]:
    yield Sample((), {"dims": (3,)})
    yield Sample((), {"dims": (5, -1, 700)})


@index(infer=_infer_sizes, samples=_sizes_samples)
def sizes(s: S, i: I, *, types: Types, out: TensorType, dims: I) -> X:
    """Sizes that only the run knows, as i64[len(dims)]; no operands."""
    scalars = [s.const(d, i[0]) if isinstance(d, int) else d for d in dims]
    result = scalars[-1]
    for k in reversed(range(len(dims) - 1)):
        result = s.where(s.eq(i[0], k), scalars[k], result)
    return result
