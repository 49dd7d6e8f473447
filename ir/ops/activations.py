"""Activations: pointwise ops of neural networks, of floats unless said otherwise."""

from __future__ import annotations

import math

from .pointwise import S, X, float_dtype, with_attrs
from .registry import Quant, pointwise


def _sigmoid(s: S, x: X) -> X:
    return 1.0 / (1.0 + s.exp(-x))


def _log1p(s: S, x: X) -> X:
    """log(1 + x) with the rounding of 1 + x taken back out, so that small x keep their digits."""
    u = 1.0 + x
    exact = s.eq(u, 1.0)
    return s.where(exact, x, s.log(u) * (x / s.where(exact, 1.0, u - 1.0)))


def _softplus(s: S, x: X) -> X:
    return s.max(x, 0.0) + _log1p(s, s.exp(-s.abs(x)))


@pointwise(dtypes="fi", quant=Quant.EXACT)
def relu(s: S, x: X) -> X:
    """max(x, 0)."""
    return s.max(x, 0)


@pointwise(dtype=float_dtype)
def sigmoid(s: S, x: X) -> X:
    """1 / (1 + exp(-x))."""
    return _sigmoid(s, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 0.01}, {"alpha": -0.5}))
def leaky_relu(s: S, x: X, *, alpha: float) -> X:
    """x where x >= 0, else alpha * x."""
    return s.where(x < 0, x * alpha, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": 2.0}))
def elu(s: S, x: X, *, alpha: float) -> X:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return s.where(x < 0, (s.exp(s.min(x, 0.0)) - 1.0) * alpha, x)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.67326, "gamma": 1.0507}))
def selu(s: S, x: X, *, alpha: float, gamma: float) -> X:
    """gamma * (x where x > 0, else alpha * (exp(x) - 1))."""
    return s.where(x > 0, x, (s.exp(s.min(x, 0.0)) - 1.0) * alpha) * gamma


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": 0.5}))
def celu(s: S, x: X, *, alpha: float) -> X:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return s.max(x, 0.0) + s.min((s.exp(s.min(x / alpha, 0.0)) - 1.0) * alpha, 0.0)


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 0.2, "beta": 0.5}))
def hard_sigmoid(s: S, x: X, *, alpha: float, beta: float) -> X:
    """alpha * x + beta, limited to 0..1."""
    return s.max(s.min(x * alpha + beta, 1.0), 0.0)


@pointwise(dtype=float_dtype)
def hard_swish(s: S, x: X) -> X:
    """x * (x / 6 + 1/2 limited to 0..1)."""
    return x * s.max(s.min(x * (1 / 6) + 0.5, 1.0), 0.0)


@pointwise(dtype=float_dtype)
def silu(s: S, x: X) -> X:
    """x * sigmoid(x)."""
    return x * _sigmoid(s, x)


@pointwise(dtype=float_dtype, samples=with_attrs({}, {"approximate": "tanh"}))
def gelu(s: S, x: X, *, approximate: str = "none") -> X:
    """x times the normal distribution function of x, exact or by the tanh formula."""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + s.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)))
    return s.gelu(x)


@pointwise(dtype=float_dtype)
def softplus(s: S, x: X) -> X:
    """log(1 + exp(x))."""
    return _softplus(s, x)


@pointwise(dtype=float_dtype)
def softsign(s: S, x: X) -> X:
    """x / (1 + |x|)."""
    return x / (s.abs(x) + 1.0)


@pointwise(dtype=float_dtype)
def mish(s: S, x: X) -> X:
    """x * tanh(softplus(x))."""
    return x * s.tanh(_softplus(s, x))


@pointwise(dtype=float_dtype, samples=with_attrs({"alpha": 1.0}, {"alpha": -0.5}))
def thresholded_relu(s: S, x: X, *, alpha: float) -> X:
    """x where x > alpha, else 0."""
    return s.where(x > alpha, x, 0.0)


@pointwise(dtypes="fi")
def prelu(s: S, x: X, slope: X) -> X:
    """x where x >= 0, else slope * x."""
    return s.where(x < 0, x * slope, x)
