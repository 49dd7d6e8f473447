"""Stores past the caches: where they are taken, and that they change no bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.cpu.kernel import emit_kernel
from octavo.backends.lower import map as map_template
from octavo.backends.lower import row as row_template
from octavo.backends.lower import stream
from octavo.backends.lower.lower import lower
from octavo.backends.runtime.executable import aligned
from octavo.backends.target import find_target, runnable
from octavo.ir.graph import Graph, input_value
from octavo.ir.loops import Const, Expr, If, LoopFunction, Stmt, to_text
from octavo.ir.text import parse
from octavo.ir.types import dtype_of
from octavo.passes.fuse import fuse
from octavo.tests.backends.native import execute
from octavo.tests.backends.templates import Template, templates

LEVELS = [t.name for t in runnable() if not t.name.endswith("vnni")]
BODIES = {
    "flat": "graph g(%x: f32[n,m]) -> (%y) {\n %y = relu(%x)\n}",
    "rows": "graph g(%x: f32[n,m], %b: f32[m]) -> (%y) {\n %y = add(%x, %b)\n}",
    "softmax": "graph g(%x: f32[n,m]) -> (%y) {\n %y = softmax(%x, axis=1)\n}",
}


def lowered(text: str, level: str = "native") -> LoopFunction:
    (kernel,) = (n for n in fuse(parse(text)).nodes if n.op == "kernel")
    return lower(kernel.attrs["body"], find_target(level))


def result(function: LoopFunction, level: str, n: int, m: int, offset: int = 0) -> np.ndarray:
    """What it stores `offset` bytes after a multiple of 64; NaN where it stores nothing."""
    x, b = np.arange(n * m, dtype=np.float32).reshape(n, m), np.ones(m, np.float32)
    memory = aligned(4 * n * m + offset)
    y = memory[offset:].view(np.float32)
    y[:] = np.nan
    execute(function, [x, *[b] * (function.inputs - 1), y], {"n": n, "m": m}, find_target(level))
    return y


@pytest.fixture
def only_streaming(monkeypatch: pytest.MonkeyPatch):
    """Results of any size count as large, and nothing is stored where they may not stream."""
    monkeypatch.setattr(stream, "STREAM_BYTES", 1)

    def alone(condition: Expr, make: Callable[[bool], Sequence[Stmt]]) -> list[Stmt]:
        return list(make(False)) if isinstance(condition, Const) else [If(condition, tuple(make(True)))]

    for template in (map_template, row_template):
        monkeypatch.setattr(template, "versions", alone)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BODIES)
def test_large_results_of_whole_lines_stream(name: str, level: str, only_streaming: None):
    x = np.arange(7 * 4096, dtype=np.float32).reshape(7, 4096)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    expected = {"flat": x, "rows": x + 1, "softmax": e / e.sum(axis=1, keepdims=True)}[name]
    np.testing.assert_allclose(result(lowered(BODIES[name], level), level, 7, 4096), expected.ravel(), rtol=1e-5, atol=1e-30)


def test_a_flat_result_streams_up_to_its_last_vector(only_streaming: None):
    assert np.array_equal(result(lowered(BODIES["flat"]), "native", 3, 1001), np.arange(3003))


@pytest.mark.parametrize(
    ("name", "m", "offset"), [("flat", 1024, 4), ("rows", 1023, 0), ("rows", 1024, 8), ("softmax", 1023, 0), ("softmax", 1024, 4)]
)
def test_vectors_that_lie_anywhere_do_not_stream(name: str, m: int, offset: int, only_streaming: None):
    assert np.isnan(result(lowered(BODIES[name]), "native", 3, m, offset)).all()


def test_small_results_do_not_stream(only_streaming: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "STREAM_BYTES", 4 * 3 * 1024 + 1)
    assert np.isnan(result(lowered(BODIES["flat"]), "native", 3, 1024)).all()


def test_what_streams_asks_for_its_operands_ahead():
    """A row for the next one; only operands of the result's shape are walked through as it is."""
    text = to_text(lowered(BODIES["softmax"]))
    assert re.search(r"prefetch x0\[.* \+ m\)\]", text)
    assert "prefetch x0" in to_text(lowered(BODIES["rows"]))
    assert "prefetch x1" not in to_text(lowered(BODIES["rows"]))


def test_sizes_that_are_known_and_small_have_one_version():
    assert "nontemporal" in emit_kernel(lowered(BODIES["softmax"]), "k")
    assert "nontemporal" not in emit_kernel(lowered(BODIES["softmax"].replace("[n,m]", "[64,1024]")), "k")


def test_streams_end_before_the_range_that_wrote_them_does():
    text = emit_kernel(lowered(BODIES["flat"]), "k")
    assert text.index("nontemporal") < text.index("fence seq_cst") < text.index("ret void")
    assert "fence" not in emit_kernel(lowered(BODIES["flat"].replace("[n,m]", "[64,1024]")), "k")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["f32", "f16", "f64", "i8", "bool"])
def test_streaming_changes_no_bit(dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", "")
    x = input_value("x", octavo.spec("f32", ("n", 1024)))
    to = dtype_of(dtype)
    rows = ops.softmax(x, axis=1)
    results = [
        ops.cast(ops.relu(x), to=to),
        rows,
        ops.concat(ops.cast(rows, to=to), ops.cast(x, to=to), axis=1),
    ]
    graph = Graph("g", (x,), tuple(results))
    array = np.random.default_rng(1).standard_normal((301, 1024)).astype(np.float32)
    ordinary = octavo.compile(graph, threads=threads)(array)
    monkeypatch.setattr(stream, "STREAM_BYTES", 1)
    for a, b in zip(ordinary, octavo.compile(graph, threads=threads)(array), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "template", [t for t in templates() if t.name.startswith(("map", "softmax", "layer_norm", "reduce"))], ids=lambda t: t.name
)
def test_every_template_gives_the_same_when_it_streams(template: Template, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", "")
    arrays = template.arrays(3)
    ordinary = octavo.compile(template.graph(), threads=1).executable.run(arrays)
    monkeypatch.setattr(stream, "STREAM_BYTES", 1)
    for a, b in zip(ordinary, octavo.compile(template.graph(), threads=1).executable.run(arrays), strict=True):
        assert a.tobytes() == b.tobytes()
