"""Winograd's minimal filtering (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016): 3x3 kernels as their
values at points, where a convolution is a product for each position.

F(m): m x m results of a 3x3 convolution from (m + 2)^2 products for each pair of channels instead of 9 m^2.  A line of m results is
a product of polynomials known at 0, at pairs of points a, -a, and at infinity; `PAIRS` has the pairs, which are all that F(m) is:

    kernel     U = G g G^T      computed in f64 and rounded once
    patch      V = B^T d B      d: m + 2 squared
    result     Y = A^T M A      M[position] = sum over channels of V[position] * U[position]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..types import TensorType
from .registry import Quant, Sample, Types, index

# These points lose least: the largest error of F(4) is some two times that of the sum itself (1 and 2 lose ten times as much), and
# the numbers in its transforms are exact.
PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}


def points(m: int) -> list[float]:
    """The finite points of F(m), m + 1 of them; infinity follows."""
    return [0.0, *(p for a in PAIRS[m] for p in (a, -a))]


def _derivative(m: int, point: float) -> float:
    """That of the product of (x - p) over all finite points, at one of them."""
    return float(np.prod([point - p for p in points(m) if p != point]))


def winograd_kernels(w: np.ndarray, m: int) -> np.ndarray:
    """U of kernels [o, c, 3, 3], as [(m + 2)^2, c, o] in w's dtype."""
    finite = [np.array([1.0, p, p * p]) / _derivative(m, p) for p in points(m)]
    g = np.array([*finite, [0.0, 0.0, 1.0]])
    with np.errstate(all="ignore"):
        u = np.einsum("pj,ocjk,qk->pqco", g, w.astype(np.float64), g, optimize=True)
        return np.ascontiguousarray(u.reshape(-1, *u.shape[2:])).astype(w.dtype)


def _infer(types: Types, *, tile: int) -> Types:
    (u,) = types
    if tile not in PAIRS or u.rank != 3 or u.shape[0] != (tile + 2) ** 2:
        raise ShapeError(f"needs kernels at the points of F({tile}), [{(tile + 2) ** 2}, channels, channels], got {u}")
    return (u.with_shape((u.shape[2], u.shape[1], 3, 3)),)


def _samples(rng: np.random.Generator) -> Iterable[Sample]:
    for tile in PAIRS:
        for dtype in (np.float32, np.float64):
            w = rng.uniform(-1, 1, (5, 3, 3, 3)).astype(dtype)
            yield Sample((winograd_kernels(w, tile),), {"tile": tile})


@index(infer=_infer, samples=_samples, quant=Quant.FLOAT)
def unpack_winograd(s: Any, i: Any, u: Any, *, types: Types, out: TensorType, tile: int) -> Any:
    """Kernels [o, c, 3, 3] of which U [(tile + 2)^2, c, o] is known: tap 0 from U at point 0, tap 2 at infinity, tap 1 at a and -a."""
    o, c, *taps = i
    a = PAIRS[tile][0]
    half = _derivative(tile, a) / (2 * a)
    positions = ((0, 1, tile + 1), (0, 2, 0))  # tap k is the sum over both rows of factors[k] * U[positions[k]]
    factors = ((_derivative(tile, 0.0), half, 1.0), (0.0, -half, 0.0))

    def by_tap(k: Any, values: tuple[float, ...], like: Any) -> Any:
        first, middle, last = (s.const(v, like) for v in values)
        return s.where(s.eq(k, 0), first, s.where(s.eq(k, 1), middle, last))

    result: Any = None
    for p, along in zip(positions, factors, strict=True):
        for q, across in zip(positions, factors, strict=True):
            x = u[(by_tap(taps[0], p, o) * (tile + 2) + by_tap(taps[1], q, o), c, o)]
            part = by_tap(taps[0], along, x) * by_tap(taps[1], across, x) * x
            result = part if result is None else result + part
    return result
