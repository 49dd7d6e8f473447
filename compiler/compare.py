"""How far two results are apart: one number that every report, gate and test uses."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-3
HALF_TOLERANCE = 2e-2  # f16 and bf16 keep 11 and 8 bits; sums of rounded terms drift by a few last places


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest error over the largest value expected; infinity where shape or dtype differ, or only one is NaN or infinite.

    >>> relative_error(np.float32([1, 2.1]), np.float32([1, 2]))
    0.04999995231628418
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if actual.size == 0:
        return 0.0
    if actual.dtype.kind in "OSU":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    wide = np.complex128 if actual.dtype.kind == "c" else np.float64
    a, e = actual.astype(wide), expected.astype(wide)
    finite = np.isfinite(e)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], e[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(e[finite]).max())
    error = float(np.abs(a[finite] - e[finite]).max())
    return error / largest if largest else (0.0 if error == 0 else float("inf"))


def default_tolerance(dtype: np.dtype) -> float:
    """The relative error that a correct program may show in a value of this dtype."""
    return HALF_TOLERANCE if dtype.name in ("float16", "bfloat16") else TOLERANCE
