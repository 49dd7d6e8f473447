"""Object code: equal kernels are compiled once, and come back from the cache for as long as they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from octavo.backends.cpu import build as building
from octavo.backends.cpu.build import Built, key_of
from octavo.backends.runtime.native import load_native
from octavo.backends.target import find_target
from octavo.compiler.driver import Compilation, compile_native
from octavo.ir.graph import Graph
from octavo.ir.ops.registry import OPS
from octavo.ir.text import parse

TWO = "graph g(%x: f32[n,3]) -> (%s, %y) {\n%s = softmax(%x, axis=1)\n%y = softmax(%s, axis=1)\n}"
X = np.float32([[1, 2, 3]])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    return tmp_path / "objects"


def compiled(text: str, progress: Callable[[str, int, int], None] | None = None) -> Compilation:
    return compile_native(parse(text), progress=progress)


def run(c: Compilation, *arrays: np.ndarray) -> list[np.ndarray]:
    return load_native(c.native, threads=1).run(list(arrays))


def built(text: str) -> Built:
    return compiled(text).built[0]


def test_equal_kernels_are_compiled_once(cache: Path):
    b = built(TWO)
    assert len(b.calls) == 2
    assert len(b.bodies) == 1
    assert len(list(cache.iterdir())) == 1


def test_the_cache_spares_compiling_and_gives_the_same_code(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = compiled(TWO)
    monkeypatch.setattr(building, "compile_kernel", lambda *args: pytest.fail("it is compiled again"))
    second = compiled(TWO)
    assert (first.built[0].cached, second.built[0].cached) == (0, 1)
    assert second.native.variants == first.native.variants
    np.testing.assert_array_equal(run(second, X), run(first, X))


def test_the_scratch_memory_of_cached_code_is_known(cache: Path):
    text = "graph g(%x: f32[n,m]) -> (%y) {\n%y = softmax(%x, axis=1)\n}"
    assert str(built(text).scratch) == str(built(text).scratch) != "0"
    x = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32)
    np.testing.assert_allclose(run(compiled(text), x)[0].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + b"?", lambda b: b"\n" + b, lambda b: b"rubbish"]
)
def test_a_damaged_entry_is_compiled_anew(cache: Path, damage: Callable[[bytes], bytes]):
    expected = run(compiled(TWO), X)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    again = compiled(TWO)
    assert again.built[0].cached == 0
    assert entry.read_bytes() == whole
    np.testing.assert_array_equal(run(again, X), expected)


def test_an_unreadable_entry_and_a_folder_that_cannot_be_written_are_no_reason_to_fail(cache: Path, monkeypatch: pytest.MonkeyPatch):
    built(TWO)
    (entry,) = cache.iterdir()
    entry.unlink()
    entry.mkdir()  # which nothing can replace
    assert built(TWO).cached == 0
    assert list(cache.iterdir()) == [entry], "temporary files are left over"
    monkeypatch.setenv("OCTAVO_CACHE", str(cache / "file"))
    (cache / "file").write_text("")
    assert built(TWO).cached == 0


@pytest.mark.parametrize("off", ["0", ""])
def test_the_cache_can_be_turned_off(off: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", off)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert [built(TWO).cached, built(TWO).cached] == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_kernels(cache: Path):
    told: list[tuple[str, int, int]] = []
    text = "graph g(%x: f32[n,3]) -> (%s, %y) {\n%s = softmax(%x, axis=1)\n%y = exp(%s)\n}"
    compiled(text, lambda *step: told.append(step))
    assert told == [("import", 0, 1), ("optimize", 0, 1), ("compile kernels", 1, 2), ("compile kernels", 2, 2)]


# --- keys ----------------------------------------------------------------------------------------------------------------------


def body(text: str) -> Graph:
    return parse(f"graph map(%x: f32[n]) -> (%y) {{\n%y = {text}\n}}")


def test_a_key_names_the_meaning_and_the_target():
    v3, v4 = find_target("x86-64-v3"), find_target("x86-64-v4")
    key = key_of(body("neg(%x)"), v3)
    assert key == key_of(parse("graph other(%in: f32[n]) -> (result: %y) {\n%y = neg(%in) ; a.py:3\n}"), v3)
    others = [key_of(body("neg(%x)"), v4), key_of(body("exp(%x)"), v3), key_of(body("leaky_relu(%x, alpha=0.5)"), v3)]
    others.append(key_of(body("leaky_relu(%x, alpha=0.25)"), v3))
    assert len({key, *others}) == 5


def test_a_change_of_our_sources_changes_every_key(monkeypatch: pytest.MonkeyPatch):
    target = find_target("x86-64-v3")
    before = key_of(body("neg(%x)"), target)
    monkeypatch.setattr(building, "sources", lambda *floors: "changed")
    assert key_of(body("neg(%x)"), target) != before


def outside(f: Callable[..., Any]) -> Callable[..., Any]:
    """As if defined by another package."""
    f.__module__ = "elsewhere"
    return f


def scaled(factor: float) -> Any:
    return replace(OPS["neg"], name="elsewhere_scale", reference=None, fn=outside(lambda s, x: x * factor))


def scaled_sum(factor: float) -> Any:
    monoid = OPS["reduce_sum"].reduction
    assert monoid is not None
    finish = outside(lambda s, state: state[0] * factor)
    return replace(OPS["reduce_sum"], name="elsewhere_sum", reduction=replace(monoid, finish=finish))


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("elsewhere_scale", scaled, "graph g(%x: f32[n,3]) -> (%y) {\n%y = elsewhere_scale(%x)\n}"),
        ("elsewhere_sum", scaled_sum, "graph g(%x: f32[n,3]) -> (%y) {\n%y = elsewhere_sum(%x, axes=[1], keepdims=false)\n}"),
    ],
)
def test_an_op_from_outside_is_keyed_by_its_loops(
    name: str, make: Callable[[float], Any], text: str, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    results = []
    for factor in (2.0, 3.0, 2.0):
        monkeypatch.setitem(OPS, name, make(factor))
        c = compiled(text)
        results.append((c.built[0].cached, run(c, X)[0]))
    assert [cached for cached, _ in results] == [0, 0, 1]
    np.testing.assert_allclose(results[1][1], results[0][1] * 1.5)
    np.testing.assert_array_equal(results[2][1], results[0][1])


def test_threads_that_compile_at_once_give_the_code_of_one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", "0")
    sizes = range(2, 14)
    inputs = ", ".join(f"%x{n}: f32[9,{n}]" for n in sizes)
    results = "".join(f"%y{n} = softmax(%x{n}, axis=1)\n" for n in sizes)
    text = f"graph g({inputs}) -> ({', '.join(f'%y{n}' for n in sizes)}) {{\n{results}}}"
    objects = []
    for workers in (1, 4, 4):
        monkeypatch.setattr(building, "_workers", lambda workers=workers: workers)
        objects.append(compiled(text).native.variants[0].objects)
    assert len(objects[0]) == 13
    assert objects[0] == objects[1] == objects[2]
