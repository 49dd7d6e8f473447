"""Schedules as data: the text that names a contraction, the candidates, and kernels by another choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from octavo.backends.cpu.build import key_of
from octavo.backends.lower.contraction import contraction_of, tile_for
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.lower.schedule import Schedule, candidates, signature_of, with_schedule
from octavo.backends.program import Kernel, plan
from octavo.backends.runtime.native import load_native
from octavo.backends.target import TARGETS, find_target
from octavo.backends.tune import Tuned, remember
from octavo.compiler.driver import from_optimized
from octavo.ir.dims import symbol
from octavo.ir.errors import CodegenError, ModelError
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.loops import to_text as loops_text
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse, to_text
from octavo.ir.types import TensorType, f32
from octavo.ir.verify import verify
from octavo.passes.fuse import fuse

V4 = find_target("x86-64-v4")
N = symbol("batch")


def numbers(*shape: int) -> Value:
    return const_value(np.random.default_rng(shape).uniform(-1, 1, shape).astype(np.float32))


def graph_of(shape: tuple, op: str, w: Value, **attrs: object) -> Graph:
    """relu of a contraction of an input and a constant."""
    x = input_value("x", TensorType(f32, shape))
    return Graph("g", (x,), (apply("relu", apply(op, x, w, **attrs)),))


def conv(shape: tuple, *weights: int, strides: tuple = (1, 1), layout: str = "channels_last", **attrs: object) -> Graph:
    plain = {"strides": strides, "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "layout": layout}
    return graph_of(shape, "conv", numbers(*weights), **plain, **attrs)


GRAPHS: dict[str, Callable[[], Graph]] = {
    "f32[n,70] = matmul(f32[n,33], f32[33,70])": lambda: graph_of((N, 33), "matmul", numbers(33, 70)),
    "f32[19,64] = matmul(f32[19,5000], f32[5000,64])": lambda: graph_of((19, 5000), "matmul", numbers(5000, 64)),
    "f32[n,9,70] = matmul(f32[n,9,8], i8[8,70])": lambda: graph_of(
        (N, 9, 8), "matmul", apply("cast", const_value(np.arange(560, dtype=np.int8).reshape(8, 70)), to=f32)
    ),
    "f32[n,5,4,40] = conv(f32, f32[40,6,3,3], strides=[2,2])": lambda: conv((N, 9, 7, 6), 40, 6, 3, 3, strides=(2, 2)),
    "f32[2,9,7,40] = conv(f32, f32[40,3,3,3], groups=2)": lambda: conv((2, 9, 7, 6), 40, 3, 3, 3, groups=2),
    "f32[n,9,7,20] = conv(f32, f32[20,6,3,3])": lambda: conv((N, 6, 9, 7), 20, 6, 3, 3, layout="channels_first"),
    "f32[n,28,28,64] = conv(f32, f32[64,32,3,3], winograd=4)": lambda: conv((N, 28, 28, 32), 64, 32, 3, 3),
}


def kernel_of(graph: Graph, schedules: dict[str, Schedule] | None = None) -> Kernel:
    """The step with the contraction."""
    return next(k for k in plan(fuse(legalize(graph, V4, schedules or {}))).kernels() if k.body.name == "contract")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_TUNE", str(tmp_path / "best.json"))


@pytest.mark.parametrize("text", GRAPHS)
def test_a_text_says_what_the_schedule_depends_on(text: str):
    assert signature_of(kernel_of(GRAPHS[text]()).body) == text


def test_symbols_get_names_of_their_own():
    graph = graph_of((3 * N + symbol("t"), symbol("t"), 8), "matmul", numbers(8, 40))
    assert signature_of(kernel_of(graph).body) == "f32[3*n+n1,n1,40] = matmul(f32[3*n+n1,n1,8], f32[8,40])"


@pytest.mark.parametrize("text", GRAPHS)
def test_legalize_computes_by_the_schedule_of_that_text(text: str):
    """The kernel is the one that tuning timed, to the last byte of its code."""
    guess = kernel_of(GRAPHS[text]())
    other = candidates(contraction_of(guess.body), V4)[-1]
    chosen = kernel_of(GRAPHS[text](), {text: other})
    assert contraction_of(chosen.body).attrs["tile"] == other.tile
    assert key_of(chosen.code, V4) == key_of(with_schedule(guess.code, other, V4), V4)
    verify(chosen.body)
    assert to_text(parse(to_text(chosen.body))) == to_text(chosen.body)


@pytest.mark.parametrize("text", GRAPHS)
def test_the_first_candidate_is_what_a_kernel_without_schedule_does(text: str):
    guess = kernel_of(GRAPHS[text]())
    first = candidates(contraction_of(guess.body), V4)[0]
    named = with_schedule(guess.code, first, V4)
    assert "tile" not in contraction_of(guess.body).attrs
    assert loops_text(lower(named, V4)) == loops_text(lower(guess.code, V4))


@pytest.mark.parametrize("text", GRAPHS)
def test_a_schedule_changes_no_bit(text: str, record: None):
    graph = GRAPHS[text]()
    target = find_target("native")
    sizes = [3 if not isinstance(d, int) else d for d in graph.inputs[0].shape]
    x = np.random.default_rng(1).uniform(-1, 1, sizes).astype(np.float32)
    every = candidates(contraction_of(kernel_of(graph).body), target)
    results = []
    for schedule in every[:: len(every) // 3]:
        remember(target, {text: Tuned(schedule, 1.0, schedule, 1.0)})
        compiled = from_optimized(graph, graph, [target], lambda *step: None)
        (used,) = (contraction_of(b).attrs["tile"] for b in compiled.built[0].bodies.values() if b.name == "contract")
        assert used == schedule.tile
        results.append(load_native(compiled.native, 1).run([x])[0])
    assert len(results) >= 3
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("target", [t for t in TARGETS.values() if t.kind == "cpu"], ids=str)
def test_candidates_fit_the_registers(target):
    body = kernel_of(GRAPHS["f32[n,70] = matmul(f32[n,33], f32[33,70])"]()).body
    found = candidates(contraction_of(body), target)
    assert len(set(found)) == len(found) > 10
    assert all(s.is_sane and s.rows * s.vectors + s.vectors + 1 <= target.registers for s in found)


def test_a_tile_that_does_not_fit_the_panels_is_refused():
    node = contraction_of(kernel_of(GRAPHS["f32[n,70] = matmul(f32[n,33], f32[33,70])"]()).body)
    with pytest.raises(CodegenError, match="panels of 8 do not fit a tile of up to 4 vectors of 16"):
        tile_for(node, V4, 8)


@pytest.mark.parametrize("tile", ["[0,1]", "[1]", "[2.0,1]"])
def test_a_tile_that_is_none_is_refused(tile: str):
    with pytest.raises(ModelError, match="a tile is its rows and the vectors in a row, not"):
        parse(f"graph g(%x: f32[2,3], %w: f32[3,4]) -> (%y) {{\n%y = matmul(%x, %w, tile={tile})\n}}")
