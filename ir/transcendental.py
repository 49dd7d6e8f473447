"""exp, log, sin and their kin as plain arithmetic over the scalar namespace `s`, so that every target computes the same values.

A function is f(s, x), x of dtype f32 or f64 (pow: f(s, x, y)); callers widen narrower floats.  There are no branches, tables in
memory or library calls: an expression becomes vector code wherever + - * / fma sqrt, comparisons and integer shifts do.

exp log tanh erf gelu of f32 stay in f32.  The others are rarer in networks or need more digits inside: their f32 forms compute in
f64, with polynomials only as long as f32 needs.  Results are within 2 ulp for f32 and 4 ulp for f64 everywhere, except sin, cos
and tan of |x| >= 2**48: f64 arithmetic does not know the phase there, and says so with NaN; and gelu, whose error
for f32 is 3 ulp for x >= 0 and 2**-24 below 0, and for f64 4 ulp and 2**-51.

How a table of coefficients was found stands beside it: `minimax` is Remez exchange (f64) or linear programming on a dense grid,
rounding one coefficient after another and refitting the rest (f32), always for the relative error of the whole function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .loops import Const, Expr
from .types import DType, f32, f64, i32, i64


@dataclass(frozen=True)
class _Format:
    """The bits of a float dtype, and the limits past which a result no longer changes."""

    bits: DType
    mantissa: int
    bias: int
    sqrt_half: int
    exp_range: tuple[float, float]
    tanh_limit: float
    erf_limit: float

    @property
    def rounder(self) -> float:
        """rounder + v has rint(v) + bias in its low bits, an exponent field ready to shift, for |v| < 2**(mantissa - 1)."""
        return 1.5 * 2.0**self.mantissa + self.bias


_FORMATS = {
    f32: _Format(i32, 23, 127, 0x3F3504F3, (-104.0, 89.0), 9.02, 3.925),
    f64: _Format(i64, 52, 1023, 0x3FE6A09E667F3BCD, (-746.0, 711.0), 20.0, 5.95),
}

_LN2 = math.log(2.0)

# ln 2 in three parts for 2 n ln2 and n ln2: the leading part times n is exact
_TWO_LN2 = {f32: (1.3862942457199097, 1.1539998095086571e-07), f64: (1.3862943611198906, 4.638093627692599e-17)}
_LN2_SHORT, _LN2_REST = 0.6931471805592082, 7.371002565167799e-13

# pi and pi/2 in parts of 53 bits, each truncated, so that the next is positive and -0 stays -0
_PI = (3.141592653589793, 1.224646799147353e-16, 2.1657133478438278e-32)
_HALF_PI = (1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32)

# (exp(r) - 1 - r) / r**2 on |r| <= ln 2: minimax, 2**-26.0 and 2**-56.5
_EXP = {
    f32: (
        0.5000003576278687, 0.1666661649942398, 0.04166121035814285, 0.008335999213159084, 0.0014105279697105289,
        0.00019623598200269043,
    ),
    f64: (
        0.4999999999999993, 0.1666666666666694, 0.04166666666670236, 0.008333333333269419, 0.0013888888883543703,
        0.00019841269893100974, 2.4801590846822608e-05, 2.755730056384171e-06, 2.755615430194982e-07, 2.5055042566137957e-08,
        2.106263261498488e-09, 1.5935391377243235e-10,
    ),
}  # fmt: skip

# (1 - exp(-r) - r) / r**2 on |r| <= ln(2) / 2: minimax, 2**-26.1 and 2**-55.6
_ONE_MINUS_EXP = {
    f32: (-0.4999999701976776, 0.1666654497385025, -0.04166746512055397, 0.008366423659026623, -0.0013868316309526563),
    f64: (
        -0.5000000000000006, 0.16666666666666588, -0.04166666666657611, 0.008333333333389958, -0.0013888888931794976,
        0.00019841269718343321, -2.480150497889183e-05, 2.7557407863728623e-06, -2.7626161423038676e-07,
        2.5053776900605586e-08,
    ),
}  # fmt: skip

# the same for (1 - exp(-2 r)) / 2, exactly: powers of two
_HALF_ONE_MINUS_EXP2 = {t: tuple(c * 2.0 ** (k + 1) for k, c in enumerate(table)) for t, table in _ONE_MINUS_EXP.items()}

# -log(erfc(a)) / a - 1 on 0 <= a <= erf_limit: minimax, 2**-27.8 and 2**-53.7 of erf
_ERF = {
    f32: (
        0.12837916612625122, 0.6366195678710938, 0.10277630388736725, -0.019147826358675957, -0.00016948448319453746,
        0.00167563883587718, -0.0006373308715410531, 0.0001188482710858807, -9.386002602695953e-06,
    ),
    f64: (
        0.1283791670955125, 0.6366197723676116, 0.10277260330005893, -0.01912844696304515, -0.0002091952304695061,
        0.0016962105307723003, -0.0005901468155314138, 2.5955211647168302e-05, 6.429000512378305e-05, -2.932353326683385e-05,
        2.7958589367904693e-06, 3.5646892195354043e-06, -2.4297997774881344e-06, 8.537152406427866e-07, -1.740924315995176e-07,
        8.369890207212917e-09, 7.78322733780412e-09, -3.1533945146633685e-09, 6.811581920045536e-10, -9.54922749082763e-11,
        8.722084474974027e-12, -4.755491891304172e-13, 1.1801773706674713e-14,
    ),
}  # fmt: skip

# log2(erfc(a / sqrt(2))) / a for f32: minimax of the error of erfc on 0 <= a <= 5.6, 2**-24.9 and more where erfc is small; further on
# it falls faster than what it stands for, and a times it to -126 at the limit, where half of erfc is subnormal
_TAIL_LIMIT = 11.345
_TAIL = (
    -1.151106357574463, -0.45920002460479736, -0.05250696465373039, 0.007044162135571241, -7.815169374225661e-05,
    -0.0002431137691019103, 6.625059904763475e-05, -9.29442194319563e-06, 7.106596626726969e-07, -2.337000282182089e-08,
)  # fmt: skip

# 2**f on |f| <= 1/2 for f32: minimax with 1 first, 2**-23.3
_EXP2 = (1.0, 0.6931470036506653, 0.24022246897220612, 0.055507123470306396, 0.009671313688158989, 0.0013269007904455066)

# (log(1 + f) - f) / f**2 on sqrt(1/2) <= 1 + f <= sqrt(2): minimax, 2**-27.8, 2**-59.3
_LOG = {
    f32: (
        -0.49999988079071045, 0.33333325386047363, -0.25001609325408936, 0.20002004504203796, -0.1660841405391693,
        0.1418086737394333, -0.13248039782047272, 0.12912733852863312, -0.07618805021047592,
    ),
    f64: (
        -0.5, 0.3333333333333349, -0.24999999999998038, 0.19999999999935406, -0.1666666666701288, 0.14285714294953733,
        -0.12499999976979956, 0.11111110456795222, -0.10000000507130762, 0.09090935319473581, -0.08333344737045484,
        0.07691681399557099, -0.07141983650831565, 0.06675500029358979, -0.06270263603695694, 0.058158210980905005,
        -0.05322678523215986, 0.054197106013362834, -0.06288671401604852, 0.05702198160366641, -0.024231640046785706,
    ),
}  # fmt: skip

# the same where f64 arithmetic ends in an f32 result (pow multiplies the error by up to 89): minimax, 2**-35.7
_LOG_FOR_F32 = (
    -0.5000000002177379, 0.3333333405157843, -0.24999994779070253, 0.1999989720860321, -0.16666929384368467,
    0.14290605527275066, -0.12497403489454588, 0.11009105373727633, -0.09926901346922626, 0.10017974531490767,
    -0.09875753549489394, 0.05358637798196796,
)  # fmt: skip

# (2 atanh(v) - 2 v - 2/3 v**3) / v**5 over v**2, |v| <= (sqrt(2) - 1) / (sqrt(2) + 1): minimax, 2**-73 of the logarithm
_ATANH = (
    0.3999999999999998, 0.2857142857144522, 0.22222222217510604, 0.18181818873491462, 0.15384556653975506, 0.13336325780720104,
    0.11674648509302268, 0.11990431183273852,
)  # fmt: skip

# (sin(r) / r - 1) / r**2 over r**2, |r| <= pi/2: minimax, 2**-27.2 and 2**-61.6
_SIN = {
    f32: (-0.16666659712791443, 0.008333069272339344, -0.00019809768127743155, 2.6060538402816746e-06),
    f64: (
        -0.16666666666666666, 0.008333333333333193, -0.00019841269841208475, 2.7557319211006345e-06, -2.5052106860514908e-08,
        1.6058939073999276e-10, -7.642974691768008e-13, 2.720994541943452e-15,
    ),
}  # fmt: skip

# (cos(r) - 1 + r**2 / 2) / r**4 over r**2, |r| <= pi/4: minimax, 2**-33.0 and 2**-63.9
_COS = {
    f32: (0.04166664555447607, -0.0013887309866904862, 2.443241301153324e-05),
    f64: (
        0.041666666666666595, -0.0013888888888872895, 2.4801587288748207e-05, -2.755731414862885e-07, 2.087569657322312e-09,
        -1.135831051879154e-11,
    ),
}  # fmt: skip

# (atan(u) / u - 1) / u**2 over u**2, 0 <= u <= 1: minimax, 2**-28.5 and 2**-55.0
_ATAN = {
    f32: (
        -0.33333299089188284, 0.1999854828366796, -0.1426424166453662, 0.10952185676142599, -0.08403450025189413,
        0.05795758841848318, -0.031177840897367436, 0.010914603225613275, -0.0017936211800573182,
    ),
    f64: (
        -0.3333333333333186, 0.19999999999755017, -0.1428571427133473, 0.11111110678747495, -0.0909090123537412,
        0.07692212930347059, -0.06665860361820432, 0.05877307765040706, -0.052392329805373616, 0.04673949553699763,
        -0.04092638106916492, 0.03406780895731011, -0.02582679424537066, 0.01697803347109537, -0.009184557595019394,
        0.0038559741324256996, -0.0011640715052033074, 0.00022302234716699683, -2.0258547706969566e-05,
    ),
}  # fmt: skip

# (sinh(a) / a - 1) / a**2 over a**2, 0 <= a <= 1: minimax, 2**-34.2 and 2**-63.3
_SINH = {
    f32: (0.16666666497560492, 0.008333350058233777, 0.00019836159765423752, 2.816951295685267e-06),
    f64: (
        0.16666666666666669, 0.008333333333333148, 0.00019841269841431873, 2.755731915707147e-06, 2.505212313677986e-08,
        1.6057259764853146e-10, 7.758748903578922e-13,
    ),
}  # fmt: skip


# --- building blocks ----------------------------------------------------------------------------------------------------------


def _polynomial(s: Any, x: Expr, coefficients: Sequence[float]) -> Expr:
    """c[0] + c[1] x + c[2] x**2 + ... by Horner's rule."""
    p = s.const(coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        p = s.fma(p, x, c)
    return p


def _halves(s: Any, x: Expr, coefficients: Sequence[float]) -> Expr:
    """The same, its even and odd powers apart: one operation more, but chains half as long, where a loop waits for those."""
    square = x * x
    return s.fma(_polynomial(s, square, coefficients[1::2]), x, _polynomial(s, square, coefficients[::2]))


def _power_of_two(s: Any, rounded: Expr) -> Expr:
    """2**n from `rounder + n`: the low bits are n + bias, and the shift drops all others."""
    form = _FORMATS[rounded.dtype]
    return s.bitcast(s.bitcast(rounded, form.bits) << form.mantissa, rounded.dtype)


def _with_sign_of(s: Any, magnitude: Expr, x: Expr) -> Expr:
    """magnitude (>= 0, or of the same sign) with the sign of x, -0 included."""
    bits = _FORMATS[x.dtype].bits
    return s.bitcast(s.bitcast(magnitude, bits) | (s.bitcast(x, bits) & bits.min), x.dtype)


def _at_most(s: Any, x: Expr, limit: float) -> Expr:
    return s.where(x > limit, limit, x)  # x last: NaN passes, and it is one instruction


def _exp_parts(s: Any, x: Expr, coefficients: Sequence[float], low: Expr | None = None) -> tuple[Expr, Expr]:
    """(p, q) with exp(x + low) = p q q, p in about [1/2, 2]: neither factor overflows where the product does not.

    x = 2 n ln2 + r and q = 2**n; r spans twice the usual range, which costs one coefficient and saves splitting the scale.
    """
    form = _FORMATS[x.dtype]
    least, most = form.exp_range
    x = _at_most(s, s.where(x < least, least, x), most)
    rounded = s.fma(x, 0.5 / _LN2, form.rounder)
    n = rounded - form.rounder
    high, rest = _TWO_LN2[x.dtype]
    r = s.fma(n, -rest, s.fma(n, -high, x))
    if low is not None:
        r = r + low
    p = s.fma(s.fma(_polynomial(s, r, coefficients), r, 1.0), r, 1.0)
    return p, _power_of_two(s, rounded)


def _exp(s: Any, x: Expr, coefficients: Sequence[float], low: Expr | None = None) -> Expr:
    p, q = _exp_parts(s, x, coefficients, low)
    return p * q * q


def _exponent_and_mantissa(s: Any, x: Expr) -> tuple[Expr, Expr]:
    """(n, m) with x = 2**n m and sqrt(1/2) <= m < sqrt(2), for finite x > 0."""
    form = _FORMATS[x.dtype]
    denormal = x < 2.0 ** (1 - form.bias)
    bits = s.bitcast(s.where(denormal, x * 2.0**form.mantissa, x), form.bits)
    n = (bits - form.sqrt_half) >> form.mantissa
    m = s.bitcast(bits - (n << form.mantissa), x.dtype)
    return s.cast(n, x.dtype) - s.where(denormal, s.const(form.mantissa, x), 0.0), m


def _log_at_limits(s: Any, x: Expr, y: Expr) -> Expr:
    """y = log(x) where 0 < x < inf, and what log gives elsewhere."""
    return s.where(x < math.inf, s.where(x > 0.0, y, s.where(s.eq(x, 0.0), s.const(-math.inf, x), math.nan)), x)


def _log(s: Any, x: Expr, coefficients: Sequence[float], low: Expr | None = None) -> Expr:
    """log(x) + low."""
    n, m = _exponent_and_mantissa(s, x)
    f = m - 1.0
    tail = f * f * _polynomial(s, f, coefficients)
    if low is not None:
        tail = tail + low
    return _log_at_limits(s, x, s.fma(n, _LN2, f + tail))


def _widened(s: Any, x: Expr) -> tuple[Expr, Sequence[float]]:
    """x as f64, and the coefficients of log that its own dtype needs."""
    return s.cast(x, f64), _LOG_FOR_F32 if x.dtype is f32 else _LOG[f64]


def _log1p(s: Any, z: Expr, coefficients: Sequence[float]) -> Expr:
    """log(1 + z) for f64 z >= 0: what 1 + z rounds away is added as the derivative says."""
    u = z + 1.0
    return _log(s, u, coefficients, low=(z - (u - 1.0)) / u)


# --- exp and log --------------------------------------------------------------------------------------------------------------


def exp(s: Any, x: Expr) -> Expr:
    return _exp(s, x, _EXP[x.dtype])


def log(s: Any, x: Expr) -> Expr:
    return _log(s, x, _LOG[x.dtype])


def pow(s: Any, x: Expr, y: Expr) -> Expr:
    """x**y as C99 defines it: exp(y log|x|) with the sign and the NaN that x < 0 calls for; 1 wherever x = 1 or y = 0."""
    if isinstance(y, Const) and y.value in (1, 2, 3):
        return (x, x * x, x * x * x)[int(y.value) - 1]
    a, b = s.cast(x, f64), s.cast(y, f64)
    size = s.abs(a)
    one = s.eq(size, 1.0) | s.eq(b, 0.0)
    if x.dtype is f32:
        magnitude = _exp(s, s.where(one, 0.0, b * _log(s, size, _LOG_FOR_F32)), _EXP[f32])
    else:
        high, low = _log_in_two(s, size)
        high = _log_at_limits(s, size, high)
        z = s.where(one, 0.0, b * high)
        rest = s.fma(b, low, s.fma(b, high, -z))
        magnitude = _exp(s, z, _EXP[f64], low=s.where(one | (s.abs(z) >= 1000.0), 0.0, rest))
    half = b * 0.5
    whole = s.eq(s.rint(b), b)
    odd = whole & s.ne(s.rint(half), half)
    signed = s.where(odd, _with_sign_of(s, magnitude, a), magnitude)
    undefined = (a < 0.0) & (a > -math.inf) & ~whole
    return s.cast(s.where(undefined, math.nan, signed), x.dtype)


def _log_in_two(s: Any, x: Expr) -> tuple[Expr, Expr]:
    """log(x) as a sum of two f64, to about 2**-64, for finite x > 0.

    log m = 2 v + 2/3 v**3 + v**5 R(v**2) with v = (m - 1) / (m + 1); the first two terms carry a low part.
    """
    n, m = _exponent_and_mantissa(s, x)
    f, d = m - 1.0, m + 1.0
    v = f / d
    v_low = (s.fma(-v, d, f) - v * (m - (d - 1.0))) / d
    w = v * v
    w_low = s.fma(v + v, v_low, s.fma(v, v, -w))
    cube = v * w
    cube_low = s.fma(v, w_low, s.fma(v_low, w, s.fma(v, w, -cube)))
    third = cube * (2 / 3)
    third_low = s.fma(cube_low, 2 / 3, s.fma(cube, 2 / 3, -third) + cube * (2 / 3 * 2.0**-54))
    whole = n * _LN2_SHORT
    first = whole + (v + v)
    first_low = (v + v) - (first - whole)
    second = first + third
    second_low = third - (second - first)
    tail = s.fma(n, _LN2_REST, cube * w * _polynomial(s, w, _ATANH) + third_low + (v_low + v_low)) + second_low + first_low
    high = second + tail
    return high, tail - (high - second)


# --- trigonometric functions --------------------------------------------------------------------------------------------------


def _reduced(s: Any, x: Expr, period: tuple[float, float, float], shift: float, precise: bool) -> tuple[Expr, Expr]:
    """(r, k): f64 x = (k + shift) period + r with |r| <= period / 2; k is in the low bits of the second, an i64."""
    form = _FORMATS[f64]
    scaled = s.fma(x, 1 / period[0], -shift) + form.rounder if shift else s.fma(x, 1 / period[0], form.rounder)
    n = scaled - form.rounder
    if shift:
        n = n + shift
    r = s.fma(n, -period[1], s.fma(n, -period[0], x))
    return s.fma(n, -period[2], r) if precise else r, s.bitcast(scaled, i64)


def _known_phase(s: Any, x: Expr, y: Expr) -> Expr:
    return s.where(s.abs(x) < 2.0**48, y, math.nan)


def _sin_polynomial(s: Any, r: Expr, coefficients: Sequence[float]) -> Expr:
    w = r * r
    return r * s.fma(_polynomial(s, w, coefficients), w, 1.0)


def _sine(s: Any, x: Expr, shift: float) -> Expr:
    """sin(x) for shift 0 and -sin(x - pi/2) for shift 1/2: one polynomial, whose sign is the parity of k."""
    r, k = _reduced(s, s.cast(x, f64), _PI, shift, x.dtype is f64)
    # the rounder is odd (its bias is), so bit 0 is set for even k
    flip = k if shift else ~k
    r = s.bitcast(s.bitcast(r, i64) ^ (flip << 63), f64)
    return _known_phase(s, x, s.cast(_sin_polynomial(s, r, _SIN[x.dtype]), x.dtype))


def sin(s: Any, x: Expr) -> Expr:
    return _sine(s, x, 0.0)


def cos(s: Any, x: Expr) -> Expr:
    return _sine(s, x, 0.5)


def tan(s: Any, x: Expr) -> Expr:
    r, k = _reduced(s, s.cast(x, f64), _HALF_PI, 0.0, x.dtype is f64)
    w = r * r
    sine = _sin_polynomial(s, r, _SIN[x.dtype])
    cosine = s.fma(s.fma(_polynomial(s, w, _COS[x.dtype]), w, -0.5), w, 1.0)
    odd = s.eq(k & 1, 0)
    return _known_phase(s, x, s.cast(s.where(odd, -cosine, sine) / s.where(odd, sine, cosine), x.dtype))


def _atan(s: Any, x: Expr, coefficients: Sequence[float]) -> Expr:
    """atan of f64 x: past 1 it is pi/2 - atan(1/|x|)."""
    a = s.abs(x)
    steep = a > 1.0
    u = s.where(steep, 1.0 / a, a)
    w = u * u
    y = s.fma(u * w, _polynomial(s, w, coefficients), u)
    return _with_sign_of(s, s.where(steep, (_HALF_PI[0] - y) + _HALF_PI[1], y), x)


def atan(s: Any, x: Expr) -> Expr:
    return s.cast(_atan(s, s.cast(x, f64), _ATAN[x.dtype]), x.dtype)


def asin(s: Any, x: Expr) -> Expr:
    w = s.cast(x, f64)
    return s.cast(_atan(s, w / s.sqrt((1.0 - w) * (1.0 + w)), _ATAN[x.dtype]), x.dtype)


def acos(s: Any, x: Expr) -> Expr:
    w = s.cast(x, f64)
    half = _atan(s, s.sqrt((1.0 - w) / (1.0 + w)), _ATAN[x.dtype])
    return s.cast(half + half, x.dtype)


# --- hyperbolic functions and erf ---------------------------------------------------------------------------------------------


def tanh(s: Any, x: Expr) -> Expr:
    """h / (1 - h) with 2 h = 1 - exp(-2|x|), without cancellation; h and 1 - h are rounded apart, else their errors add up."""
    form = _FORMATS[x.dtype]
    a = _at_most(s, s.abs(x), form.tanh_limit)
    rounded = s.fma(a, -2.0 / _LN2, form.rounder)
    r = s.fma(rounded - form.rounder, _LN2 / 2, a)
    q = _power_of_two(s, rounded)
    g = s.fma(r * r, _polynomial(s, r, _HALF_ONE_MINUS_EXP2[x.dtype]), r)
    h = s.fma(q, g, s.fma(q, -0.5, 0.5))
    rest = s.fma(-q, g, s.fma(q, 0.5, 0.5))
    return _with_sign_of(s, h / rest, x)


def erf(s: Any, x: Expr) -> Expr:
    """1 - exp(-z), z = |x| times a polynomial in |x|, as q (1 - exp(-r)) + (1 - q) with q = 2**n: no cancellation near 0."""
    form = _FORMATS[x.dtype]
    a = _at_most(s, s.abs(x), form.erf_limit)
    z = s.fma(a, _polynomial(s, a, _ERF[x.dtype]), a)
    rounded = s.fma(z, -1.0 / _LN2, form.rounder)
    r = s.fma(rounded - form.rounder, _LN2, z)
    q = _power_of_two(s, rounded)
    g = s.fma(r * r, _polynomial(s, r, _ONE_MINUS_EXP[x.dtype]), r)
    return _with_sign_of(s, s.fma(q, g, 1.0 - q), x)


def gelu(s: Any, x: Expr) -> Expr:
    """x times the normal distribution function of x: max(x, 0) - a P with a = |x| and P = 2**z the chance of more than a.

    Unlike 1 + erf nothing cancels: f32 keeps its digits down to about -5.5.  Further below, and in f64, the distance alone is small.
    """
    form = _FORMATS[x.dtype]
    if x.dtype is f32:
        a = _at_most(s, s.abs(x), _TAIL_LIMIT)
        slope = _halves(s, a, _TAIL)
        rounded = s.fma(a, slope, form.rounder - 1.0)  # z = a slope - 1
        f = s.fma(a, slope, form.rounder - 1.0 - rounded)
        tail = _polynomial(s, f, _EXP2) * _power_of_two(s, rounded)
    else:
        limit = form.erf_limit * math.sqrt(2.0)
        a = _at_most(s, s.abs(x), limit)
        b = a * math.sqrt(0.5)
        tail = s.where(a < limit, exp(s, -s.fma(b, _polynomial(s, b, _ERF[x.dtype]), b)) * 0.5, 0.0)
    return s.fma(-a, tail, s.where(x > 0.0, x, 0.0))


def _half_exp(s: Any, x: Expr, dtype: DType) -> tuple[Expr, Expr]:
    """|x| in f64 and exp(|x|) / 2, which overflows no earlier than cosh."""
    a = s.abs(s.cast(x, f64))
    p, q = _exp_parts(s, a, _EXP[dtype])
    return a, p * (q * 0.5) * q


def sinh(s: Any, x: Expr) -> Expr:
    a, e = _half_exp(s, x, x.dtype)
    w = a * a
    small = s.fma(a * w, _polynomial(s, w, _SINH[x.dtype]), a)
    y = s.cast(s.where(a < 1.0, small, e - 0.25 / e), x.dtype)
    return _with_sign_of(s, y, x)


def cosh(s: Any, x: Expr) -> Expr:
    _, e = _half_exp(s, x, x.dtype)
    return s.cast(e + 0.25 / e, x.dtype)


_NO_SQUARE = 2.0**28  # past it 1 is nothing beside a square, and the square may overflow: asinh and acosh are log(2 x)


def asinh(s: Any, x: Expr) -> Expr:
    w, coefficients = _widened(s, x)
    a = s.abs(w)
    square = a * a
    near = _log1p(s, a + square / (1.0 + s.sqrt(1.0 + square)), coefficients)
    y = s.where(a < _NO_SQUARE, near, _log(s, a, coefficients) + _LN2)
    return s.cast(_with_sign_of(s, y, w), x.dtype)


def acosh(s: Any, x: Expr) -> Expr:
    w, coefficients = _widened(s, x)
    t = w - 1.0
    near = _log1p(s, t + s.sqrt(s.fma(t, t, t + t)), coefficients)
    y = s.where(w < _NO_SQUARE, near, _log(s, w, coefficients) + _LN2)
    return s.cast(s.where(w < 1.0, math.nan, y), x.dtype)


def atanh(s: Any, x: Expr) -> Expr:
    w, coefficients = _widened(s, x)
    a = s.abs(w)
    y = 0.5 * _log1p(s, (a + a) / (1.0 - a), coefficients)
    return s.cast(_with_sign_of(s, y, w), x.dtype)
