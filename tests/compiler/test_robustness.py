"""What models at the edge of sense compile to: deep and wide graphs, no elements, no work, numbers that have no result."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.target import TARGETS, runnable
from octavo.ir.dims import dim_min
from octavo.ir.errors import OctavoError, ShapeError, TargetError
from octavo.ir.evaluate import evaluate, run_op
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import OPS
from octavo.ir.types import dtype_of
from octavo.tests.fuzz.isolate import each

NAN, INF = np.nan, np.inf


def given(name: str, dtype: str, *shape: int | str) -> Value:
    return input_value(name, octavo.spec(dtype, shape))


def run(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    return octavo.compile(graph, threads=1).executable.run(arrays)


def agrees(graph: Graph, *arrays: np.ndarray) -> None:
    """Native code gives exactly what the reference does."""
    with np.errstate(all="ignore"):
        expected = evaluate(graph, dict(zip(graph.input_names, arrays, strict=True)))
    for actual, e in zip(run(graph, *arrays), expected, strict=True):
        np.testing.assert_array_equal(actual, e)


def test_a_chain_of_100_000_nodes_compiles():
    x = v = given("x", "f32", "n")
    for _ in range(50_000):
        v = ops.neg(ops.abs(v))
    np.testing.assert_array_equal(run(Graph("chain", (x,), (v,)), np.array([2, -3], np.float32))[0], [-2, -3])


def test_a_value_with_many_readers_and_a_node_with_many_operands():
    x, rows = given("x", "f32", 3), [given(f"row{k}", "f32", 3) for k in range(200)]
    parts = [ops.reduce_sum(x * row, axes=(0,), keepdims=True) for row in rows]
    graph = Graph("wide", (x, *rows), (ops.concat(*parts, axis=0),))
    (y,) = run(graph, np.ones(3, np.float32), *(np.full(3, k, np.float32) for k in range(200)))
    np.testing.assert_array_equal(y, 3 * np.arange(200, dtype=np.float32))


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch(n: int):
    x = given("x", "f32", "n", 5)
    w = const_value(np.ones((5, 7), np.float32))
    y = ops.softmax(ops.matmul(x, w), axis=1)
    total = ops.reduce_sum(x, axes=(0,), keepdims=False)
    agrees(Graph("empty", (x,), (total, ops.concat(x, x, axis=0))), np.ones((n, 5), np.float32))
    assert run(Graph("empty", (x,), (y,)), np.ones((n, 5), np.float32))[0].shape == (n, 7)


def test_a_sum_over_nothing_is_zero():
    a, b = given("a", "f32", "m", 0), given("b", "f32", 0, 4)
    np.testing.assert_array_equal(
        run(Graph("nothing", (a, b), (ops.matmul(a, b),)), np.ones((3, 0), np.float32), np.ones((0, 4), np.float32))[0],
        np.zeros((3, 4)),
    )


def test_scalars():
    x, y = given("x", "f32"), given("y", "f32")
    agrees(Graph("scalars", (x, y), (x * y + 1.0, ops.max(x, y))), np.float32(3) * np.ones((), np.float32), np.ones((), np.float32))


def test_outputs_that_are_inputs_constants_or_each_other():
    x, unused = given("x", "f32", "n"), given("unused", "i64", 4)
    c = const_value(np.arange(3, dtype=np.float32))
    y = ops.neg(x)
    outputs = (x, c, y, y, x, ops.reshape(y, shape=(1, x.shape[0])), c)
    agrees(Graph("same", (x, unused), outputs), np.array([1, 2], np.float32), np.zeros(4, np.int64))


@pytest.mark.parametrize("op", ["max", "min"])
def test_nan_wins_as_in_numpy(op: str):
    values = np.array([NAN, INF, -INF, 0, 1, -1] * 4, np.float32)
    x, y = given("x", "f32", 24, 1), given("y", "f32", 24)
    outputs = (ops.relu(x), getattr(ops, op)(x, y), getattr(ops, f"reduce_{op}")(y, axes=(0,), keepdims=False))
    agrees(Graph("nan", (x, y), outputs), values[:, None], values)


def test_a_pool_passes_nan_on():
    x = given("x", "f32", 1, 1, 4, 20)
    a = np.zeros((1, 1, 4, 20), np.float32)
    a[0, 0, 1, 7], a[0, 0, 3, 15] = NAN, -INF
    square = {"kernel": (2, 2), "strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)}
    agrees(Graph("pool", (x,), (ops.max_pool(x, **square),)), a)


@pytest.mark.parametrize("dtype", ["i8", "u8", "i32", "i64"])
@pytest.mark.parametrize("op", ["div", "rem", "mod", "shl", "shr"])
def test_integers_without_a_result_do_not_trap(op: str, dtype: str):
    """By zero, the least by minus one, shifts by more than there are bits: in a process of its own, which a trap would end."""
    least, most = np.iinfo(dtype_of(dtype).np).min, np.iinfo(dtype_of(dtype).np).max
    top, bottom = [7, 0, least, least, most, 100, 9], [0, 0, 0, most if least == 0 else -1, 1, 3, 120]
    if op in ("shl", "shr"):
        top, bottom = [7, 1, 1, most, 9], [64, 2, 33, 3, 120]
    x, y = given("x", dtype, "n"), given("y", dtype, "n")
    graph = Graph("integers", (x, y), (getattr(ops, op)(x, y),))
    arrays = [np.tile(np.array(a).astype(x.dtype.np), 9) for a in (top, bottom)]

    def run(level: str) -> bool:
        (actual,) = octavo.compile(graph, target=level, threads=1).executable.run(arrays)
        (expected,) = evaluate(graph, dict(zip("xy", arrays, strict=True)))
        return bool((actual == expected).all())

    levels = [t.name for t in runnable()]
    assert {done.item: done.result for done in each(run, levels)} == dict.fromkeys(levels, True)


def test_integers_by_zero_are_zero():
    x = np.array([7, -7, 0], np.int32)
    for op in ("div", "rem", "mod"):
        assert run_op(OPS[op], [x, np.zeros(3, np.int32)], {})[0].tolist() == [0, 0, 0]


def test_indices_out_of_range_are_clamped():
    x, i = given("x", "f32", 5), given("i", "i64", "n")
    agrees(
        Graph("gather", (x, i), (ops.gather(x, i, axis=0),)), np.arange(5, dtype=np.float32), np.array([-1, -99, 99, 2**62, -(2**63)])
    )


def test_sizes_beyond_memory_are_refused():
    x = given("x", "f32", "n")
    n = x.shape[0]
    y = ops.broadcast_to(ops.reshape(x, shape=(1, n)), shape=(n * n * n * n * n * n, n))
    model = octavo.compile(Graph("huge", (x,), (y,)), threads=1)
    with pytest.raises(ShapeError, match="output 'output' of model 'huge' would have shape"):
        model.executable.run([np.zeros(4000, np.float32)])


def test_a_workspace_whose_size_would_wrap_around_is_refused():
    """An array without elements may have axes of any size, whose product with themselves exceeds 64 bits."""
    x = given("x", "f32", "n", "m")
    graph = Graph("huge", (x,), (ops.sort(ops.matmul(x, ops.transpose(x, perm=(1, 0))), axis=0)[0][:1, :1],))
    model = octavo.compile(graph, threads=1)
    with pytest.raises(ShapeError, match="model 'huge' would need more workspace than can be addressed"):
        model.executable.run([np.empty((1 << 32, 0), np.float32)])


def test_a_size_with_a_limit_far_away_needs_no_more_than_the_size():
    x = given("x", "f32", "n", 2048)
    n = x.shape[0]
    y = ops.sort(ops.broadcast_to(ops.reduce_sum(x, axes=(0, 1)), shape=(dim_min(n, 1 << 40), 4096)), axis=1)[0]
    model = octavo.compile(Graph("limited", (x,), (ops.reduce_sum(y, axes=(1,)),)), threads=1)
    (result,) = model.executable.run([np.ones((2, 2048), np.float32)])
    assert np.array_equal(result, np.full(2, 4096 * 4096, np.float32))


def test_an_unknown_target():
    x = given("x", "f32", 2)
    with pytest.raises(TargetError, match=f"there is no target 'x86-64-v9'; known: native, {', '.join(TARGETS)}"):
        octavo.compile(Graph("g", (x,), (ops.neg(x),)), target="x86-64-v9")


@pytest.mark.parametrize("dims", [{"m": 3}, {"n": -1}, {"n": 2.5}, {"n": "three"}])
def test_sizes_that_cannot_be_pinned(dims: dict):
    x = given("x", "f32", "n")
    with pytest.raises(OctavoError, match=next(iter(dims))):
        octavo.compile(Graph("g", (x,), (ops.neg(x),)), dims=dims)
