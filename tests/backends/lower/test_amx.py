"""Contractions of bytes in matrix registers: what is computed by them, and the bytes that come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.cpu.kernel import emit_kernel
from octavo.backends.lower.contraction import contraction_of
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.lower.matrices import TILES
from octavo.backends.lower.schedule import Schedule, candidates, signature, with_schedule
from octavo.backends.runtime.native import load_native
from octavo.backends.target import find_target, optimized
from octavo.benchmarks.zoo import build, feeds
from octavo.compiler import driver
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.loops import to_text
from octavo.ir.types import f32, i8, u8
from octavo.passes.fuse import fuse
from octavo.tests.backends.amx import LEVEL, Emulator
from octavo.tests.backends.test_guard_pages import compare, survives

from .test_dots import bytes_of

TARGET = find_target(LEVEL)


def assembly(graph: Graph, level: str = LEVEL) -> str:
    """Of all kernels."""
    target = find_target(level)
    bodies = [n.attrs["body"] for n in fuse(legalize(graph, target)).nodes if n.op == "kernel"]
    texts = []
    for body in bodies:
        module, machine = optimized(f'target triple = "{target.triple}"\n{emit_kernel(lower(body, target), "k", target)}', target)
        texts.append(machine.emit_assembly(module))
    return "\n".join(texts)


def matmul(a: Sequence[Any], b: tuple[int, ...], dtype: str = "u8") -> Graph:
    x = input_value("x", octavo.spec(dtype, tuple(a)))
    return Graph("g", (x,), (ops.matmul(x, const_value(bytes_of("i8", b, 2))),))


def conv(x: Sequence[Any], w: tuple[int, ...], dtype: str = "u8", **attrs: Any) -> Graph:
    square = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "layout": "channels_last"}
    value = input_value("x", octavo.spec(dtype, tuple(x)))
    return Graph("g", (value,), (ops.conv(value, const_value(bytes_of("i8", w, 3)), **square | attrs),))


def requantized(graph: Graph, seed: int = 5) -> Graph:
    """With the epilogue of a quantized layer: an offset by column, a scale, and bytes again."""
    (y,) = graph.outputs
    rng = np.random.default_rng(seed)
    offset = const_value(rng.integers(-(1 << 16), 1 << 16, y.shape[-1]).astype(np.int32))
    scaled = ops.cast(y + offset, to=f32) * const_value(rng.uniform(1e-4, 1e-3, y.shape[-1]).astype(np.float32))
    zero = const_value(np.array(7, np.uint8))
    return Graph("g", graph.inputs, (ops.quantize(scaled, const_value(np.array(0.5, np.float32)), zero, to=u8),))


CASES: dict[str, Graph] = {
    "whole": matmul((64, 128), (128, 64)),
    "tails": matmul((37, 96), (96, 83)),
    "few_words": matmul((33, 68 * 4), (68 * 4, 33)),
    "padded": matmul((45, 131), (131, 67)),
    "signed": matmul((40, 64), (64, 48), "i8"),
    "batches": matmul((3, 17, 64), (64, 40)),
    "matrices_of_weights": matmul((2, 35, 64), (2, 64, 40)),
    "any_rows": matmul(("n", 64), (64, 70)),
    "to_bytes": requantized(matmul((50, 96), (96, 70))),
    "to_bytes_any_rows": requantized(matmul(("n", 96), (96, 96))),
    "pointwise": conv((1, 7, 9, 64), (70, 64, 1, 1), pads=((0, 0), (0, 0))),
    "conv": conv((1, 9, 11, 32), (40, 32, 3, 3)),
    "strided": requantized(conv((2, 9, 11, 16), (40, 16, 3, 3), strides=(2, 2))),
    "dilated": conv((1, 11, 12, 64), (33, 64, 3, 3), dilations=(2, 3), pads=((2, 2), (3, 3))),
    "any_batch": requantized(conv(("n", 8, 9, 24), (36, 24, 3, 3))),
    "grouped": conv((1, 8, 9, 96), (96, 48, 3, 3), groups=2),
    "first_layer": conv((1, 35, 37, 3), (32, 3, 7, 7), strides=(2, 2), pads=((3, 3), (3, 3))),
}


def feed(graph: Graph) -> np.ndarray:
    (x,) = graph.inputs
    return bytes_of(x.dtype.name, tuple(d if isinstance(d, int) else 3 if x.type.rank > 2 else 51 for d in x.shape), 1)


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_of_vectors(name: str, amx: Emulator | None):
    graph, before = CASES[name], amx.products if amx else 0
    x = feed(graph)
    model = octavo.compile(graph, target=LEVEL, threads=1)
    expected = octavo.compile(graph, target="x86-64-v4-vnni", threads=1)(x)
    np.testing.assert_array_equal(model(x), expected)
    assert amx is None or amx.products > before


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4-vnni", LEVEL])
def test_only_the_level_has_its_instructions(level: str):
    text = "".join(assembly(CASES[name], level) for name in ("to_bytes", "strided"))
    assert ("tdpbusd" in text) == (level == LEVEL)
    assert text.count("tilerelease") == (2 if level == LEVEL else 0)


OTHERS = {
    "few_rows": matmul((3, 64), (64, 64)),
    "no_step": matmul((64, 4), (4, 64)),
    "one_channel_a_group": conv((1, 9, 9, 32), (32, 1, 3, 3), groups=32),
    "more_than_a_cache": matmul((64, 1 << 16), (1 << 16, 32)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_are_of_vectors(name: str):
    assert "tdpbusd" not in assembly(OTHERS[name])


def test_threads_have_tiles_of_their_own(amx: Emulator | None):
    """Each gives them back, or the fixture finds out."""
    graph = requantized(matmul((300, 96), (96, 96)))
    x = feed(graph)
    one, two = (octavo.compile(graph, target=LEVEL, threads=n)(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["padded", "to_bytes_any_rows", "pointwise", "strided", "first_layer"])
def test_no_byte_outside_is_touched(name: str, amx: Emulator | None):
    survives(lambda name: compare(octavo.compile(CASES[name], target=LEVEL, threads=1), [feed(CASES[name])]), [name])


@pytest.mark.parametrize("schedule", [Schedule(*tile) for tile in TILES] + [Schedule(12, 2)], ids=str)
def test_every_schedule_gives_the_same_bytes(schedule: Schedule, amx: Emulator | None, monkeypatch: pytest.MonkeyPatch):
    graph = requantized(matmul((77, 160), (160, 100)))
    (product,) = (n for n in graph.nodes if n.op == "matmul")
    assert schedule in candidates(product, TARGET)
    x, before = feed(graph), amx.products if amx else 0
    expected = octavo.compile(graph, target="x86-64-v4-vnni", threads=1)(x)
    monkeypatch.setattr(driver, "schedules", lambda target: {signature(product, i8): schedule})
    built = driver.from_optimized(graph, graph, [TARGET], lambda *_: None)
    np.testing.assert_array_equal(load_native(built.native, threads=1).run([x])[0], expected)
    assert amx is None or (amx.products > before) == (schedule.rows > 12)


@pytest.mark.parametrize("name", ["to_bytes", "strided"])
def test_tuning_can_choose_vectors_instead(name: str):
    """And the reverse: what `compiler/tune.py` measures beside the first guess."""
    kernels = [n.attrs["body"] for n in fuse(legalize(CASES[name], TARGET)).nodes if n.op == "kernel"]
    (body,) = (b for b in kernels if b.name == "contract")
    for start in (body, with_schedule(body, Schedule(12, 2), TARGET)):
        found = {
            s: "matrices" in to_text(lower(with_schedule(start, s, TARGET), TARGET)) for s in candidates(contraction_of(body), TARGET)
        }
        assert {(s.rows, s.vectors) for s, matrices in found.items() if matrices} == set(TILES)


def test_a_quantized_network(amx: Emulator | None):
    network = build("mobilenet_v2", small=True)
    given = feeds("mobilenet_v2", 2, small=True)
    quantized = octavo.quantize(network, octavo.calibrate(network, [given]))
    vectors = octavo.compile(quantized, target="x86-64-v4-vnni", threads=1).run(None, given)
    for threads in (1, 2):
        before = amx.products if amx else 0
        results = octavo.compile(quantized, target=LEVEL, threads=threads).run(None, given)
        assert amx is None or amx.products - before > 50
        for actual, expected in zip(results, vectors, strict=True):
            np.testing.assert_array_equal(actual, expected)
