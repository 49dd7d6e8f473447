"""What is known about the contents of a tensor while importing: arrays whose elements are sizes.

Exporters compute shapes with tensors (Shape, Gather, Mul, Concat, Reshape).  The importer runs such chains itself, element by
element, over object arrays of

* ints and `DimExpr` for integer tensors,
* bools for conditions (a condition that the symbols leave open is not tracked),
* floats and `Ratio` for the scale arithmetic around Resize and friends.

A symbol stands for a size from 1 to 2**31 - 1, so that `Equal(size, -1)` and the clamps of Slice are decided here.  What
cannot be tracked raises `Untracked`, and the importer computes that tensor at run time instead.

>>> str(clamp(symbol("n") - 1, 0, symbol("n")))
'n-1'
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from ...ir.dims import Dim, DimExpr, ceildiv, dim_max, dim_min, floordiv, mod

LARGEST_SIZE = 2.0**31 - 1  # of a symbol: exporters write this, or 2**63 - 1, for "to the end"
MAX_TRACKED = 4096  # elements; longer tensors are data, not shapes


class Untracked(Exception):
    """The contents cannot be followed symbolically; never leaves the importer."""


@dataclass(frozen=True)
class Ratio:
    """A float that is a symbolic size times an exact factor."""

    size: DimExpr
    factor: Fraction


Element: TypeAlias = int | bool | float | DimExpr | Ratio


def bounds(d: Dim) -> tuple[float, float]:
    """The least and greatest value of a dim, over all symbols."""
    if isinstance(d, int):
        return d, d
    low = high = 0.0
    for monomial, coefficient in _divided(d).terms:
        a, b = 1.0, 1.0
        for atom in monomial:
            if atom.op == "symbol":
                c, e = 1.0, LARGEST_SIZE
            else:
                c, e = _atom_bounds(atom.op, bounds(atom.args[0]), bounds(atom.args[1]))
            corners = [_product(x, y) for x in (a, b) for y in (c, e)]
            a, b = min(corners), max(corners)
        a, b = sorted((_product(coefficient, a), _product(coefficient, b)))
        low, high = low + a, high + b
    return low, high


def _divided(d: DimExpr) -> DimExpr:
    """The same size with c * (x // c) written as x - x % c, whose bounds are closer."""
    total: Dim = 0
    for monomial, coefficient in d.terms:
        term = DimExpr({monomial: coefficient})
        if len(monomial) == 1 and monomial[0].op == "floordiv":
            x, c = monomial[0].args
            if isinstance(c, int) and c > 0 and coefficient % c == 0:
                term = (x - mod(x, c)) * (coefficient // c)
        total = total + term
    return total if isinstance(total, DimExpr) else DimExpr({(): total} if total else {})


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _atom_bounds(op: str, a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    if op == "max":
        return max(a[0], b[0]), max(a[1], b[1])
    if op == "min":
        return min(a[0], b[0]), min(a[1], b[1])
    if b[0] <= 0:
        return -math.inf, math.inf
    if op == "mod":
        return 0.0, b[1] - 1
    low = a[0] if math.isinf(a[0]) else float(a[0] // b[0] if a[0] < 0 else a[0] // b[1] if not math.isinf(b[1]) else 0)
    return low, a[1] if math.isinf(a[1]) else float(a[1] // b[0])


def at_least(a: Dim, b: Dim) -> bool | None:
    """Is a >= b for all symbols?  None when that depends on them."""
    low, high = bounds(a - b)
    return True if low >= 0 else False if high < 0 else None


def largest(a: Dim, b: Dim) -> Dim:
    """max(a, b), decided by bounds where they allow it."""
    return a if at_least(a, b) else b if at_least(b, a) else dim_max(a, b)


def smallest(a: Dim, b: Dim) -> Dim:
    """min(a, b), decided by bounds where they allow it."""
    return b if at_least(a, b) else a if at_least(b, a) else dim_min(a, b)


def clamp(a: Dim, low: Dim, high: Dim) -> Dim:
    return smallest(largest(a, low), high)


def is_symbolic(x: Element) -> bool:
    return isinstance(x, DimExpr | Ratio)


def as_dim(x: Element) -> Dim:
    """An integer element.  Raises Untracked for a float."""
    if isinstance(x, bool | np.bool_):
        return int(x)
    if isinstance(x, int | DimExpr):
        return x
    raise Untracked


def _fraction(x: Element) -> Fraction:
    """The shortest decimal that is this f32, exactly: 0.7 means seven tenths, as its author wrote."""
    value = float(np.float32(x))  # type: ignore[arg-type]
    if not math.isfinite(value):
        raise Untracked
    return Fraction(str(np.float32(value)))


def ratio(size: Dim, factor: Fraction) -> Element:
    if isinstance(size, int):
        return float(size * factor)
    return Ratio(size, factor)


def add(a: Element, b: Element) -> Element:
    if isinstance(a, Ratio) and isinstance(b, Ratio) and a.factor == b.factor:
        return ratio(a.size + b.size, a.factor)
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        first, other = (a, b) if isinstance(a, Ratio) else (b, a)
        assert isinstance(first, Ratio)
        if is_symbolic(other):
            raise Untracked
        shift = _fraction(other)  # (size * p + shift * q) * 1/q
        p, q = first.factor.numerator, first.factor.denominator
        common = math.lcm(q, shift.denominator)
        return ratio(first.size * (p * common // q) + int(shift * common), Fraction(1, common))
    return a + b  # type: ignore[operator]


def sub(a: Element, b: Element) -> Element:
    return add(a, mul(b, -1.0 if isinstance(a, Ratio | float) or isinstance(b, Ratio | float) else -1))


def mul(a: Element, b: Element) -> Element:
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        first, other = (a, b) if isinstance(a, Ratio) else (b, a)
        assert isinstance(first, Ratio)
        if isinstance(other, Ratio):
            return ratio(first.size * other.size, first.factor * other.factor)
        return ratio(first.size, first.factor * _fraction(other))
    return a * b  # type: ignore[operator]


def div(a: Element, b: Element) -> Element:
    """Float division, or integer division that truncates."""
    if isinstance(a, Ratio | float) or isinstance(b, Ratio | float):
        if isinstance(b, Ratio):
            if isinstance(a, Ratio):
                quotient = floordiv(a.size, b.size)
                if quotient * b.size == a.size and isinstance(quotient, int | DimExpr):
                    return ratio(quotient, a.factor / b.factor)
            raise Untracked
        if isinstance(a, Ratio):
            if not b:
                raise Untracked
            return ratio(a.size, a.factor / _fraction(b))
        raise Untracked  # constants are folded in their own precision, not here
    x, y = as_dim(a), as_dim(b)
    if y == 0 or (isinstance(y, DimExpr) and bounds(y)[0] <= 0):
        raise Untracked
    if isinstance(x, int) and isinstance(y, int):
        return math.trunc(Fraction(x, y))
    if bounds(x)[0] < 0 or bounds(y)[0] < 0:
        raise Untracked
    return floordiv(x, y)


def modulo(a: Element, b: Element) -> Element:
    x, y = as_dim(a), as_dim(b)
    if y == 0 or bounds(y)[0] <= 0:
        raise Untracked
    return mod(x, y)


def floor(a: Element) -> Element:
    if isinstance(a, Ratio):
        return ratio(floordiv(a.size * a.factor.numerator, a.factor.denominator), Fraction(1))
    return float(math.floor(a))  # type: ignore[arg-type]


def ceil(a: Element) -> Element:
    if isinstance(a, Ratio):
        return ratio(ceildiv(a.size * a.factor.numerator, a.factor.denominator), Fraction(1))
    return float(math.ceil(a))  # type: ignore[arg-type]


def to_int(a: Element) -> Element:
    """Cast to an integer type: truncation."""
    if isinstance(a, Ratio):
        if bounds(a.size)[0] < 0 or a.factor < 0:
            raise Untracked
        floored = floor(a)
        return floored.size if isinstance(floored, Ratio) else int(floored)  # type: ignore[arg-type]
    if isinstance(a, float) and not math.isfinite(a):
        raise Untracked
    return a if isinstance(a, DimExpr) else int(a)


def to_float(a: Element) -> Element:
    return Ratio(a, Fraction(1)) if isinstance(a, DimExpr) else a if isinstance(a, Ratio) else float(a)


def to_bool(a: Element) -> Element:
    if isinstance(a, Ratio):
        raise Untracked
    return not equal(a, 0)


def maximum(a: Element, b: Element) -> Element:
    return largest(as_dim(a), as_dim(b))


def minimum(a: Element, b: Element) -> Element:
    return smallest(as_dim(a), as_dim(b))


def equal(a: Element, b: Element) -> bool:
    """Raises Untracked when the symbols leave it open."""
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        if a == b:
            return True
        raise Untracked
    if isinstance(a, float) or isinstance(b, float):
        return a == b
    x, y = as_dim(a), as_dim(b)
    if x == y:
        return True
    low, high = bounds(x - y)
    if low > 0 or high < 0:
        return False
    raise Untracked


def less(a: Element, b: Element) -> bool:
    """Raises Untracked when the symbols leave it open."""
    if isinstance(a, float) and isinstance(b, float):
        return a < b
    known = at_least(as_dim(a), as_dim(b))
    if known is None:
        raise Untracked
    return not known


def as_contents(array: np.ndarray) -> np.ndarray | None:
    """The contents of a constant as an object array, where they may be a shape: small int, bool and float tensors."""
    if array.size > MAX_TRACKED or array.dtype.kind not in "iubf" or array.dtype.itemsize > 8:
        return None
    result = np.empty(array.size, object)
    result[:] = array.ravel().tolist()
    return result.reshape(array.shape)


def is_static(contents: np.ndarray) -> bool:
    return not any(is_symbolic(x) for x in contents.flat)


def elementwise(f: Any, *arrays: np.ndarray) -> np.ndarray:
    """`f` over the elements of object arrays, broadcast."""
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    if math.prod(shape) > MAX_TRACKED:
        raise Untracked
    result = np.empty(shape, object)
    views = [np.broadcast_to(a, shape) for a in arrays]
    for at in np.ndindex(*shape):
        result[at] = f(*(v[at] for v in views))
    return result


def object_array(items: list[Element] | tuple[Element, ...]) -> np.ndarray:
    """A one-dimensional object array of these elements."""
    result = np.empty(len(items), object)
    for k, x in enumerate(items):
        result[k] = x
    return result
