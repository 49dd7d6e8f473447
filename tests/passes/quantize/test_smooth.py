"""SmoothQuant: large channels of normalised values move into the weights; nothing else changes."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type
from octavo.passes.pipeline import optimize
from octavo.passes.quantize.quantize import quantize
from octavo.passes.quantize.smooth import smoothing

from .networks import rows


def normalised(gain: np.ndarray, *, read_elsewhere: bool = False) -> Graph:
    """A layer norm of 16 channels and a matmul, whose weights are small where the gain is large."""
    w = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32) / gain[:, None]
    x = input_value("x", parse_type("f32[n,7,16]"))
    normal = apply("layer_norm", x, const_value(gain), const_value(np.zeros(16, np.float32)), axis=2)
    outputs = (apply("matmul", normal, const_value(w)),)
    return Graph("g", (x,), (*outputs, normal) if read_elsewhere else outputs)


GAIN = np.where(np.arange(16) == 3, 100, 1).astype(np.float32)


def error(graph: Graph, **options: float) -> float:
    """The error of the quantized graph relative to its results."""
    quantized = optimize(quantize(graph, octavo.calibrate(graph, rows(4)), **options))
    (feed,) = rows(1, seed=9)
    expected, found = evaluate(graph, feed)[0], evaluate(quantized, feed)[0]
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def test_a_large_channel_no_longer_costs_the_others_their_steps() -> None:
    graph = normalised(GAIN)
    assert error(graph, smooth=0.5) < error(graph) / 5


def test_factors_balance_the_operand_and_the_weights() -> None:
    graph = normalised(GAIN)
    (product,) = (n for n in graph.nodes if n.op == "matmul")
    ((value, factors),) = smoothing(graph, {product}, lambda v: tuple(GAIN), 0.5).items()
    assert value == product.inputs[0]
    weights = np.abs(product.inputs[1].array).max(axis=1)
    np.testing.assert_allclose(GAIN / factors, weights * factors, rtol=1e-6)


def test_a_norm_that_something_else_reads_stays() -> None:
    graph = normalised(GAIN, read_elsewhere=True)
    products = {n for n in graph.nodes if n.op == "matmul"}
    assert smoothing(graph, products, lambda v: tuple(GAIN), 0.5) == {}


def test_a_strength_is_from_0_to_1() -> None:
    with pytest.raises(QuantError, match=r"smooth is a strength from 0 to 1, not 1\.5"):
        error(normalised(GAIN), smooth=1.5)
