"""Operators that move, select and make elements: reshaping, slicing, gathering, scattering, padding, ranges, constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.dims import Dim, ceildiv, dim_product, floordiv
from ...ir.errors import ModelError, ShapeError, UnsupportedOp
from ...ir.graph import Value
from ...ir.ops.registry import broadcast_shape, normal_axis
from ...ir.types import bool_, dtype_of, i64
from .files import element_type
from .ops_tracked import known_axes
from .registry import Operand, Site, Tensor, onnx_op
from .symbolic import at_least, clamp, largest, smallest


@onnx_op("Constant")
def constant(n: Site) -> Tensor | Value:
    for name in ("value", "sparse_value"):
        if n.attr(name) is not None:
            return n.const(n.attr(name))
    for name, dtype in (("value_float", "f32"), ("value_floats", "f32"), ("value_int", "i64"), ("value_ints", "i64")):
        if n.attr(name) is not None:
            return n.const(np.array(n.attr(name), dtype_of(dtype).np))
    if n.attr("value_string") is not None or n.attr("value_strings") is not None:
        raise UnsupportedOp("strings are not supported")
    raise ModelError("it has no value")


@onnx_op("ConstantOfShape")
def constant_of_shape(n: Site, shape: Tensor) -> Value:
    value = n.attr("value")
    array = np.zeros(1, np.float32) if value is None else value
    if array.size != 1:
        raise ModelError("its value must have one element")
    return n.broadcast(n.const(array.reshape(())), n.dims(shape, "the shape"))


@onnx_op("Shape", "Size")
def shape(n: Site, x: Tensor) -> Value:
    raise AssertionError("shapes are always tracked")


@onnx_op("Reshape")
def reshape(n: Site, x: Tensor, shape: Tensor) -> Value:
    return reshape_to(n, x, n.dims(shape, "the new shape"), allow_zero=bool(n.integer("allowzero")))


def reshape_to(n: Site, x: Tensor, target: Sequence[Dim], allow_zero: bool = False) -> Value:
    """Reshape with 0 for "as before" and one -1 for "the rest"."""
    dims = [x.shape[k] if d == 0 and not allow_zero and k < x.rank else d for k, d in enumerate(target)]
    unknown = [k for k, d in enumerate(dims) if d == -1]
    if len(unknown) > 1:
        raise ShapeError(f"{list(target)} leaves two sizes open")
    if unknown:
        (k,) = unknown
        rest = dim_product(d for j, d in enumerate(dims) if j != k)
        dims[k] = floordiv(x.type.size, rest) if rest != 0 else 0
    return n.reshape(x, dims)


@onnx_op("Flatten")
def flatten(n: Site, x: Tensor) -> Value:
    axis = n.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    return n.reshape(x, (dim_product(x.shape[:axis]), dim_product(x.shape[axis:])))


@onnx_op("Transpose")
def transpose(n: Site, x: Tensor) -> Value:
    perm = n.integers("perm")
    return n.transpose(x, n.axes(perm, x.rank) if perm is not None else tuple(reversed(range(x.rank))))


@onnx_op("Squeeze")
def squeeze(n: Site, x: Tensor, axes: Operand = None) -> Value:
    given = known_axes(n, axes)
    where = n.axes(given, x.rank) if given is not None else tuple(k for k, d in enumerate(x.shape) if d == 1)
    if any(isinstance(x.shape[k], int) and x.shape[k] != 1 for k in where):
        raise ShapeError(f"axes {given} of {x.type} are not all of size 1")
    return n.reshape(x, [d for k, d in enumerate(x.shape) if k not in where])


@onnx_op("Unsqueeze")
def unsqueeze(n: Site, x: Tensor, axes: Operand = None) -> Value:
    given = known_axes(n, axes) or ()
    rank = x.rank + len(given)
    where, dims = set(n.axes(given, rank)), iter(x.shape)
    return n.reshape(x, [1 if k in where else next(dims) for k in range(rank)])


@onnx_op("Concat")
def concat(n: Site, *parts: Tensor) -> Value:
    return n.concat(parts, n.axis(parts[0].rank))


@onnx_op("Expand")
def expand(n: Site, x: Tensor, shape: Tensor) -> Value:
    return n.broadcast(x, broadcast_shape(x.shape, n.dims(shape, "the shape")))


@onnx_op("Tile", since=6)
def tile(n: Site, x: Tensor, repeats: Tensor) -> Value:
    return n.apply("tile", x, repeats=n.dims(repeats, "the number of repeats"))


@onnx_op("Split")
def split(n: Site, x: Tensor, sizes: Operand = None) -> tuple[Value, ...]:
    axis, count = n.axis(x.rank), len(n.outputs)
    parts: Sequence[Dim]
    if sizes is not None:
        parts = n.dims(sizes, "the sizes of the parts")
    elif n.integers("split") is not None:
        parts = n.integers("split") or ()
    else:
        each = ceildiv(x.shape[axis], n.integer("num_outputs", count))
        parts = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    if len(parts) != count:
        raise ShapeError(f"{len(parts)} sizes for {count} outputs")
    results, start = [], 0
    for part in parts:
        results.append(n.slice_axis(x, axis, start, start + part))
        start = start + part
    return tuple(results)


def normal_bound(bound: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A start or stop of Slice as a position from low to high: negative ones count from the end."""
    negative = at_least(-1, bound)
    if negative is None:  # bound + size * (1 if bound < 0 else 0)
        bound = bound + size * clamp(-bound, 0, 1)
    elif negative:
        bound = bound + size
    return clamp(bound, low, high)


@onnx_op("Slice", since=10)
def slice_(n: Site, x: Tensor, starts: Tensor, ends: Tensor, axes: Operand = None, steps: Operand = None) -> Value:
    first, last = n.dims(starts, "a start"), n.dims(ends, "an end")
    where = known_axes(n, axes)
    by = n.known_ints(steps, "steps") if steps is not None else (1,) * len(first)
    return slice_by(n, x, first, last, where, by)


@onnx_op("Slice")
def slice_by_attributes(n: Site, x: Tensor) -> Value:
    first, last = n.integers("starts") or (), n.integers("ends") or ()
    return slice_by(n, x, first, last, n.integers("axes"), (1,) * len(first))


def slice_by(n: Site, x: Tensor, first: Sequence[Dim], last: Sequence[Dim], where: Sequence[int] | None, by: Sequence[int]) -> Value:
    axes = n.axes(where if where is not None else range(len(first)), x.rank)
    if not len(first) == len(last) == len(axes) == len(by) or 0 in by:
        raise ShapeError("starts, ends, axes and steps must have one entry for each axis, and no step may be 0")
    starts: list[Dim] = [0] * x.rank
    stops: list[Dim] = list(x.shape)
    steps = [1] * x.rank
    for start, stop, axis, step in zip(first, last, axes, by, strict=True):
        size = x.shape[axis]
        if step > 0:
            starts[axis] = normal_bound(start, size, 0, size)
            stops[axis] = largest(normal_bound(stop, size, 0, size), starts[axis])
        else:
            starts[axis] = normal_bound(start, size, -1, size - 1)
            stops[axis] = smallest(normal_bound(stop, size, -1, size - 1), starts[axis])
        steps[axis] = step
    if tuple(starts) == (0,) * x.rank and tuple(stops) == x.shape and set(steps) <= {1}:
        return x.value
    return n.apply("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


@onnx_op("Gather")
def gather(n: Site, x: Tensor, indices: Tensor) -> Value:
    axis = n.axis(x.rank)
    if indices.rank == 0:
        at = n.constant(indices)
        if at is not None:  # a view, which gather is not
            k, size = int(at), x.shape[axis]
            if isinstance(size, int) and not -size <= k < size:
                raise ShapeError(f"index {k} is out of range for axis {axis} of {x.type}")
            start = k + size if k < 0 else k
            return n.reshape(n.slice_axis(x, axis, start, start + 1), x.shape[:axis] + x.shape[axis + 1 :])
    return n.apply("gather", x, indices, axis=axis)


@onnx_op("GatherElements")
def gather_elements(n: Site, x: Tensor, indices: Tensor) -> Value:
    return n.apply("gather_elements", x, indices, axis=n.axis(x.rank))


@onnx_op("GatherND")
def gather_nd(n: Site, x: Tensor, indices: Tensor) -> Value:
    return n.apply("gather_nd", x, indices, batch_dims=n.integer("batch_dims"))


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(n: Site, x: Tensor, indices: Tensor, updates: Tensor) -> Value:
    return n.apply("scatter_elements", x, indices, updates, axis=n.axis(x.rank), reduction=n.text("reduction", "none"))


@onnx_op("ScatterND")
def scatter_nd(n: Site, x: Tensor, indices: Tensor, updates: Tensor) -> Value:
    return n.apply("scatter_nd", x, indices, updates, reduction=n.text("reduction", "none"))


@onnx_op("Pad", since=11)
def pad(n: Site, x: Tensor, pads: Tensor, value: Operand = None, axes: Operand = None) -> Value:
    fill = 0.0
    if value is not None and value.type.size != 0:
        fill = n.known(value, "the value to pad with").item()
    return pad_by(n, x, n.dims(pads, "the padding"), fill, known_axes(n, axes))


@onnx_op("Pad")
def pad_by_attributes(n: Site, x: Tensor) -> Value:
    return pad_by(n, x, n.integers("pads") or n.integers("paddings") or (), n.number("value"), None)


def pad_by(n: Site, x: Tensor, pads: Sequence[Dim], fill: float, given: Sequence[int] | None) -> Value:
    axes = n.axes(given if given is not None else range(x.rank), x.rank)
    if len(pads) != 2 * len(axes):
        raise ShapeError(f"{len(pads)} pads for {len(axes)} axes")
    low: list[Dim] = [0] * x.rank
    high: list[Dim] = [0] * x.rank
    starts: list[Dim] = [0] * x.rank
    stops: list[Dim] = list(x.shape)
    for k, axis in enumerate(axes):
        before, after = pads[k], pads[k + len(axes)]
        low[axis], high[axis] = largest(before, 0), largest(after, 0)
        starts[axis] = -smallest(before, 0)
        stops[axis] = x.shape[axis] + smallest(after, 0)
    value = x.value
    if any(s != 0 for s in starts) or tuple(stops) != x.shape:
        value = n.apply("slice", value, starts=tuple(starts), stops=tuple(stops), steps=(1,) * x.rank)
    if all(p == 0 for p in (*low, *high)):
        return value
    return n.apply("pad", value, low=tuple(low), high=tuple(high), mode=n.text("mode", "constant"), value=fill)


@onnx_op("Range")
def range_(n: Site, start: Tensor, limit: Tensor, delta: Tensor) -> Value:
    a, b, c = (n.constant(t) for t in (start, limit, delta))
    if a is not None and b is not None and c is not None:
        if c.item() == 0:
            raise ModelError("delta is 0")
        length: Dim = max(math.ceil((b.item() - a.item()) / c.item()), 0)
    elif start.dtype.is_int:
        (first,), (last,), (step,) = (n.dims(t, "the length of a range") for t in (start, limit, delta))
        if at_least(step, 1) is None and at_least(-1, step) is None:
            raise UnsupportedOp("the sign of delta is not known")
        length = largest(ceildiv(last - first, step), 0)
    else:
        origins = " and ".join(n.origin(t) for t in (start, limit, delta) if n.constant(t) is None)
        raise UnsupportedOp(f"the length of a range depends on {origins}")
    steps = n.apply("iota", shape=(length,), axis=0, dtype=start.dtype)
    if c is None or c.item() != 1:
        steps = n.apply("mul", steps, delta)
    return steps if a is not None and a.item() == 0 else n.apply("add", steps, start)


@onnx_op("EyeLike")
def eye_like(n: Site, x: Tensor) -> Value:
    dtype = element_type(n.integer("dtype"), "attribute dtype") if n.attr("dtype") is not None else x.dtype
    rows = n.apply("iota", shape=(x.shape[0], 1), axis=0, dtype=i64)
    columns = n.apply("iota", shape=(1, x.shape[1]), axis=1, dtype=i64)
    diagonal = n.apply("eq", n.apply("add", rows, n.scalar(n.integer("k"), rows)), columns)
    return n.cast(diagonal, dtype)


@onnx_op("OneHot")
def one_hot(n: Site, indices: Tensor, depth: Tensor, values: Tensor) -> Value:
    (size,) = n.dims(depth, "the depth")
    return n.apply("one_hot", n.cast(indices, i64), values, depth=size, axis=n.axis(indices.rank + 1, -1))


@onnx_op("Trilu")
def trilu(n: Site, x: Tensor, k: Operand = None) -> Value:
    offset = int(n.known(k, "k").item()) if k is not None else 0
    return n.apply("trilu", x, k=offset, upper=bool(n.integer("upper", 1)))


@onnx_op("DepthToSpace")
def depth_to_space(n: Site, x: Tensor) -> Value:
    return n.apply("depth_to_space", x, block=n.integer("blocksize", 1), mode=n.text("mode", "DCR"))


@onnx_op("SpaceToDepth")
def space_to_depth(n: Site, x: Tensor) -> Value:
    block = n.integer("blocksize", 1)
    if n.text("mode", "DCR") == "DCR":
        return n.apply("space_to_depth", x, block=block)
    b, c, h, w = x.shape
    rows, columns = floordiv(h, block), floordiv(w, block)
    parts = n.transpose(n.reshape(x, (b, c, rows, block, columns, block)), (0, 1, 3, 5, 2, 4))
    return n.reshape(parts, (b, c * block * block, rows, columns))


@onnx_op("ReverseSequence")
def reverse_sequence(n: Site, x: Tensor, lengths: Tensor) -> Value:
    time = normal_axis(n.integer("time_axis"), x.rank)
    batch = normal_axis(n.integer("batch_axis", 1), x.rank)
    counts = n.reshape(n.cast(lengths, i64), [x.shape[k] if k == batch else 1 for k in range(x.rank)])
    steps = n.apply("iota", shape=tuple(x.shape[k] if k == time else 1 for k in range(x.rank)), axis=time, dtype=i64)
    turned = n.apply("sub", n.apply("sub", counts, n.scalar(1, counts)), steps)
    positions = n.apply("where", n.apply("lt", steps, counts), turned, steps)
    return n.apply("gather_elements", x, n.broadcast(positions, x.shape), axis=time)


@onnx_op("NonZero")
def non_zero(n: Site, x: Tensor) -> Value | Tensor:
    array = n.constant(x)
    if array is not None:
        return n.const(np.array(np.nonzero(np.atleast_1d(array)), np.int64))
    positions, count = n.apply_all("nonzero", x)
    return n.apply("bind_size", positions, count, axis=1, symbol=str(n.symbols()))


@onnx_op("Unique")
def unique(n: Site, x: Tensor) -> tuple[Value, ...]:
    """The rows along an axis, or all elements, that differ; how many there are becomes a symbol."""
    axis = n.axis(x.rank) if n.attr("axis") is not None else None
    order = [axis or 0, *(k for k in range(x.rank) if k != (axis or 0))]
    whole = n.reshape(x, (x.type.size,)) if axis is None else n.transpose(x, order)
    y, first, group, counts, count = n.apply_all("unique", whole, sorted=bool(n.integer("sorted", 1)))
    symbol = str(n.symbols())
    y, first, counts = (n.apply("bind_size", v, count, axis=0, symbol=symbol) for v in (y, first, counts))
    if axis is not None:
        y = n.transpose(y, [order.index(k) for k in range(x.rank)])
    return y, first, group, counts


@onnx_op("TensorScatter")
def tensor_scatter(n: Site, past: Tensor, update: Tensor, at: Operand = None) -> Value:
    """Write `update` into a cache from position at[b] of each batch entry on."""
    axis = n.axis(past.rank, -2)
    steps = tuple(update.shape[k] if k == axis else 1 for k in range(past.rank))
    places = n.apply("iota", shape=steps, axis=axis, dtype=i64)
    if at is not None:
        places = n.apply("add", n.reshape(n.cast(at, i64), (update.shape[0], *(1,) * (past.rank - 1))), places)
    if n.text("mode", "linear") == "circular":
        size = n.reshape(n.apply("sizes", dims=(past.shape[axis],)), ())
        places = n.apply("mod", places, size)
    return n.apply("scatter_elements", past, n.broadcast(places, update.shape), update, axis=axis, reduction="none")


@onnx_op("Compress")
def compress(n: Site, x: Tensor, condition: Tensor) -> Value:
    axis = n.axis(x.rank) if n.attr("axis") is not None else 0
    value = x.value if n.attr("axis") is not None else n.reshape(x, (x.type.size,))
    known = n.constant(condition)
    if known is not None:
        return n.apply("gather", value, n.const(np.flatnonzero(known)), axis=axis)
    kept, count = n.apply_all("compress", value, n.cast(condition, bool_), axis=axis)
    return n.apply("bind_size", kept, count, axis=axis, symbol=str(n.symbols()))
