"""No kernel touches a byte outside its buffers: inputs, outputs, constants and workspace lie against unreadable pages.

All cases run in a child process, which a byte outside would kill.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.lower import stream
from octavo.backends.target import runnable
from octavo.compiler.model import Model
from octavo.ir.dims import symbol
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import OPS, Sample, apply, apply_node
from octavo.ir.text import parse
from octavo.ir.types import TensorType, dtype_of
from octavo.tests.backends.guarded import SIDES, Guard, run_guarded
from octavo.tests.backends.templates import templates
from octavo.tests.fuzz.isolate import Crash, each

ALL_LEVELS = [t.name for t in runnable()]
LEVELS = [name for name in ALL_LEVELS if not name.endswith(("vnni", "amx"))]  # which differs in contractions of bytes only
TEMPLATES = {t.name: t for t in templates()}
DTYPES = ("f32", "f16", "f64", "bf16", "i8", "u8", "i32", "i64", "bool")
LENGTHS = (0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 65)
OPERATIONS = sorted(name for name, op in OPS.items() if op.samples and op.kind not in ("leaf", "kernel"))


def compare(model: Model, arrays: Sequence[np.ndarray]) -> str:
    """What a run under guard does differently from one in ordinary memory, or ""."""
    expected = model.executable.run(arrays)
    for side in SIDES:
        for actual, e in zip(run_guarded(model.executable, arrays, side), expected, strict=True):
            if actual.tobytes() != e.tobytes():
                return f"other results with buffers at the {side} of their pages"
    return ""


def survives(work: Callable[[Any], str], names: Sequence[Any]) -> None:
    """`work` on every name finds nothing and lives."""
    failed = [done for done in each(work, names) if done.result]
    assert not failed, "\n".join(f"{f.item}: {f.result.reason if isinstance(f.result, Crash) else f.result}" for f in failed)


def test_a_byte_outside_kills_the_process():
    def touch(at: int) -> str:
        guard = Guard("end" if at > 0 else "start")
        ctypes.c_uint8.from_address(guard.aligned(64).ctypes.data + at).value = 1
        return "survived"

    results = {done.item: done.result for done in each(touch, [0, 63, 64, -1])}
    assert results[0] == results[63] == "survived"
    assert "SIGSEGV" in results[64].reason
    assert "SIGSEGV" in results[-1].reason


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_templates(level: str):
    def run(name: str) -> str:
        model = octavo.compile(TEMPLATES[name].graph(), target=level, threads=1)
        return compare(model, TEMPLATES[name].arrays(1)) or compare(model, TEMPLATES[name].arrays(3))

    survives(run, [name for name, t in TEMPLATES.items() if level in LEVELS or t.dtype in ("u8", "i8")])


@pytest.mark.skipif("x86-64-v3" not in LEVELS, reason="this processor has no AVX2")
def test_a_condition_on_the_first_lanes_of_a_vector_reads_no_others():
    def run(rows: int) -> str:
        x = input_value("x", octavo.spec("f32", (2, rows, 5)))
        near = apply("window", x, axes=(1,), kernel=(3,), strides=(1,), dilations=(1,), low=(1,), high=(1,), fill=0.0)
        graph = Graph("window", (x,), (ops.reduce_sum(near, axes=(3,), keepdims=False),))
        return compare(octavo.compile(graph, target="x86-64-v3"), [np.ones((2, rows, 5), np.float32)])

    survives(run, [3, 7])


@pytest.mark.parametrize("level", LEVELS)
def test_odd_lengths_of_every_dtype(level: str):
    def run(dtype: str) -> str:
        model = octavo.compile(odd_lengths(dtype), target=level, threads=1)
        rng = np.random.default_rng(3)
        for n in LENGTHS:
            arrays = [rng.integers(0, 2, (n, *s.shape[1:])).astype(s.np) for s in model.inputs]
            if problem := compare(model, arrays):
                return f"{n}: {problem}"
        return ""

    survives(run, list(DTYPES))


def test_stores_past_the_caches(monkeypatch: pytest.MonkeyPatch):
    """Buffers that start at a page stream, those that end at one mostly lie at no multiple of a vector."""
    monkeypatch.setattr(stream, "STREAM_BYTES", 1)
    monkeypatch.setenv("OCTAVO_CACHE", "")

    def run(level: str) -> str:
        x = input_value("x", octavo.spec("f32", ("n", "m")))
        results = [ops.relu(x), ops.softmax(x, axis=1), ops.cast(x, to=dtype_of("i8")), ops.concat(ops.neg(x), x, axis=1)]
        model = octavo.compile(Graph("streams", (x,), tuple(results)), target=level, threads=1)
        shapes = [(1, 4096), (3, 4096), (5, 64), (3, 1001), (1, 1)]
        return next(filter(None, (compare(model, [np.ones(shape, np.float32)]) for shape in shapes)), "")

    survives(run, LEVELS)


def odd_lengths(dtype: str) -> Graph:
    """Vectors of every kind of kernel that takes the dtype: straight, strided, backwards, masked, reduced and copied."""
    n = symbol("n")
    x = input_value("x", octavo.spec(dtype, ("n",)))
    m = input_value("m", octavo.spec(dtype, ("n", 5)))
    c = input_value("c", octavo.spec("bool", ("n",)))
    rows = ops.reshape(x, shape=(n, 1))
    results = [
        ops.where(c, x, ops.cast(c, to=dtype_of(dtype))),
        *(ops.cast(x, to=dtype_of(to)) for to in ("f32", "f16", "i8", "bool", "i64")),
        ops.eq(m, rows),
        ops.transpose(m, perm=(1, 0)),
        ops.concat(m, rows, m, axis=1),
        ops.concat(x, x, axis=0),
        ops.slice(x, starts=(n - 1,), stops=(-1,), steps=(-1,)),
        ops.slice(m, starts=(0, 1), stops=(n, 5), steps=(1, 2)),
        ops.pad(x, low=(3,), high=(1,), mode="constant", value=1.0),
        ops.gather(x, ops.cast(m, to=dtype_of("i64")), axis=0) if dtype == "u8" else ops.tile(x, repeats=(3,)),
    ]
    if dtype == "bool":
        results += [ops.reduce_and(m, axes=(1,), keepdims=False), ops.reduce_or(m, axes=(0,), keepdims=False)]
    else:
        results += [ops.reduce_sum(m, axes=axes, keepdims=False) for axes in ((0,), (1,), (0, 1))]
        results += [ops.max(x, x), ops.cumsum(x, axis=0, exclusive=False, reverse=False)]
    return Graph("odd_lengths", (x, m, c), tuple(results))


def test_memory_suffices_where_fewer_found_means_more_elements():
    """What follows the elements that are not 0: the arena has room for the most that there can be."""
    graph = parse(
        """graph g(%x: f32[n]) -> (%z, %b) {
          %p = nonzero(%x)
          %b = bind_size(%p, %p#1, axis=1, symbol="found")
          %e = exp(%x)
          %s = slice(%e, starts=[found], stops=[n], steps=[1])
          %t = sort(%s, axis=0)
          %z = add(%t, %t)
        }"""
    )

    def run(found: int) -> str:
        return compare(octavo.compile(graph, threads=1), [np.repeat(np.float32([1, 0]), [found, 5000 - found])])

    survives(run, [0, 1, 4999, 5000])


def test_looking_up_what_is_not_there():
    """Indices of every size read what is nearest, and write nothing where they lie outside."""
    x, i = input_value("x", octavo.spec("f32", ("n", 5))), input_value("i", octavo.spec("i64", ("m", 5)))
    u, w = input_value("u", octavo.spec("f32", ("m", 5))), input_value("w", octavo.spec("f32", (5, 8)))
    column, pairs = i[:, 0], i[:, :2]
    results = [
        ops.gather(x, column, axis=0),
        ops.gather_elements(x, i, axis=0),
        ops.gather_nd(x, pairs),
        ops.gather(x, column, axis=0) @ w,
        ops.scatter_elements(x, i, u, axis=0, reduction="add"),
        ops.scatter_nd(x, pairs, u[:, 0]),
        ops.one_hot(column, w[0, :2], depth=7, axis=1),
    ]
    graph = Graph("lookup", (x, i, u, w), tuple(results))
    far = np.array([0, 1, -1, 6, 7, -7, -8, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)])

    def run(level: str) -> str:
        rng = np.random.default_rng(7)
        for rows in (7, 1):
            arrays = [
                rng.standard_normal((rows, 5)),
                rng.choice(far, (37, 5)),
                rng.standard_normal((37, 5)),
                rng.standard_normal((5, 8)),
            ]
            arrays = [a if a.dtype == np.int64 else a.astype(np.float32) for a in arrays]
            model = octavo.compile(graph, target=level, threads=1)
            if problem := compare(model, arrays):
                return problem
            expected = evaluate(graph, dict(zip(graph.input_names, arrays, strict=True)))
            for k, (actual, e) in enumerate(zip(model.executable.run(arrays), expected, strict=True)):
                if not np.allclose(actual, e, atol=1e-5):
                    return f"result {k} is not the reference's"
        return ""

    survives(run, LEVELS)


@pytest.mark.parametrize("side", range(2))
def test_every_op(side: int):
    """On its conformance samples; the ops are shared out among the processor levels."""

    def run(name: str) -> str:
        make = OPS[name].samples
        samples: list[Sample] = list(make(np.random.default_rng(5)))[:2] if make else []
        inputs, outputs, arrays = [], [], []
        for k, sample in enumerate(samples):
            operands = [input_value(f"s{k}_{j}", TensorType(dtype_of(a.dtype), a.shape)) for j, a in enumerate(sample.inputs)]
            attrs = {**sample.attrs, "symbol": f"kept{k}"} if "symbol" in sample.attrs else sample.attrs
            inputs += operands
            outputs += apply_node(name, operands, attrs).outputs
            arrays += sample.inputs
        level = LEVELS[OPERATIONS.index(name) % len(LEVELS)]
        return compare(octavo.compile(Graph(name, tuple(inputs), tuple(outputs)), target=level, threads=1), arrays)

    survives(run, OPERATIONS[side::2])


@pytest.mark.parametrize("level", LEVELS)
def test_one_narrow_element_that_is_left_over(level: str):
    def run(name: str) -> str:
        x = input_value("x", octavo.spec("f32", ("n", 8, 17)))
        stored = apply("quantize", x, x, const_value(np.zeros(17, dtype_of(name).np), "", dtype_of(name)), to=dtype_of(name))
        model = octavo.compile(Graph("narrow", (x,), (stored,)), target=level, threads=1)
        return next(filter(None, (compare(model, [np.ones((n, 8, 17), np.float32)]) for n in (1, 3, 7, 15))), "")

    survives(run, ["i8", "u8", "f8e4m3", "f8e5m2"])
