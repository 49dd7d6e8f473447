"""What a value is at an index: the one way in which templates read fused producers.

`Access(...).at(value, index)` is the loop expression of one element: a load where the value lies in memory or registers, the scalar
function of a pointwise op over its operands' elements, the index map of an index op.  Everything fused into a kernel is read so, and
no fused producer is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.dims import Dim, DimExpr
from ...ir.errors import CodegenError
from ...ir.graph import Node, Value
from ...ir.loops import Buf, Const, Expr, Load, Scalar, as_expr, binary, size_expr
from ...ir.ops.registry import op_def
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import TensorType, i64

Index = tuple[Expr, ...]
Bound = Callable[[Index, Expr | None, Scalar], Expr]  # (index, mask, other) -> element


def strides_of(shape: Sequence[Dim]) -> list[Dim]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    total: Dim = 1
    for d in reversed(shape):
        strides.append(total)
        total = total * d
    return strides[::-1]


def linear(index: Sequence[Expr], strides: Sequence[Dim]) -> Expr:
    """The element offset of an index."""
    total: Expr = Const(0, i64)
    for i, s in zip(index, strides, strict=True):
        total = total + i * size_expr(s)
    return total


def unravel(offset: Expr, shape: Sequence[Dim]) -> Index:
    """The index of a row-major offset."""
    result: list[Expr] = []
    for k, d in enumerate(reversed(shape)):
        size = size_expr(d)
        last = k == len(shape) - 1
        result.append(Const(0, i64) if d == 1 else offset if last else offset % size)
        offset = offset // size
    return tuple(reversed(result))


def in_memory(buf: Buf, shape: Sequence[Dim]) -> Bound:
    """A value that lies in a buffer, row-major."""
    strides = strides_of(shape)

    def read(index: Index, mask: Expr | None, other: Scalar) -> Expr:
        return Load(buf, linear(index, strides), mask, other)

    return read


class Access:
    """Reads values of a kernel's body.  `bound` maps values to where they lie; everything else is computed."""

    def __init__(self, bound: Mapping[Value, Bound]):
        self.bound = dict(bound)
        self._memo: dict[tuple[Value, tuple[int, ...], int], Expr] = {}
        self._keep: list[Any] = []  # expressions whose ids are keys of the memo

    def bind(self, value: Value, read: Bound) -> None:
        """From now on the value is read so (it was stored, or reduced into registers)."""
        self.bound[value] = read
        self._memo.clear()

    def at(self, value: Value, index: Sequence[Expr], mask: Expr | None = None, other: Scalar = 0) -> Expr:
        """The element at an index; where `mask` is false nothing is read and the result is unspecified unless `value` is bound."""
        index = tuple(index)
        key = (value, tuple(map(id, index)), id(mask))
        if key not in self._memo:
            self._keep.append((index, mask))
            self._memo[key] = self._compute(value, index, mask, other)
        return self._memo[key]

    def _compute(self, value: Value, index: Index, mask: Expr | None, other: Scalar) -> Expr:
        if value in self.bound:
            return self.bound[value](index, mask, other)
        node = value.node
        if node.op == "const":
            return self._constant(value)
        kind = op_def(node.op).kind
        if kind == "pointwise":
            return self._pointwise(node, index, mask)
        if kind == "index":
            return self._index(node, index, mask)
        raise CodegenError(f"{node!r} cannot be computed element by element; it should have been a kernel of its own")

    def _constant(self, value: Value) -> Expr:
        if value.array.size != 1:
            raise CodegenError(f"the constant {value!r} is larger than one element and must be an operand of the kernel")
        return scalar_constant(value)

    def _pointwise(self, node: Node, index: Index, mask: Expr | None) -> Expr:
        out = node.types[0]
        args = []
        for v in node.inputs:
            x = self.at(v, broadcast_index(index, out.shape, v.shape), mask)
            args.append(LOOPS.cast(x, compute_dtype(v.dtype)))
        definition = op_def(node.op)
        assert definition.fn is not None
        return LOOPS.cast(as_expr(definition.fn(LOOPS, *args, **node.attrs), out.dtype), out.dtype)

    def _index(self, node: Node, index: Index, mask: Expr | None) -> Expr:
        if node.op == "reshape":
            (source,) = node.inputs
            return self.at(source, reshaped_index(index, node.types[0].shape, source.shape), mask)
        definition = op_def(node.op)
        assert definition.fn is not None
        reads = [Reader(self, v, mask) for v in node.inputs]
        attrs = {k: as_scalars(a) for k, a in node.attrs.items()}
        types = tuple(v.type for v in node.inputs)
        x = definition.fn(LOOPS, index, *reads, types=types, out=node.types[0], **attrs)
        return LOOPS.cast(as_expr(x, node.types[0].dtype), node.types[0].dtype)


class Reader:
    """An operand as an index op sees it: `x[i]`, `x.at(i, where=..., other=...)`, `x.shape`."""

    def __init__(self, access: Access, value: Value, mask: Expr | None):
        self._access, self._value, self._mask = access, value, mask
        self.shape = tuple(size_expr(d) for d in value.shape)
        self.type: TensorType = value.type

    def __getitem__(self, index: Any) -> Expr:
        index = index if isinstance(index, tuple) else (index,)
        return self._access.at(self._value, tuple(as_expr(i, i64) for i in index), self._mask)

    def at(self, index: Sequence[Scalar], *, where: Scalar, other: Scalar) -> Expr:
        """The element where `where` holds, else `other`, and nothing is read."""
        condition = where if isinstance(where, Expr) else None
        if condition is None or isinstance(condition, Const):
            if bool(condition.value if isinstance(condition, Const) else where):
                return self[tuple(index)]
            return as_expr(other, self.type.dtype)
        both = condition if self._mask is None else condition & self._mask
        exprs = tuple(as_expr(i, i64) for i in index)
        x = self._access.at(self._value, exprs, both, other)
        if isinstance(x, Load) and x.mask is both and self._mask is None and self._value in self._access.bound:
            return x  # the load itself gives `other`; one found below another index op would give that op's
        return LOOPS.where(condition, x, as_expr(other, self.type.dtype))


def scalar_constant(value: Value) -> Expr:
    """A constant of one element as a literal."""
    element = value.array.reshape(-1)[0]
    dtype = value.dtype
    number = bool(element) if dtype.kind == "b" else int(element) if dtype.is_int else float(element)
    return Const(number, dtype)


def broadcast_index(index: Index, shape: Sequence[Dim], operand: Sequence[Dim]) -> Index:
    """The index into an operand that broadcasts to `shape`.  A size that only the run tells is clamped, so that 1 broadcasts."""
    result: list[Expr] = []
    for i, d, o in zip(index[len(index) - len(operand) :], shape[len(shape) - len(operand) :], operand, strict=True):
        if o == d:
            result.append(i)
        elif o == 1:
            result.append(Const(0, i64))
        else:
            result.append(binary("min", i, size_expr(o) - 1))
    return tuple(result)


def reshaped_index(index: Index, shape: Sequence[Dim], source: Sequence[Dim]) -> Index:
    """The index into `source` of an element of its reshape; dims that both share at the ends cost nothing."""
    front = 0
    while front < min(len(shape), len(source)) and shape[front] == source[front]:
        front += 1
    back = 0
    while back < min(len(shape), len(source)) - front and shape[-1 - back] == source[-1 - back]:
        back += 1
    inner_shape, inner_source = shape[front : len(shape) - back], source[front : len(source) - back]
    inner_index = index[front : len(shape) - back]
    if not inner_source:
        middle: Index = ()
    elif len(inner_source) == 1:
        middle = (linear(inner_index, strides_of(inner_shape)),)
    elif len([d for d in inner_source if d != 1]) <= 1:
        offset = linear(inner_index, strides_of(inner_shape))
        middle = tuple(offset if d != 1 else Const(0, i64) for d in inner_source)
    else:
        middle = unravel(linear(inner_index, strides_of(inner_shape)), inner_source)
    return (*index[:front], *middle, *(index[len(shape) - back :] if back else ()))


def as_scalars(attribute: Any) -> Any:
    """Dims in an attribute as loop expressions; everything else as it is."""
    if isinstance(attribute, DimExpr):
        return size_expr(attribute)
    if isinstance(attribute, tuple):
        return tuple(as_scalars(a) for a in attribute)
    return attribute
