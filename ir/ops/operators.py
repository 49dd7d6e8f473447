"""Python arithmetic on graph values, and `build`, which makes constants of the numbers among an op's operands.

`x * 2 + y`, `-x`, `a @ b`, `x[:, 1:]`: a Python number becomes a constant of the other operand's dtype.  Comparisons are the
functions `octavo.ops.eq`, `lt` and so on, because `==` on values asks whether they are the same value.

>>> y = build("max", x * 0.5, 0.0)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np

from ..dims import Dim, DimExpr, dim_max, dim_min
from ..errors import ModelError, ShapeError
from ..graph import Value, const_value
from ..location import caller
from ..scalar import compute_dtype
from ..types import DType, TensorType, i64
from .registry import apply

Operand: TypeAlias = "Value | float | int | bool | np.ndarray"


def scalar(value: float, dtype: DType) -> Value:
    """A constant of shape []."""
    return const_value(np.asarray(value).astype(dtype.np), dtype=dtype)


def build(name: str, *operands: Operand, loc: str = "", **attrs: Any) -> Value:
    """`apply` for operands among which Python numbers take the dtype of the last value, and arrays their own.

    Raises ShapeError where the operands do not fit.
    """
    dtype = next((v.dtype for v in reversed(operands) if isinstance(v, Value)), None)
    values = []
    for v in operands:
        if isinstance(v, np.ndarray):
            values.append(const_value(v))
        elif isinstance(v, Value):
            values.append(v)
        elif dtype is None:
            raise ShapeError(f"{name}: a number among the operands needs a value beside it to take its dtype from")
        else:
            values.append(scalar(v, dtype))
    return apply(name, *values, loc=loc, **attrs)


def cast(x: Value, to: DType) -> Value:
    """x as another dtype; x itself where it has that dtype."""
    return x if x.dtype is to else apply("cast", x, to=to)


def widen(x: Value) -> Value:
    """x in the dtype that arithmetic on it is done in: f32 for narrower floats."""
    return cast(x, compute_dtype(x.dtype))


def reshape(x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.shape == shape else apply("reshape", x, shape=shape)


def transpose(x: Value, perm: tuple[int, ...]) -> Value:
    return x if perm == tuple(range(len(perm))) else apply("transpose", x, perm=perm)


def broadcast(x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.shape == shape else apply("broadcast_to", x, shape=shape)


def full(value: float, type: TensorType) -> Value:
    """A tensor of one repeated number."""
    return broadcast(scalar(value, type.dtype), type.shape)


def size(d: Dim, dtype: DType) -> Value:
    """A size as a scalar of the graph; a constant where it is known."""
    return scalar(d, dtype) if isinstance(d, int) else cast(reshape(apply("sizes", dims=(d,)), ()), dtype)


def narrow(x: Value, axis: int, start: Dim, stop: Dim) -> Value:
    """start..stop of one axis, which must lie within it."""
    if start == 0 and stop == x.shape[axis]:
        return x
    starts, stops = [0] * x.type.rank, list(x.shape)
    starts[axis], stops[axis] = start, stop  # type: ignore[call-overload]
    return apply("slice", x, starts=tuple(starts), stops=tuple(stops), steps=(1,) * x.type.rank)


def _binary(name: str) -> tuple[Callable[..., Value], Callable[..., Value]]:
    return lambda a, b: build(name, a, b, loc=caller()), lambda a, b: build(name, b, a, loc=caller())


def _bound(k: Dim, size: Dim) -> Dim:
    """An index as Python means it, counted from the end where negative, within 0..size."""
    k = k + size if isinstance(k, int) and k < 0 else k
    return dim_min(dim_max(k, 0), size) if isinstance(k, DimExpr) or isinstance(size, int) or k > 0 else 0


def _getitem(x: Value, key: Any) -> Value:
    """Basic indexing: ints, slices, `...` and None, dims allowed as bounds.  Raises ShapeError for anything else."""
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > x.type.rank:
        raise ShapeError(f"{used} indices for {x.type}")
    at = next((n for n, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys[at : at + 1] = [slice(None)] * (x.type.rank - used)
    starts, stops, steps, kept = [], [], [], []
    sizes = iter(x.shape)
    for k in keys:
        if k is None:
            kept.append(True)
            continue
        d = next(sizes)
        if isinstance(k, slice):
            step = 1 if k.step is None else operator.index(k.step)
            if step > 0:
                start = _bound(0 if k.start is None else k.start, d)
                stop = d if k.stop is None else dim_max(start, _bound(k.stop, d))
            else:
                start = d - 1 if k.start is None else dim_min(_bound(k.start, d), d - 1)
                stop = -1 if k.stop is None else dim_min(start, _bound(k.stop, d))
            kept.append(True)
        elif isinstance(k, int | DimExpr):
            start = k + d if isinstance(k, int) and k < 0 else k
            if isinstance(start, int) and isinstance(d, int) and not 0 <= start < d:
                raise ShapeError(f"index {k} is out of range for an axis of size {d}")
            stop, step = start + 1, 1
            kept.append(False)
        else:
            raise ShapeError(f"values are indexed by integers, slices, ... and None, not {type(k).__name__}; use gather")
        starts.append(start)
        stops.append(stop)
        steps.append(step)
    part = apply("slice", x, loc=caller(), starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
    sliced = iter(part.shape)
    shape: list[Dim] = []
    for k, keep in zip(keys, kept, strict=True):
        if k is None:
            shape.append(1)
        else:
            d = next(sliced)
            shape += [d] * keep
    return reshape(part, tuple(shape))


def positions(length: Dim) -> Value:
    """0, 1, ... as i64[length]."""
    return apply("iota", shape=(length,), axis=0, dtype=i64)


def _refuse(reason: str) -> Callable[..., NoReturn]:
    """A method that says why a value cannot do that while a graph is built.  Raises ModelError."""

    def refuse(x: Value, *_: Any, **__: Any) -> NoReturn:
        where = caller()
        raise ModelError(f"{where + ': ' if where else ''}a value ({x.type}) {reason}")

    return refuse


for _operator, _op in (
    ("add", "add"),
    ("sub", "sub"),
    ("mul", "mul"),
    ("truediv", "div"),
    ("matmul", "matmul"),
    ("pow", "pow"),
):
    _forward, _backward = _binary(_op)
    setattr(Value, f"__{_operator}__", _forward)
    setattr(Value, f"__r{_operator}__", _backward)
for _name, _method in {"neg": lambda x: build("neg", x, loc=caller()), "getitem": _getitem}.items():
    setattr(Value, f"__{_name}__", _method)
for _name, _reason in {
    "bool": "has no truth value while the graph is built; choose elements with octavo.ops.where",
    "iter": "cannot be iterated; loop over range(size) and index it",
    "array": "has no contents while the graph is built; use octavo.ops instead of NumPy functions",
}.items():
    setattr(Value, f"__{_name}__", _refuse(_reason))
setattr(Value, "__array_ufunc__", None)  # noqa: B010  NumPy then leaves `array + value` to the value
