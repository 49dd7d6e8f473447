"""`relative_error`: one number for how far two results are apart."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.compiler.compare import default_tolerance, relative_error

INF = float("inf")
f32 = np.float32


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        (f32([1, 2]), f32([1, 2]), 0.0),
        (f32([1, 3]), f32([1, 4]), 0.25),
        (f32([0, 0]), f32([0, 0]), 0.0),
        (f32([0, 1e-9]), f32([0, 0]), INF),
        (f32([np.nan, 1]), f32([np.nan, 1]), 0.0),
        (f32([np.nan, 1]), f32([1, 1]), INF),
        (f32([np.inf, 1]), f32([-np.inf, 1]), INF),
        (f32([np.inf, 1]), f32([np.inf, 2]), 0.5),
        (f32([1]), f32([[1]]), INF),
        (np.float64([1]), f32([1]), INF),
        (np.array([True, False]), np.array([True, True]), 1.0),
        (np.uint8([0, 200]), np.uint8([1, 200]), 1 / 200),
        (f32([]), f32([]), 0.0),
        (np.array(["a"], object), np.array(["b"], object), INF),
        (np.complex64([1j]), np.complex64([2j]), 0.5),
    ],
)
def test_relative_error(actual: np.ndarray, expected: np.ndarray, error: float) -> None:
    assert relative_error(actual, expected) == pytest.approx(error, rel=1e-6)


def test_half_precision_is_allowed_more() -> None:
    assert default_tolerance(np.dtype("float16")) > default_tolerance(np.dtype("float32"))
