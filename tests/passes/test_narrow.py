"""Weights of small integers stay small, and what they were scaled by moves behind the product."""

import numpy as np
import octavo
import pytest
from octavo.ir.dims import parse_dim
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import TensorType, f16, f32
from octavo.passes.narrow import keep_narrow
from octavo.passes.pipeline import optimize

K, N = 320, 256  # 80 KiB as i8
RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(-127, 128, (K, N)).astype(np.int8)
SCALES = RNG.uniform(0.01, 0.02, N).astype(np.float32)


def product(weights: Value) -> Graph:
    x = input_value("x", TensorType(f32, (parse_dim("rows"), K)))
    return Graph("g", (x,), (apply("matmul", x, weights),))


def cast_and_scaled(weights: np.ndarray = WEIGHTS, scales: np.ndarray = SCALES[None]) -> Value:
    return apply("mul", apply("cast", const_value(weights), to=f32), const_value(scales))


def dequantized(zero: int) -> Value:
    return apply("dequantize", const_value(WEIGHTS), const_value(SCALES[None]), const_value(np.int8(zero)))


def operations(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op not in ("input", "const")]


@pytest.mark.parametrize("weights", [cast_and_scaled(), cast_and_scaled(scales=np.float32(0.5)), dequantized(0)])
def test_the_scale_moves_behind_the_product(weights: Value):
    graph = optimize(product(weights))
    assert operations(graph) == ["cast", "matmul", "mul"]
    (w,) = (n for n in graph.nodes if n.op == "cast")
    assert w.inputs[0].array.dtype == np.int8


@pytest.mark.parametrize(
    "weights",
    [
        cast_and_scaled(scales=RNG.uniform(1, 2, (K, 1)).astype(np.float32)),  # one value for each row
        cast_and_scaled(WEIGHTS[:, :8], SCALES[None, :8]),  # small
        cast_and_scaled(WEIGHTS.astype(np.int32)),  # not narrow
        dequantized(3),
    ],
    ids=["scaled by row", "small", "wide", "zero point"],
)
def test_other_weights_are_folded(weights: Value):
    graph = product(weights)
    assert keep_narrow(graph) is graph
    assert operations(optimize(graph)) == ["matmul"]


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 100])
def test_the_product_is_what_it_was(rows: int):
    x = RNG.standard_normal((rows, K)).astype(np.float32)
    expected = x.astype(np.float64) @ (WEIGHTS * SCALES.astype(np.float64))
    result = octavo.compile(product(cast_and_scaled()))(x)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_deep_product_is_widened_in_chunks():
    deep = RNG.integers(-127, 128, (4096, 40)).astype(np.int8)
    x = RNG.standard_normal((33, 4096)).astype(np.float32)
    a = input_value("x", TensorType(f32, (parse_dim("rows"), 4096)))
    model = octavo.compile(Graph("g", (a,), (apply("matmul", a, apply("cast", const_value(deep), to=f32)),)))
    expected = x.astype(np.float64) @ deep
    assert np.abs(model(x) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.array_equal(model(x[:5]), model(x)[:5])


def test_narrow_matrices_of_any_width_are_multiplied():
    a = input_value("a", TensorType(f16, (5, 6)))
    b = input_value("b", TensorType(f16, (6, parse_dim("columns"))))
    model = octavo.compile(Graph("g", (a, b), (apply("matmul", a, b),)))
    x, y = RNG.standard_normal((5, 6)).astype(np.float16), RNG.standard_normal((6, 41)).astype(np.float16)
    assert np.abs(model(x, y) - x.astype(np.float32) @ y).max() < 0.02
