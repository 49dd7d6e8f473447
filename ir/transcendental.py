"""exp, log, sin and their kin as plain arithmetic over the scalar namespace `s`, so that every target computes the same bits.

Each function is f(s, x) for x of dtype f32 or f64 (pow: f(s, x, y)); narrower floats are widened by the caller.  No branches, no
tables, no library calls: the expression becomes vector code wherever + - * / fma, comparisons and integer shifts do.
"""

from __future__ import annotations

import math
from typing import Any

from .loops import Expr
from .types import f64, i64

_LN2 = math.log(2.0)


def _wide(s: Any, x: Expr) -> Expr:
    return s.cast(x, f64)


def _exp(s: Any, x: Expr) -> Expr:
    x = s.where(x < -760.0, -760.0, s.where(s.const(720.0, x) < x, 720.0, x))
    t = s.fma(x, 0.5 / _LN2, 1.5 * 2.0**52 + 1023)
    n = t - (1.5 * 2.0**52 + 1023)
    r = s.fma(n, -2 * 1.90821492927058770002e-10, s.fma(n, -2 * 6.93147180369123816490e-01, x))
    p = s.const(1 / math.factorial(16), x)
    for k in range(15, -1, -1):
        p = s.fma(p, r, 1 / math.factorial(k))
    scale = s.bitcast(s.bitcast(t, i64) << 52, f64)
    return p * scale * scale


def _log(s: Any, x: Expr) -> Expr:
    tiny = x < 2.0**-1022
    bits = s.bitcast(s.where(tiny, x * 2.0**54, x), i64)
    e = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = s.bitcast(bits - (e << 52), f64)
    z = (m - 1.0) / (m + 1.0)
    w = z * z
    p = s.const(1 / 31, x)
    for k in range(29, -1, -2):
        p = s.fma(p, w, 1 / k)
    exponent = s.cast(e, f64) - s.where(tiny, s.const(54.0, x), 0.0)
    r = s.fma(exponent, _LN2, 2.0 * z * p)
    r = s.where(x < math.inf, r, x)
    return s.where(s.const(0.0, x) < x, r, s.where(s.eq(x, 0.0), s.const(-math.inf, x), math.nan))


def exp(s: Any, x: Expr) -> Expr:
    return s.cast(_exp(s, _wide(s, x)), x.dtype)


def log(s: Any, x: Expr) -> Expr:
    return s.cast(_log(s, _wide(s, x)), x.dtype)


def _reduce(s: Any, x: Expr) -> tuple[Expr, Expr]:
    n = s.rint(x * (2 / math.pi))
    r = s.fma(n, -6.123233995736766e-17, s.fma(n, -math.pi / 2, x))
    return r, s.cast(n, i64)


def _sincos(s: Any, r: Expr) -> tuple[Expr, Expr]:
    w = r * r
    a, b = s.const(-1 / math.factorial(19), r), s.const(1 / math.factorial(20), r)
    for k in range(17, 0, -2):
        a = s.fma(a, w, (-1) ** (k // 2) / math.factorial(k))
    for k in range(18, -1, -2):
        b = s.fma(b, w, (-1) ** (k // 2) / math.factorial(k))
    return a * r, b


def _trig(s: Any, x: Expr, offset: int) -> Expr:
    r, n = _reduce(s, _wide(s, x))
    sine, cosine = _sincos(s, r)
    n = n + offset
    y = s.where(s.eq(n & 1, 0), sine, cosine)
    return s.cast(s.where(s.eq(n & 2, 0), y, -y), x.dtype)


def sin(s: Any, x: Expr) -> Expr:
    return _trig(s, x, 0)


def cos(s: Any, x: Expr) -> Expr:
    return _trig(s, x, 1)


def tan(s: Any, x: Expr) -> Expr:
    r, n = _reduce(s, _wide(s, x))
    sine, cosine = _sincos(s, r)
    even = s.eq(n & 1, 0)
    return s.cast(s.where(even, sine, -cosine) / s.where(even, cosine, sine), x.dtype)


def _atan(s: Any, x: Expr) -> Expr:
    a = s.abs(x)
    inverted = s.const(1.0, x) < a
    u = s.where(inverted, 1.0 / a, a)
    half = u / (1.0 + s.sqrt(s.fma(u, u, 1.0)))
    half = half / (1.0 + s.sqrt(s.fma(half, half, 1.0)))
    w = half * half
    p = s.const(1 / 29, x)
    for k in range(27, 0, -2):
        p = s.fma(p, w, (-1) ** (k // 2) / k)
    y = 4.0 * half * p
    y = s.where(inverted, math.pi / 2 - y, y)
    return s.where(x < 0.0, -y, y)


def atan(s: Any, x: Expr) -> Expr:
    return s.cast(_atan(s, _wide(s, x)), x.dtype)


def asin(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(_atan(s, w / s.sqrt((1.0 - w) * (1.0 + w))), x.dtype)


def acos(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(2.0 * _atan(s, s.sqrt((1.0 - w) / (1.0 + w))), x.dtype)


def sinh(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(0.5 * (_exp(s, w) - _exp(s, -w)), x.dtype)


def cosh(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(0.5 * (_exp(s, w) + _exp(s, -w)), x.dtype)


def tanh(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    w = s.where(w < -30.0, -30.0, s.where(s.const(30.0, w) < w, 30.0, w))
    e = _exp(s, w + w)
    return s.cast((e - 1.0) / (e + 1.0), x.dtype)


def asinh(s: Any, x: Expr) -> Expr:
    w = s.abs(_wide(s, x))
    y = _log(s, w + s.sqrt(s.fma(w, w, 1.0)))
    return s.cast(s.where(x < 0.0, -s.cast(y, x.dtype), s.cast(y, x.dtype)), x.dtype)


def acosh(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(_log(s, w + s.sqrt((w - 1.0) * (w + 1.0))), x.dtype)


def atanh(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    return s.cast(0.5 * _log(s, (1.0 + w) / (1.0 - w)), x.dtype)


def erf(s: Any, x: Expr) -> Expr:
    w = _wide(s, x)
    w = s.where(w < -6.0, -6.0, s.where(s.const(6.0, w) < w, 6.0, w))
    q, term, total = w * w, s.const(1.0, w), s.const(1.0, w)
    for k in range(1, 90):
        term = term * q * (2.0 / (2 * k + 1))
        total = total + term
    return s.cast(w * total * _exp(s, -q) * (2 / math.sqrt(math.pi)), x.dtype)


def pow(s: Any, x: Expr, y: Expr) -> Expr:
    a, b = _wide(s, x), _wide(s, y)
    magnitude = _exp(s, b * _log(s, s.abs(a)))
    whole = s.eq(s.floor(b), b)
    odd = s.ne(s.floor(b * 0.5), b * 0.5)
    signed = s.where(whole, s.where(odd, -magnitude, magnitude), math.nan)
    result = s.where(a < 0.0, signed, magnitude)
    return s.cast(s.where(s.eq(b, 0.0), s.const(1.0, a), result), x.dtype)


