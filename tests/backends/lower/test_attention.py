"""Attention in one kernel: the bits of the three kernels that it replaces, the values of the reference, and little memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.cpu.kernel import scratch_bytes
from octavo.backends.lower import attention
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower, template
from octavo.backends.target import TARGETS, find_target, runnable
from octavo.backends.work import work
from octavo.compiler import driver
from octavo.compiler.inspect import memory
from octavo.ir.dims import Dim, evaluate_dim, symbol
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.types import f32, f64
from octavo.passes.fuse import fuse
from octavo.passes.pipeline import optimize

LEVELS = [t.name for t in runnable() if not t.name.endswith(("vnni", "amx"))]  # the level below but for integers
SIZES = ((1, 1, 1, 1), (5, 7, 65, 7), (23, 17, 7, 65), (65, 130, 1, 64), (33, 300, 64, 9))  # queries, keys, features of each
TOLERANCE = {"f32": 2e-6, "f64": 1e-14, "f16": 1e-3, "bf16": 1e-2}  # of values near 1: a few units of the last place
N, M, D, E = 9, 21, 8, 5
Case = tuple[tuple[Value, ...], Value]


def given(name: str, *shape: Dim, dtype: str = "f32") -> Value:
    return input_value(name, octavo.spec(dtype, shape))


def number(x: float) -> Value:
    return const_value(np.float32(x))


def turned(x: Value) -> Value:
    rank = x.type.rank
    return ops.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def attend(q: Value, k: Value, v: Value, between: Callable[[Value], Value] = lambda scores: scores) -> Value:
    return ops.matmul(ops.softmax(between(ops.matmul(q, turned(k))), axis=q.type.rank - 1), v)


def heads(queries: int = 4, keys: int = 4, n: Dim = N, m: Dim = M, d: int = D, e: int = E, dtype: str = "f32") -> tuple[Value, ...]:
    shapes = (("q", queries, n, d), ("k", keys, m, d), ("v", keys, m, e))
    return tuple(given(name, 2, *shape, dtype=dtype) for name, *shape in shapes)


def fused(graph: Graph, target: str = "x86-64-v3", together: bool = True) -> Graph:
    return fuse(legalize(optimize(graph), find_target(target)), attention=together)


def kinds(graph: Graph) -> list[str]:
    return [template(n.attrs["body"]) for n in graph.nodes if n.op == "kernel"]


def patterns() -> Iterator[tuple[str, Case]]:
    """Attention as exporters write it."""
    q, k, v = heads()
    yield "scaled before", ((q, k, v), attend(q * 0.5, k * 0.5, v))
    yield "divided after", ((q, k, v), attend(q, k, v, lambda s: ops.div(s, number(8.0))))
    m = given("m", 2, 1, 1, M)
    yield "mask added", ((q, k, v, m), attend(q, k, v, lambda s: s * 0.25 + m))
    b = given("m", 2, 1, N, M, dtype="bool")
    yield "mask chosen", ((q, k, v, b), attend(q, k, v, lambda s: ops.where(b, s, number(-math.inf))))
    weights = ops.softmax(ops.matmul(q, turned(k)), axis=3)
    yield "rows of nothing to see", ((q, k, v), ops.matmul(ops.where(ops.is_nan(weights), number(0.0), weights), v))
    yield "epilogue", ((q, k, v), ops.relu(attend(q, k, v) + const_value(np.arange(E, dtype=np.float32))))
    scores = ops.matmul(q, turned(k))
    chosen = ops.where(ops.gt(scores, number(0.0)), ops.softmax(scores, axis=3), number(0.0))
    yield "weights beside scores", ((q, k, v), ops.matmul(chosen, v))
    yield "the op", ((q, k, v, b), ops.attention(q, k, v, b, softcap=2.0))
    yield "causal", ((q, k, v), ops.attention(q, k, v, causal=True, offset=3))
    q, k, v = heads(8, 2)
    yield "grouped heads", ((q, k, v), ops.attention(q, k, v, causal=True, offset=3))
    q, (k, v) = heads()[0], heads(1, 1)[1:]
    yield "one head of keys", ((q, k, v), attend(q, k, v))
    q, k, v = given("q", 8, N, D), given("k", 8, M, D), given("v", 8, M, E)
    m = given("m", 2, 1, N, M)

    def masked(scores: Value) -> Value:
        return ops.reshape(ops.reshape(scores, shape=(2, 4, N, M)) + m, shape=(8, N, M))

    yield "heads in the batch", ((q, k, v, m), attend(q, k, v, masked))
    q, k, v = given("q", N, D), given("k", M, D), given("v", M, E)
    yield "no batch", ((q, k, v), attend(q, k, v))

    def detour(scores: Value) -> Value:
        far = ops.cast(scores, to=f64) + const_value(np.float64(1e9))
        return ops.cast(ops.where(ops.gt(far, const_value(np.float64(0))), far - const_value(np.float64(1e9)), far), to=f32)

    yield "wider in between", ((q, k, v), attend(q, k, v, detour))


def random(v: Value, sizes: dict[str, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, v.type.rank, len(v.node.attrs["name"])))
    shape = [evaluate_dim(d, sizes) for d in v.shape]
    return rng.integers(0, 2, shape).astype(bool) if v.dtype.kind == "b" else rng.standard_normal(shape).astype(v.dtype.np)


def runs(graph: Graph, monkeypatch: pytest.MonkeyPatch, level: str, feeds: dict[str, np.ndarray], threads: int = 1) -> list[bytes]:
    """The bits of the result as one kernel and as three."""
    results = []
    for together in (True, False):
        monkeypatch.setattr(driver, "fuse", partial(fuse, attention=together))
        compiled = driver.compile_native(graph, target=level)
        assert ("attention" in kinds(compiled.fused)) is together
        model = driver.Model(driver.load_native(compiled.native, threads), lambda path: None)
        results.append(model.run(None, feeds)[0].tobytes())
    return results


def close(graph: Graph, bits: bytes, feeds: dict[str, np.ndarray], dtype: str) -> None:
    (expected,) = evaluate(graph, feeds)
    actual = np.frombuffer(bits, expected.dtype).reshape(expected.shape)
    np.testing.assert_allclose(actual.astype(float), expected.astype(float), rtol=0, atol=TOLERANCE[dtype] * 4)


@pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in patterns()])
def test_every_way_to_write_it_is_one_kernel_with_the_bits_of_three(case: Case, monkeypatch: pytest.MonkeyPatch):
    inputs, result = case
    graph = Graph("g", inputs, (result,))
    feeds = {v.node.attrs["name"]: random(v, {}) for v in inputs}
    for v in inputs:
        if v.dtype.kind == "b":
            feeds[v.node.attrs["name"]][..., 0] = True  # every query sees a key
    for level in LEVELS:
        one, three = runs(graph, monkeypatch, level, feeds)
        assert one == three
        close(graph, one, feeds, "f32")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("level", LEVELS)
def test_odd_sizes_known_or_not(level: str, dtype: str, monkeypatch: pytest.MonkeyPatch):
    for n, m, d, e in SIZES if dtype == "f32" else SIZES[1::2]:
        for sizes in ((n, m), (symbol("n"), symbol("m"))):
            inputs = heads(2, 2, *sizes, d, e, dtype)
            graph = Graph("g", inputs, (attend(*inputs, lambda s, d=d: s * (1 / math.sqrt(d))),))
            feeds = {v.node.attrs["name"]: random(v, {"n": n, "m": m}) for v in inputs}
            one, three = runs(graph, monkeypatch, level, feeds)
            assert one == three
            close(graph, one, feeds, dtype)


@pytest.mark.parametrize("empty", "hnmde")
def test_sizes_of_nothing(empty: str, monkeypatch: pytest.MonkeyPatch):
    h, n, m, d, e = map(symbol, "hnmde")
    inputs = given("q", h, n, d), given("kk", h, m, d), given("vvv", h, m, e)
    graph = Graph("g", inputs, (attend(*inputs),))
    sizes = {**dict.fromkeys("hnmde", 3), empty: 0}
    feeds = {v.node.attrs["name"]: random(v, sizes) for v in inputs}
    one, three = runs(graph, monkeypatch, "native", feeds)
    assert one == three
    close(graph, one, feeds, "f32")


def test_a_query_that_is_a_number_stays_a_product_of_its_own():
    k, v = given("k", 1, 7), given("v", 7, 5)
    graph = Graph("g", (k, v), (ops.matmul(ops.softmax(ops.matmul(const_value(np.ones((1, 1), np.float32)), k), axis=1), v),))
    feeds = {x.node.attrs["name"]: random(x, {}) for x in (k, v)}
    close(graph, driver.compile(graph)(*feeds.values()).tobytes(), feeds, "f32")


def test_a_gpu_has_no_such_kernel():
    inputs = heads()
    joined = fused(Graph("g", inputs, (attend(*inputs),)), "sm_80")
    (body,) = (b for n in joined.nodes if n.op == "kernel" and template(b := n.attrs["body"]) == "attention")
    with pytest.raises(octavo.CodegenError, match="attention has no grid"):
        lower(body, find_target("sm_80"))


@pytest.mark.parametrize("level", LEVELS)
def test_long_rows_come_in_smaller_groups_and_threads_change_no_bit(level: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "GROUP_BYTES", 1 << 14)
    for m in (700, symbol("m")):
        inputs = heads(3, 3, 61, m, 16, 40)
        graph = Graph("g", inputs, (attend(*inputs),))
        feeds = {v.node.attrs["name"]: random(v, {"m": 700}) for v in inputs}
        one, three = runs(graph, monkeypatch, level, feeds)
        two, _ = runs(graph, monkeypatch, level, feeds, threads=2)
        assert one == three == two


def test_a_query_that_sees_no_key_has_what_the_reference_has(monkeypatch: pytest.MonkeyPatch):
    inputs = heads()
    graph = Graph("g", inputs, (ops.attention(*inputs, causal=True, offset=-2),))
    feeds = {v.node.attrs["name"]: random(v, {}) for v in inputs}
    one, three = runs(graph, monkeypatch, "native", feeds)
    result = np.frombuffer(one, np.float32).reshape(2, 4, N, E)
    assert one == three
    assert np.isnan(result[:, :, :2]).all()
    assert not np.isnan(result[:, :, 2:]).any()


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_memory_grows_with_the_keys_and_not_with_all_scores(name: str):
    def needed(n: int) -> tuple[int, int]:
        inputs = heads(12, 12, symbol("n"), symbol("n"), 64, 64)
        graph = fused(Graph("g", inputs, (attend(*inputs),)), name)
        body = next(k.attrs["body"] for k in graph.nodes if k.op == "kernel" and template(k.attrs["body"]) == "attention")
        return memory(graph, {"n": n}).arena, evaluate_dim(scratch_bytes(lower(body, TARGETS[name])), {"n": n})

    arena, scratch = needed(4096)
    packed = 2 * 2 * 12 * 4096 * 64 * 4  # k and v
    assert arena == packed
    assert scratch <= attention.GROUP_BYTES + (1 << 16)
    assert needed(2048) < (arena, scratch)


def test_rows_too_long_for_a_cache_are_one_register_tile_a_group():
    inputs = heads(1, 1, 100, 1 << 20, 64, 64)
    graph = fused(Graph("g", inputs, (attend(*inputs),)))
    body = next(k.attrs["body"] for k in graph.nodes if k.op == "kernel" and template(k.attrs["body"]) == "attention")
    assert scratch_bytes(lower(body, find_target("x86-64-v3"))) < (32 << 20)


def test_its_work_is_that_of_its_parts():
    inputs = heads(4, 4)
    graph = Graph("g", inputs, (attend(*inputs),))
    whole, parts = (
        [work(n.attrs["body"], {}) for n in fused(graph, together=together).nodes if n.op == "kernel"] for together in (True, False)
    )
    scores = 2 * 4 * N * M * 4  # bytes
    assert sum(w.flops for w in whole) == sum(w.flops for w in parts)
    assert sum(w.nbytes for w in whole) == sum(w.nbytes for w in parts) - 4 * scores  # stored twice, read twice


def test_a_target_without_the_template_gets_three_kernels():
    inputs = heads()
    assert kinds(fused(Graph("g", inputs, (attend(*inputs),)), together=False))[-3:] == ["contract", "row", "contract"]
