"""Whole models from the cache: the same model without compiling, and never a stale one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import octavo
import onnx
import pytest
from octavo.compiler import driver, whole
from octavo.frontend.onnx import export_model
from octavo.ir.text import parse

TEXT = "graph g(%x: f32[n,3]) -> (%y) {\n%1 = matmul(%x, const<f32[3,2] [1.0,2.0,3.0,4.0,5.0,6.0]>)\n%y = softmax(%1, axis=1)\n}"
X = np.float32([[1, 2, 3], [-1, 0, 1]])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was really compiled."""
    seen: list[object] = []
    original = driver.compile_native

    def watched(model: object, **rest: object) -> driver.Compilation:
        seen.append(model)
        return original(model, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "compile_native", watched)
    return seen


def onnx_file(folder: Path, text: str = TEXT) -> Path:
    path = folder / "model.onnx"
    onnx.save(export_model(parse(text)), path)
    return path


def files(artifact: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in artifact.iterdir()}


@pytest.mark.parametrize(
    "given",
    [
        onnx_file,
        lambda folder: str(onnx_file(folder)),
        lambda folder: onnx_file(folder).read_bytes(),
        lambda folder: parse(TEXT),
        lambda folder: octavo.trace(octavo.ops.relu, octavo.spec("f32", ("n", 3))),
    ],
)
def test_a_model_compiled_before_is_the_same_model(given: Callable[[Path], object], cache: Path, tmp_path: Path, compilations: list):
    first = octavo.compile(given(tmp_path))
    second = octavo.compile(given(tmp_path))
    assert len(compilations) == 1
    assert (second.inputs, second.outputs, second.name) == (first.inputs, first.outputs, first.name)
    np.testing.assert_array_equal(second(X), first(X))
    for name, model in (("first", first), ("second", second)):
        model.save(tmp_path / name)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    np.testing.assert_array_equal(octavo.load(tmp_path / "second")(X), first(X))


def test_variants_and_run_time_sizes_come_back_too(cache: Path, compilations: list):
    text = "graph g(%x: f32[n,3]) -> (%y) {\n%1 = relu(%x)\n%y = add(%1, %x)\n}"
    levels = ("x86-64-v3", "x86-64-v4")
    first, second = (driver.compile_program(parse(text), target=levels) for _ in range(2))
    assert len(compilations) == 1
    assert (second.variants, second.signature, second.graph_text) == (first.variants, first.signature, first.graph_text)
    np.testing.assert_array_equal(second.weights_array, first.weights_array)


def test_another_target_size_weight_or_name_is_another_model(cache: Path, compilations: list):
    for text, rest in (
        (TEXT, {}),
        (TEXT, {"target": "x86-64-v3"}),
        (TEXT, {"dims": {"n": 2}}),
        (TEXT.replace("6.0", "7.0"), {}),
        (TEXT.replace("%x", "%other"), {}),
    ):
        driver.compile_program(parse(text), **rest)
    assert len(compilations) == len(list(cache.iterdir())) == 5


def test_a_change_of_our_sources_or_of_the_file_is_another_model(
    cache: Path, tmp_path: Path, compilations: list, monkeypatch: pytest.MonkeyPatch
):
    octavo.compile(onnx_file(tmp_path))
    onnx_file(tmp_path, TEXT.replace("6.0", "7.0"))
    changed = octavo.compile(tmp_path / "model.onnx")
    assert len(compilations) == 2
    assert changed(X)[0, 1] > 0.99
    monkeypatch.setattr(whole, "sources", lambda *floors: "changed")
    octavo.compile(tmp_path / "model.onnx")
    assert len(compilations) == 3


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + b"?", lambda b: b"rubbish"])
def test_a_damaged_entry_is_compiled_anew(damage: Callable[[bytes], bytes], cache: Path, compilations: list):
    expected = octavo.compile(parse(TEXT))(X)
    (entry,) = cache.iterdir()
    sound = entry.read_bytes()
    entry.write_bytes(damage(sound))
    np.testing.assert_array_equal(octavo.compile(parse(TEXT))(X), expected)
    assert len(compilations) == 2
    assert entry.read_bytes() == sound


def test_a_model_whose_weights_lie_in_another_file_is_not_kept(cache: Path, tmp_path: Path):
    model = export_model(parse(TEXT))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    before = octavo.compile(tmp_path / "model.onnx")(X)
    data = bytearray((tmp_path / "weights").read_bytes())
    data[-4:] = np.float32(100).tobytes()
    (tmp_path / "weights").write_bytes(data)
    assert not np.array_equal(octavo.compile(tmp_path / "model.onnx")(X), before)
    assert not cache.exists()


def test_an_op_from_outside_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole, "is_ours", lambda op: op != "softmax")
    octavo.compile(parse(TEXT))
    assert not cache.exists()


def test_passes_run_for_who_dumps_them(cache: Path, tmp_path: Path, compilations: list, monkeypatch: pytest.MonkeyPatch):
    octavo.compile(parse(TEXT))
    monkeypatch.setenv("OCTAVO_DUMP", str(tmp_path / "dump"))
    octavo.compile(parse(TEXT))
    assert len(compilations) == 2
    assert os.listdir(tmp_path / "dump")
