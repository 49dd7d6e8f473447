"""Weights of small integers stay small: what scales columns moves behind the product, what scales blocks comes in one form."""

import numpy as np
import octavo
import pytest
from octavo.ir.dims import parse_dim
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import TensorType, dtype_of, f16, f32
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


def dequantized_blocks(dtype: object, block: int, zero: bool = False, columns_first: bool = False) -> Value:
    """Weights with a scale for each block of rows, as they are or as another layout has them."""
    of = dtype_of(dtype)
    q = RNG.integers(of.min, of.max + 1, (K // block, block, N)).astype(np.int16).astype(of.np)
    s = RNG.uniform(0.01, 0.02, (K // block, 1, N)).astype(np.float32)
    z = RNG.integers(0, 5, s.shape).astype(np.int16).astype(of.np) if zero else np.zeros((), of.np)
    if not columns_first:
        return apply("reshape", apply("dequantize", const_value(q), const_value(s), const_value(z)), shape=(K, N))
    q, s, z = (np.ascontiguousarray(np.moveaxis(a, -1, 0)) if a.ndim else a for a in (q, s, z))
    narrow = apply("reshape", apply("dequantize", const_value(q), const_value(s), const_value(z)), shape=(N, K))
    return apply("transpose", narrow, perm=(1, 0))


def operations(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op not in ("input", "const")]


@pytest.mark.parametrize(
    "weights",
    [cast_and_scaled(), cast_and_scaled(scales=np.float32(0.5)), dequantized(0), dequantized_blocks(np.int8, K, columns_first=True)],
)
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
        dequantized_blocks(np.int8, block=5),  # of no whole words
    ],
    ids=["scaled by row", "small", "wide", "short blocks"],
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


@pytest.mark.parametrize(("dtype", "zero"), [("i4", False), ("u4", True), ("i8", False), ("u8", True)])
@pytest.mark.parametrize("columns_first", [False, True])
def test_blocks_come_in_one_form(dtype: str, zero: bool, columns_first: bool):
    w = dequantized_blocks(dtype, 32, zero, columns_first)
    graph = optimize(product(w))
    assert operations(graph) == ["dequantize", "reshape", "matmul"]
    (narrow,) = (n for n in graph.nodes if n.op == "dequantize")
    assert [str(v.type) for v in narrow.inputs] == [f"{dtype}[10,32,{N}]", f"f32[10,1,{N}]", f"{dtype}[{f'10,1,{N}' if zero else ''}]"]
    (expected,), (got,) = evaluate(Graph("w", (), (w,)), {}), evaluate(Graph("w", (), narrow.outputs), {})
    np.testing.assert_array_equal(got.reshape(K, N), expected)
    assert keep_narrow(graph) is graph


@pytest.mark.parametrize(
    ("weights", "block"), [(dequantized(3), 80), (dequantized_blocks("i4", K), 80), (dequantized_blocks("u4", 160, True), 80)]
)
def test_scales_of_long_blocks_are_repeated(weights: Value, block: int):
    (narrow,) = (n for n in optimize(product(weights)).nodes if n.op == "dequantize")
    assert narrow.inputs[0].shape == (K // block, block, N)


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
