"""The value of a loop expression, computed with NumPy: what generated code must compute, an array at a time.

`interpret(expr, {"x": array})` gives every variable an array (all of shapes that broadcast) and returns the expression's array.
It reads no memory by itself: an expression with a `Load` or a `Word` is refused unless the caller says what they give.

>>> interpret(LOOPS.fma(Var("x", f32), 2.0, 1.0), {"x": np.float32([1, 2])})
array([3., 5.], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .loops import Bitcast, Cast, Const, Expr, Load, Op, Sym, Var, Word, children
from .scalar import NUMPY

Read = Callable[..., np.ndarray]  # (load, index, and with a mask: mask, other) -> elements


def interpret(expr: Expr, env: Mapping[str, Any], read: Read | None = None) -> np.ndarray:
    """The value of `expr`, with `env` naming the arrays of its variables and symbols.  Each shared sub-expression runs once.

    read(load, index[, mask, other]) gives the elements of a `Load`, read(word, index) those of a `Word`.
    """
    values: dict[int, np.ndarray] = {}
    stack = [(expr, False)]
    with np.errstate(all="ignore"):
        while stack:
            e, ready = stack.pop()
            if id(e) in values:
                continue
            if not ready:
                stack.append((e, True))
                stack.extend((c, False) for c in children(e))
                continue
            args = [values[id(c)] for c in children(e)]
            values[id(e)] = read(e, *args) if read is not None and isinstance(e, Load | Word) else _value(e, args, env)
    return values[id(expr)]


def _value(e: Expr, args: list[np.ndarray], env: Mapping[str, Any]) -> np.ndarray:
    match e:
        case Const():
            return np.asarray(e.value, e.dtype.np)
        case Var() | Sym():
            return np.asarray(env[e.name], e.dtype.np)
        case Cast():
            return NUMPY.cast(args[0], e.dtype)
        case Bitcast():
            return NUMPY.bitcast(args[0], e.dtype)
        case Op():
            return np.asarray(_OPERATIONS[e.name](*args))
    raise TypeError(f"an expression with a {type(e).__name__} has no value without memory")


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c, rounded once (f64: but for the rare case that the part below the sum is itself a tie)."""
    if a.dtype == np.float32:
        product = a.astype(np.float64) * b.astype(np.float64)  # exact
        total, low = _two_sum(product, c.astype(np.float64))
        # to odd, so that the rounding to f32 cannot be a second one
        even = (total.view(np.int64) & 1) == 0
        odd = np.nextafter(total, np.where(low > 0, np.inf, -np.inf))
        return np.where(even & (low != 0) & np.isfinite(total), odd, total).astype(np.float32)
    product, product_low = _two_product(a, b)
    total, low = _two_sum(product, c)
    low = low + product_low
    fused = np.where(low == 0, total, total + low)  # a total of -0 stays
    return np.where(np.isfinite(fused), fused, a * b + c)


def _dot4(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c plus the products of the bytes of a, unsigned, and of b, signed."""
    return c + sum(((a >> k) & 255) * (b << (24 - k) >> 24) for k in (0, 8, 16, 24))


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(s, e) with s + e = a + b exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, e) with p + e = a * b exactly, unless it overflows or underflows."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return p, a2 * b2 - (((p - a1 * b1) - a2 * b1) - a1 * b2)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two f64 of at most 26 bits whose sum is a."""
    t = a * 134217729.0  # 2**27 + 1
    high = t - (t - a)
    return high, a - high


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": NUMPY.div, "rem": NUMPY.rem, "floordiv": np.floor_divide,
    "mod": np.mod, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "shl": np.left_shift, "shr": np.right_shift, "not": np.invert, "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt,
    "fma": _fma, "dot4": _dot4, "floor": np.floor, "ceil": np.ceil, "rint": np.rint, "trunc": np.trunc, "lt": np.less,
    "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "where": np.where,
}  # fmt: skip
