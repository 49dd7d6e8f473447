"""3x3 kernels as their values at Winograd's points."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.ir.errors import ShapeError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, input_value
from octavo.ir.ops.winograd import PAIRS, winograd_kernels


def unpacked(u: np.ndarray, tile: int) -> np.ndarray:
    x = input_value("x", octavo.spec("f32" if u.dtype == np.float32 else "f64", u.shape))
    return evaluate(Graph("g", (x,), (ops.unpack_winograd(x, tile=tile),)), {"x": u})[0]


@pytest.mark.parametrize("tile", PAIRS)
def test_kernels_follow_from_their_values_at_the_points(tile: int):
    w = np.random.default_rng(0).uniform(-1, 1, (7, 5, 3, 3))
    np.testing.assert_allclose(unpacked(winograd_kernels(w, tile), tile), w, rtol=0, atol=1e-15)
    narrow = w.astype(np.float32)
    np.testing.assert_allclose(unpacked(winograd_kernels(narrow, tile), tile), narrow, rtol=0, atol=2e-7)


@pytest.mark.parametrize("tile", PAIRS)
def test_values_are_computed_exactly_and_rounded_once(tile: int):
    w = np.random.default_rng(0).uniform(-1, 1, (4, 3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(winograd_kernels(w, tile), winograd_kernels(w.astype(np.float64), tile).astype(np.float32))


@pytest.mark.parametrize(("shape", "tile"), [((16, 5, 7), 4), ((36, 5), 4), ((64, 5, 7), 6)])
def test_other_operands_are_refused(shape: tuple[int, ...], tile: int):
    with pytest.raises(ShapeError, match=rf"needs kernels at the points of F\({tile}\), \[{(tile + 2) ** 2}, channels, channels\]"):
        ops.unpack_winograd(input_value("x", octavo.spec("f32", shape)), tile=tile)
