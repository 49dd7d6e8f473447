"""Shape arithmetic: how operators act on tensors whose contents are known as sizes (see symbolic.py).

Each function gets the node and its operands and returns the result's contents as a Tensor, or raises `Untracked`, after which
the ordinary importer runs.  Float tensors are followed only where a size is involved: plain constants are folded in their own
precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dims import dim_product
from ...ir.errors import ShapeError
from ...ir.types import DType, bool_
from . import symbolic as sym
from .files import element_type
from .registry import Site, Tensor, symbolic_contents, tracked
from .symbolic import MAX_TRACKED, Untracked


def contents(x: Tensor | None) -> np.ndarray:
    """Raises Untracked when they are not known."""
    if x is None or x.contents is None:
        raise Untracked
    return x.contents


def traceable(*operands: Tensor | None) -> None:
    """Raises Untracked for floats without a size among them, and for tensors that are not tracked."""
    for x in operands:
        contents(x)
    if any(x is not None and x.dtype.is_float for x in operands) and not any(map(symbolic_contents, operands)):
        raise Untracked


def in_range(array: np.ndarray, dtype: DType) -> Tensor:
    """A tensor of these contents; a constant outside the integer type would wrap, so it is left to run time."""
    if array.size > MAX_TRACKED:
        raise Untracked
    if dtype.is_int and any(isinstance(x, int) and not dtype.min <= x <= dtype.max for x in array.flat):
        raise Untracked
    return Tensor(contents=array, dtype=dtype)


@tracked("Shape")
def shape(n: Site, x: Tensor) -> Tensor:
    start, end = n.integer("start"), n.integer("end", x.rank)
    dims = x.shape[max(start + x.rank, 0) if start < 0 else start : max(end + x.rank, 0) if end < 0 else end]
    return Tensor(contents=sym.object_array(dims))


@tracked("Size")
def size(n: Site, x: Tensor) -> Tensor:
    result = np.empty((), object)
    result[()] = dim_product(x.shape)
    return Tensor(contents=result)


@tracked("Identity")
def identity(n: Site, x: Tensor) -> Tensor:
    return x


def _register(name: str, f: Callable[..., Any], *, dtype: DType | None = None) -> None:
    @tracked(name)
    def run(n: Site, *operands: Tensor) -> Tensor:
        traceable(*operands)
        result = operands[0].contents
        assert result is not None
        if len(operands) == 1:
            result = sym.elementwise(f, result)
        for other in operands[1:]:
            try:
                result = sym.elementwise(f, result, contents(other))
            except ValueError:
                raise ShapeError("shapes do not broadcast") from None
        return in_range(result, dtype or operands[0].dtype)


for _name, _f in {
    "Add": sym.add, "Sub": sym.sub, "Mul": sym.mul, "Div": sym.div, "Max": sym.maximum, "Min": sym.minimum,
    "Floor": sym.floor, "Ceil": sym.ceil, "Neg": lambda a: sym.mul(a, -1),
}.items():  # fmt: skip
    _register(_name, _f)

for _name, _f in {
    "Equal": sym.equal,
    "Less": sym.less,
    "Greater": lambda a, b: sym.less(b, a),
    "LessOrEqual": lambda a, b: not sym.less(b, a),
    "GreaterOrEqual": lambda a, b: not sym.less(a, b),
    "And": lambda a, b: bool(a and b),
    "Or": lambda a, b: bool(a or b),
    "Xor": lambda a, b: bool(a != b),
    "Not": lambda a: not a,
}.items():
    _register(_name, _f, dtype=bool_)


@tracked("Mod")
def mod(n: Site, a: Tensor, b: Tensor) -> Tensor:
    traceable(a, b)
    if n.integer("fmod"):
        raise Untracked
    return in_range(sym.elementwise(sym.modulo, contents(a), contents(b)), a.dtype)


@tracked("Cast")
def cast(n: Site, x: Tensor) -> Tensor:
    return _cast(x, element_type(n.integer("to"), "attribute to"))


@tracked("CastLike")
def cast_like(n: Site, x: Tensor, like: Tensor) -> Tensor:
    return _cast(x, like.dtype)


def _cast(x: Tensor, dtype: DType) -> Tensor:
    array = contents(x)
    if x.dtype.is_float and not symbolic_contents(x):
        raise Untracked
    if dtype is bool_:
        return Tensor(contents=sym.elementwise(sym.to_bool, array), dtype=dtype)
    if dtype.is_int:
        return in_range(sym.elementwise(sym.to_int, array), dtype)
    if dtype.name in ("f32", "f64") and symbolic_contents(x):
        return Tensor(contents=sym.elementwise(sym.to_float, array), dtype=dtype)
    raise Untracked


@tracked("Gather")
def gather(n: Site, x: Tensor, indices: Tensor) -> Tensor:
    array, at = contents(x), contents(indices)
    if not sym.is_static(at):
        raise Untracked
    axis = n.axis(x.rank)
    size = array.shape[axis]
    positions = np.array([int(k) for k in at.flat], np.int64).reshape(at.shape)
    if positions.size and not (-size <= positions.min() and positions.max() < size):
        raise ShapeError(f"an index is out of range for the axis of size {size}")
    return _like(np.take(array, positions, axis), x)


def _like(array: Any, x: Tensor) -> Tensor:
    """`array` as an object array (NumPy unwraps single objects), with the dtype of x."""
    if not isinstance(array, np.ndarray):
        wrapped = np.empty((), object)
        wrapped[()] = array
        array = wrapped
    if array.size > MAX_TRACKED:
        raise Untracked
    return Tensor(contents=array, dtype=x.dtype)


@tracked("Concat")
def concat(n: Site, *parts: Tensor) -> Tensor:
    arrays = [contents(p) for p in parts]
    if sum(a.size for a in arrays) > MAX_TRACKED or len({a.ndim for a in arrays}) != 1 or not arrays[0].ndim:
        raise Untracked
    return _like(np.concatenate(arrays, n.axis(parts[0].rank)), parts[0])


def known_axes(n: Site, axes: Tensor | None) -> tuple[int, ...] | None:
    """Axes from the second operand (newer opsets) or the attribute; None where neither gives any."""
    return n.known_ints(axes, "axes") if axes is not None else n.integers("axes")


@tracked("Unsqueeze")
def unsqueeze(n: Site, x: Tensor, axes: Tensor | None = None) -> Tensor:
    array, where = contents(x), known_axes(n, axes) or ()
    return _like(np.expand_dims(array, n.axes(where, x.rank + len(where))), x)


@tracked("Squeeze")
def squeeze(n: Site, x: Tensor, axes: Tensor | None = None) -> Tensor:
    array, where = contents(x), known_axes(n, axes)
    if where is None:
        return _like(array.reshape([d for d in array.shape if d != 1]), x)
    normal = n.axes(where, x.rank)
    if any(array.shape[k] != 1 for k in normal):
        raise ShapeError(f"axes {where} of {x.type} are not all of size 1")
    return _like(array.reshape([d for k, d in enumerate(array.shape) if k not in normal]), x)


@tracked("Reshape")
def reshape(n: Site, x: Tensor, shape: Tensor) -> Tensor:
    array = contents(x)
    target = [array.shape[k] if d == 0 and not n.integer("allowzero") else d for k, d in enumerate(n.known_ints(shape, "shape"))]
    try:
        return _like(array.reshape(target), x)
    except ValueError:
        raise ShapeError(f"{x.type} does not reshape to {target}") from None


@tracked("Flatten")
def flatten(n: Site, x: Tensor) -> Tensor:
    array = contents(x)
    axis = n.integer("axis", 1)
    return _like(array.reshape(math.prod(array.shape[: axis + x.rank if axis < 0 else axis]), -1), x)


@tracked("Transpose")
def transpose(n: Site, x: Tensor) -> Tensor:
    return _like(contents(x).transpose(n.integers("perm")), x)


@tracked("Slice")
def slice_(
    n: Site,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    array = contents(x)
    first = _bound(n, "starts", starts)
    last = _bound(n, "ends", ends)
    where = known_axes(n, axes)
    by = n.known_ints(steps, "steps") if steps is not None else (1,) * len(first)
    at = [slice(None)] * x.rank
    for k, axis in enumerate(n.axes(where if where is not None else range(len(first)), x.rank)):
        stop: int | None = last[k]
        if by[k] < 0 and stop is not None and stop < -array.shape[axis]:
            stop = None
        at[axis] = slice(first[k], stop, by[k])
    return _like(array[tuple(at)], x)


def _bound(n: Site, name: str, given: Tensor | None) -> tuple[int, ...]:
    if given is None:
        return n.integers(name) or ()
    array = n.constant(given)
    if array is None:
        raise Untracked
    return tuple(int(v) for v in array.ravel())


@tracked("ConstantOfShape")
def constant_of_shape(n: Site, shape: Tensor) -> Tensor:
    dims = contents(shape)
    value = n.attr("value")
    array = np.zeros(1, np.float32) if value is None else value
    if not sym.is_static(dims) or array.dtype.kind not in "iub" or array.size != 1 or math.prod(dims.flat) > MAX_TRACKED:
        raise Untracked
    result = np.empty(tuple(dims.flat), object)
    result[...] = array.reshape(-1)[0].item()
    return Tensor(contents=result, dtype=Tensor(n.const(array)).dtype)


@tracked("Range")
def range_(n: Site, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    a, b, c = (contents(t) for t in (start, limit, delta))
    if not (sym.is_static(a) and sym.is_static(b) and sym.is_static(c)) or not start.dtype.is_int or not c.item():
        raise Untracked
    numbers = range(a.item(), b.item(), c.item())
    if len(numbers) > MAX_TRACKED:
        raise Untracked
    return Tensor(contents=sym.object_array(list(numbers)), dtype=start.dtype)


@tracked("Where")
def where(n: Site, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    arrays = [contents(t) for t in (condition, a, b)]
    return in_range(sym.elementwise(lambda c, x, y: x if c else y, *arrays), a.dtype)


@tracked("Expand")
def expand(n: Site, x: Tensor, shape: Tensor) -> Tensor:
    array, dims = contents(x), contents(shape)
    if not sym.is_static(dims):
        raise Untracked
    try:
        target = np.broadcast_shapes(array.shape, tuple(dims.flat))
    except ValueError:
        raise ShapeError(f"{x.type} does not expand to {list(dims.flat)}") from None
    if math.prod(target) > MAX_TRACKED:
        raise Untracked
    return _like(np.broadcast_to(array, target).copy(), x)


@tracked("Tile")
def tile(n: Site, x: Tensor, repeats: Tensor) -> Tensor:
    array, times = contents(x), contents(repeats)
    if not sym.is_static(times) or array.size * math.prod(times.flat) > MAX_TRACKED:
        raise Untracked
    return _like(np.tile(array, tuple(times.flat)), x)


def _reduction(name: str, f: Callable[..., Any], unit: int | None) -> None:
    @tracked(name)
    def run(n: Site, x: Tensor, axes: Tensor | None = None) -> Tensor:
        traceable(x)
        array = contents(x)
        where = known_axes(n, axes)
        if x.dtype.is_float or (not where and n.integer("noop_with_empty_axes")):
            raise Untracked
        normal = sorted(n.axes(where, x.rank)) if where else list(range(x.rank))
        keep = n.integer("keepdims", 1)
        for axis in reversed(normal):
            parts = [np.take(array, k, axis) for k in range(array.shape[axis])]
            if not parts and unit is None:
                raise Untracked
            start = parts[0] if parts else np.full(array.shape[:axis] + array.shape[axis + 1 :], unit, object)
            total = np.asarray(start, object)
            for part in parts[1:]:
                total = sym.elementwise(f, total, np.asarray(part, object))
            array = np.expand_dims(total, axis) if keep else total
        return in_range(array, x.dtype)


_reduction("ReduceProd", sym.mul, 1)
_reduction("ReduceSum", sym.add, 0)
_reduction("ReduceMax", sym.maximum, None)
_reduction("ReduceMin", sym.minimum, None)
