"""The scalar namespaces over which pointwise, index and reduction ops are written.

A definition gets a namespace `s` and scalars `x` of one dtype.  Operators (+ - * / < & ...) work on the scalars directly; what has
no operator is a function of `s`.  There are two namespaces with the same functions: `NUMPY`, whose scalars are arrays (the
reference), and `LOOPS`, whose scalars are loop expressions (code).  LOOPS' transcendentals come from `transcendental.py`, written
over the arithmetic of this file alone, so that every target computes the same polynomial.

functions: abs sqrt fma(a,b,c) floor ceil rint trunc   max min (NaN wins)   where(cond,a,b)   eq ne   cast(x,dtype) bitcast(x,dtype)
div (truncates on integers) rem (sign of the dividend)   is_nan   const(value, like)
exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf gelu pow
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import transcendental as _t
from .loops import Bitcast, Cast, Const, Expr, Op, Scalar, binary, unary
from .types import DType, bool_, dtype_of, f32, f64, i8, u8


class LoopScalars:
    """Scalars are `Expr`; see the module docstring."""

    def const(self, value: float, like: Expr) -> Expr:
        return Const(value, like.dtype)

    def dtype(self, x: Expr) -> DType:
        return x.dtype

    def abs(self, x: Expr) -> Expr:
        return x if x.dtype.kind in "ub" else unary("abs", x)

    def sqrt(self, x: Expr) -> Expr:
        return unary("sqrt", x)

    def floor(self, x: Expr) -> Expr:
        return unary("floor", x)

    def ceil(self, x: Expr) -> Expr:
        return unary("ceil", x)

    def rint(self, x: Expr) -> Expr:
        """Round half to even."""
        return unary("rint", x)

    def trunc(self, x: Expr) -> Expr:
        return unary("trunc", x)

    def fma(self, a: Expr, b: Scalar, c: Scalar) -> Expr:
        like = next(x for x in (a, b, c) if isinstance(x, Expr))
        args = tuple(x if isinstance(x, Expr) else Const(x, like.dtype) for x in (a, b, c))
        return Op("fma", args, like.dtype)

    def dot4(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """c + the products of the four bytes of a, unsigned, and of b, signed; all i32, and it wraps.  Only of loops."""
        return Op("dot4", (a, b, c), c.dtype)

    def eq(self, a: Scalar, b: Scalar) -> Expr:
        return binary("eq", a, b)

    def ne(self, a: Scalar, b: Scalar) -> Expr:
        return binary("ne", a, b)

    def is_nan(self, x: Expr) -> Expr:
        return binary("ne", x, x)

    def where(self, c: Expr, a: Scalar, b: Scalar) -> Expr:
        dtype = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else None
        if dtype is None:
            raise TypeError("where(c, a, b) needs a scalar with a dtype among a and b; use s.const")
        a_, b_ = (x if isinstance(x, Expr) else Const(x, dtype) for x in (a, b))
        if isinstance(c, Const):
            return a_ if c.value else b_
        return Op("where", (c, a_, b_), dtype)

    def max(self, a: Scalar, b: Scalar) -> Expr:
        return self._extreme("max", a, b)

    def min(self, a: Scalar, b: Scalar) -> Expr:
        return self._extreme("min", a, b)

    def _extreme(self, name: str, a: Scalar, b: Scalar) -> Expr:
        if isinstance(a, Const) or not isinstance(a, Expr):
            a, b = b, a
        if not isinstance(a, Expr) or isinstance(a, Const):  # both are known
            dtype = next(x.dtype for x in (a, b) if isinstance(x, Expr))
            known = [x.value if isinstance(x, Const) else x for x in (a, b) if not isinstance(x, Expr) or isinstance(x, Const)]
            return Const(max(known) if name == "max" else min(known), dtype)
        if a.dtype.kind in "iu":
            return binary(name, a, b)
        if a.dtype is bool_:
            return (a | b) if name == "max" else (a & b)
        b_ = b if isinstance(b, Expr) else Const(b, a.dtype)
        # one instruction (maxps keeps its second operand on NaN); a NaN in b, where reductions have theirs, becomes the one NaN
        picked = self.where((a < b_) if name == "max" else (b_ < a), b_, a)
        return picked if isinstance(b_, Const) else self.where(self.is_nan(b_), Const(math.nan, a.dtype), picked)

    def cast(self, x: Expr, dtype: DType) -> Expr:
        return x if x.dtype is dtype else Const(_cast_const(x.value, dtype), dtype) if isinstance(x, Const) else Cast(x, dtype)

    def bitcast(self, x: Expr, dtype: DType) -> Expr:
        return Bitcast(x, dtype)

    def div(self, a: Scalar, b: Scalar) -> Expr:
        return binary("div", a, b)

    def rem(self, a: Scalar, b: Scalar) -> Expr:
        """a - b * trunc(a / b): the sign of the dividend.  Floats: exact while the quotient is below 2**53."""
        dtype = next(x.dtype for x in (a, b) if isinstance(x, Expr))
        if not dtype.is_float:
            return binary("rem", a, b)
        x, y = (self.cast(v, f64) if isinstance(v, Expr) else Const(v, f64) for v in (a, b))
        r = self.fma(-self.trunc(x / y), y, x)  # exact, but the quotient may have been rounded up to the next integer
        exact = self.eq(r, 0)
        r = self.where((r < 0) ^ (x < 0), self.where(x < 0, r - self.abs(y), r + self.abs(y)), r)
        r = self.where(exact, x * 0.0, r)  # a zero has the dividend's sign as well
        infinite = self.eq(self.abs(y), Const(math.inf, f64))  # of which trunc(x / y) * y is NaN
        return self.cast(self.where(infinite, self.where(self.is_nan(x - x), x - x, x), r), dtype)


def _cast_const(value: float, dtype: DType) -> float | int | bool:
    if dtype is bool_:
        return value != 0
    return int(value) if dtype.is_int else float(value)


def _loop_transcendental(name: str) -> Any:
    f = getattr(_t, name)

    def call(self: LoopScalars, *args: Scalar) -> Expr:
        dtype = next(x.dtype for x in args if isinstance(x, Expr))
        exprs = [x if isinstance(x, Expr) else Const(x, dtype) for x in args]
        return f(self, *exprs)

    call.__name__ = name
    call.__doc__ = f.__doc__
    return call


class NumpyScalars:
    """Scalars are NumPy arrays; see the module docstring."""

    def const(self, value: float, like: Any) -> Any:
        return np.asarray(value, np.asarray(like).dtype)

    def dtype(self, x: Any) -> DType:
        return dtype_of(np.asarray(x).dtype)

    abs = staticmethod(np.abs)
    sqrt = staticmethod(np.sqrt)
    floor = staticmethod(np.floor)
    ceil = staticmethod(np.ceil)
    rint = staticmethod(np.rint)
    trunc = staticmethod(np.trunc)
    eq = staticmethod(np.equal)
    ne = staticmethod(np.not_equal)
    is_nan = staticmethod(np.isnan)
    max = staticmethod(np.maximum)
    min = staticmethod(np.minimum)
    exp, log, pow = staticmethod(np.exp), staticmethod(np.log), staticmethod(np.power)
    sin, cos, tan = staticmethod(np.sin), staticmethod(np.cos), staticmethod(np.tan)
    asin, acos, atan = (staticmethod(f) for f in (np.arcsin, np.arccos, np.arctan))
    sinh, cosh, tanh = (staticmethod(f) for f in (np.sinh, np.cosh, np.tanh))
    asinh, acosh, atanh = (staticmethod(f) for f in (np.arcsinh, np.arccosh, np.arctanh))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c; f32 through f64, which rounds once but for rare double rounding."""
        wide = np.result_type(a, b, c) if np.asarray(a).dtype != np.float32 else np.dtype(np.float64)
        return (np.asarray(a, wide) * np.asarray(b, wide) + np.asarray(c, wide)).astype(np.asarray(a).dtype)

    def where(self, c: Any, a: Any, b: Any) -> Any:
        dtypes = [x.dtype for x in (a, b) if isinstance(x, np.ndarray | np.generic)]
        return np.where(c, *(np.asarray(x, dtypes[0]) if not hasattr(x, "dtype") and dtypes else x for x in (a, b)))

    def cast(self, x: Any, dtype: DType) -> Any:
        x = np.asarray(x)
        of = dtype_of(x.dtype)
        if of.bits == 4:  # ml_dtypes has no way from one 4-bit type to the other
            x = x.astype(compute_dtype(of).np)
        if dtype.is_int and of.is_float:
            wide = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
            top = float(np.nextafter(np.float64(dtype.max), 0)) if dtype.bits == 64 else float(dtype.max)
            exact = np.clip(np.trunc(wide), float(dtype.min), top)
            result = exact.astype(np.int64 if dtype.kind == "i" else np.uint64)
            if dtype.bits == 64:
                result = np.where(wide >= float(dtype.max), result.dtype.type(dtype.max), result)
            return result.astype(dtype.np)
        if dtype is bool_:
            return x != 0
        return x.astype(dtype.np)

    def bitcast(self, x: Any, dtype: DType) -> Any:
        return np.asarray(x).view(dtype.np)

    def div(self, a: Any, b: Any) -> Any:
        if np.asarray(a).dtype.kind not in "iu":
            return np.divide(a, b)
        a, b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
        with np.errstate(all="ignore"):
            safe = np.where(b == 0, np.asarray(1, b.dtype), b)
            q = np.where(b == 0, np.asarray(0, a.dtype), np.floor_divide(a, safe))
            return (q + ((q < 0) & (q * safe != a)).astype(a.dtype)).astype(a.dtype) if a.dtype.kind == "i" else q

    def rem(self, a: Any, b: Any) -> Any:
        a, b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
        with np.errstate(all="ignore"):
            return np.fmod(a, b if a.dtype.kind == "f" else np.where(b == 0, np.asarray(1, b.dtype), b))

    def erf(self, x: Any) -> Any:
        x = np.asarray(x)
        return _erf(x.astype(np.float64)).astype(x.dtype)

    def gelu(self, x: Any) -> Any:
        x = np.asarray(x)
        size = np.minimum(np.abs(x), 100.0)  # past which there is nothing: infinity has a result
        return (np.maximum(x, 0) - size * 0.5 * _erfc(size.astype(np.float64) * math.sqrt(0.5))).astype(x.dtype)


_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])

for _name in "exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf gelu pow".split():
    setattr(LoopScalars, _name, _loop_transcendental(_name))

LOOPS = LoopScalars()
NUMPY = NumpyScalars()

COMPUTE = {"f16": f32, "bf16": f32, "f8e4m3": f32, "f8e5m2": f32, "i4": i8, "u4": u8}


def compute_dtype(dtype: DType) -> DType:
    """The dtype in which arithmetic on `dtype` is done: f32 for narrower floats (each result is rounded back), a byte for 4 bits."""
    return COMPUTE.get(dtype.name, dtype)
