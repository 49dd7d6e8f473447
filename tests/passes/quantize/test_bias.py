"""What bias correction takes off."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type
from octavo.passes.quantize.bias import expected_shift
from octavo.passes.quantize.quantize import quantize
from octavo.passes.quantize.weights import Quantized, quantized_weights

from .networks import Builder

RNG = np.random.default_rng(0)
MEANS = RNG.standard_normal(4)
CONV = {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)}


def difference(op: str, x: np.ndarray, w: np.ndarray, q: Quantized, channel: int, **attrs: object) -> np.ndarray:
    """Of a contraction with quantized weights from the same with its own."""
    scales = q.scales.reshape([-1 if k == channel else 1 for k in range(w.ndim)])
    y, exact = (apply(op, const_value(x), const_value(a), **attrs) for a in (q.integers * scales, w.astype(np.float64)))
    return evaluate(Graph("g", (), (y,)), {})[0] - evaluate(Graph("g", (), (exact,)), {})[0]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_of_constant_channels_is_shifted_by_just_that(groups: int) -> None:
    w = RNG.standard_normal((8, 4 // groups, 3, 3)).astype(np.float32)
    q = quantized_weights(w, 0)
    x = np.broadcast_to(MEANS.reshape(1, 4, 1, 1), (1, 4, 3, 3))
    node = apply("conv", input_value("x", parse_type("f32[n,4,3,3]")), const_value(w), **CONV, groups=groups).node
    found = difference("conv", x.copy(), w, q, 0, **CONV, groups=groups)
    np.testing.assert_allclose(expected_shift(node, w, q, MEANS), found.reshape(-1), rtol=1e-9, atol=1e-12)


def test_a_product_with_the_mean_is_shifted_by_just_that() -> None:
    w = RNG.standard_normal((4, 3)).astype(np.float32)
    q = quantized_weights(w, 1)
    node = apply("matmul", input_value("x", parse_type("f32[n,4]")), const_value(w)).node
    np.testing.assert_allclose(expected_shift(node, w, q, MEANS), difference("matmul", MEANS[None], w, q, 1)[0], rtol=1e-9, atol=1e-12)


def test_a_stack_of_matrices_is_left_alone() -> None:
    w = RNG.standard_normal((2, 4, 3)).astype(np.float32)
    node = apply("matmul", input_value("x", parse_type("f32[2,n,4]")), const_value(w)).node
    assert expected_shift(node, w, quantized_weights(w, 2), MEANS) == 0


def test_means_of_results_stay_those_of_floats() -> None:
    """Of a layer after a relu, whose operand has a mean."""
    x = input_value("x", parse_type("f32[n,64]"))
    graph = Graph("g", (x,), (Builder().linear(apply("relu", x), 16),))
    feed = {"x": RNG.uniform(-0.5, 4, (256, 64)).astype(np.float32)}
    profile = octavo.calibrate(graph, [feed])
    exact = evaluate(graph, feed)[0].mean(axis=0)
    off = {
        correct: np.abs(evaluate(quantize(graph, profile, correct_bias=correct), feed)[0].mean(axis=0) - exact).max()
        for correct in (True, False)
    }
    assert off[True] < off[False] / 4
