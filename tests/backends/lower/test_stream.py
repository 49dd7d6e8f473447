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
from octavo.ir.loops import Const, Expr, For, If, LoopFunction, Stmt, Store, to_text, walk
from octavo.ir.text import parse
from octavo.ir.types import dtype_of
from octavo.passes.expand import expand
from octavo.passes.fuse import fuse
from octavo.tests.backends.native import execute
from octavo.tests.backends.templates import Template, templates

LEVELS = [t.name for t in runnable() if not t.name.endswith(("vnni", "amx"))]
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
    """Twice, for the first cache and for the second; only operands of the result's shape are walked through as it is."""
    for body in ("softmax", "rows"):
        text = to_text(lowered(BODIES[body]))
        assert re.search(r"prefetch near x0\[.* \+ 512\)\]", text)
        assert re.search(r"prefetch x0\[.* \+ 4096\)\]", text)
        assert "x1[" in text if body == "rows" else "x1[" not in text
        assert not re.search(r"prefetch (near )?x1", text)


def test_rows_that_stream_are_in_all_stages_at_once():
    """One loop over a row's length stores a row of the softmax, sums the next and finds the largest of the one after that."""
    loops = [s for s in walk(lowered(BODIES["softmax"]).body) if isinstance(s, For) and s.kind == "serial"]
    groups = [[inner for inner in loop.body if isinstance(inner, If)] for loop in loops]
    assert any(len(group) == 3 and any(isinstance(s, Store) and s.stream for s in walk(group)) for group in groups)


OVERLAPPED = {
    "softmax": "%y = softmax(%x, axis=1)",
    "log_softmax": "%y = log_softmax(%x, axis=1)",
    "a norm": "%y = layer_norm(%x, %s, axis=1, epsilon=1e-5)",
    "a reduction for two stages and for the result": """
        %m = reduce_max(%x, axes=[1], keepdims=true)
        %d = sub(%x, %m)
        %t = reduce_sum(%d, axes=[1], keepdims=true)
        %e = mul(%d, %t)
        %u = reduce_min(%e, axes=[1], keepdims=true)
        %f = add(%x, %m)
        %y = add(%f, %u)""",
}


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 67])
@pytest.mark.parametrize("name", OVERLAPPED)
def test_overlapped_rows_change_no_bit(name: str, rows: int, monkeypatch: pytest.MonkeyPatch):
    last = "%least = reduce_min(%x, axes=[1], keepdims=false)"
    body = expand(parse(f"graph g(%x: f32[n,1024], %s: f32[1024]) -> (%y, %least) {{\n{OVERLAPPED[name]}\n{last}\n}}"))
    rng = np.random.default_rng(2)
    x, s = rng.standard_normal((rows, 1024)).astype(np.float32), rng.standard_normal(1024).astype(np.float32)

    def run() -> tuple[str, bytes]:
        function = lower(body, find_target("native"))
        results = [aligned(4 * rows * 1024), aligned(4 * rows)]
        execute(function, [x, s, *results], {"n": rows})
        return to_text(function), b"".join(r.tobytes() for r in results)

    _, ordinary = run()
    monkeypatch.setattr(stream, "STREAM_BYTES", 1)
    text, overlapped = run()
    assert "for step in serial" in text
    assert overlapped == ordinary


def test_sizes_that_are_known_and_small_have_one_version():
    assert "nontemporal" in emit_kernel(lowered(BODIES["softmax"]), "k", find_target("native"))
    assert "nontemporal" not in emit_kernel(lowered(BODIES["softmax"].replace("[n,m]", "[64,1024]")), "k", find_target("native"))


def test_streams_end_before_the_range_that_wrote_them_does():
    text = emit_kernel(lowered(BODIES["flat"]), "k", find_target("native"))
    assert text.index("nontemporal") < text.index("fence seq_cst") < text.index("ret void")
    assert "fence" not in emit_kernel(lowered(BODIES["flat"].replace("[n,m]", "[64,1024]")), "k", find_target("native"))


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
