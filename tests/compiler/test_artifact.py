"""Artifacts: what is saved is what is loaded, whole or not at all; every kind of damage is an error that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import octavo
import pytest
from octavo.backends.runtime import library
from octavo.compiler import artifact
from octavo.ir.errors import ArtifactError, TargetError

from ..backends.handmade import affine, positive, two_levels

FILES = ["graph.txt", "manifest.json", "model.h", "model.so", "weights.bin"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "mnist.octavo"
    artifact.save(affine("mnist"), path)
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy.octavo"))


def ones(rows: int = 2) -> np.ndarray:
    return np.ones((rows, 3), np.float32)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_what_is_saved_is_loaded(saved: Path):
    assert sorted(os.listdir(saved)) == FILES
    model = octavo.load(saved)
    assert model(ones(5)).tolist() == [[3, 3, 3]] * 5
    assert artifact.read_graph(saved) == "graph text"
    assert artifact.read_manifest(saved)["metadata"] == {"target": "test"}


def test_outputs_of_run_time_size_come_back_from_a_saved_model(tmp_path: Path):
    artifact.save(positive(), tmp_path / "m.octavo")
    model = octavo.load(tmp_path / "m.octavo", threads=1)
    assert model(np.array([1, -1, 2], np.float32)).tolist() == [1, 2]


def test_each_level_reads_its_own_weights(tmp_path: Path):
    if {"avx512_fp16", "avx_vnni_int8", "avx_ifma"} <= set(Path("/proc/cpuinfo").read_text().split()):
        pytest.skip("this processor has the level that the test takes for the future's")
    artifact.save(two_levels(), tmp_path / "m.octavo")
    assert octavo.load(tmp_path / "m.octavo")(ones(1)).tolist() == [[9, 9, 9]]


def test_one_and_two_threads_give_the_same_bytes(saved: Path):
    x = np.random.default_rng(0).standard_normal((999, 3), np.float32)
    assert octavo.load(saved, threads=1)(x).tobytes() == octavo.load(saved, threads=2)(x).tobytes()


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path):
    artifact.save(affine("mnist"), tmp_path / "again.octavo")
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "again.octavo" / name).read_bytes(), name


def test_a_loaded_model_saves_the_same_bytes(saved: Path, tmp_path: Path):
    octavo.load(saved).save(tmp_path / "second.octavo")
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "second.octavo" / name).read_bytes(), name


def test_saving_over_an_artifact_replaces_it_and_spares_loaded_models(tmp_path: Path):
    path = tmp_path / "m.octavo"
    artifact.save(affine(offset=1), path)
    old = octavo.load(path)
    artifact.save(affine(offset=5, factor=3.0), path)
    assert octavo.load(path)(ones(1)).tolist() == [[8, 8, 8]]
    assert old(ones(1)).tolist() == [[3, 3, 3]]
    assert os.listdir(tmp_path) == ["m.octavo"]
    with pytest.raises(ArtifactError, match="was replaced since it was loaded; load it again to save it"):
        old.save(tmp_path / "other.octavo")


def test_what_is_not_an_artifact_is_not_replaced(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("ten years of work")
    (tmp_path / "file").write_text("more work")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(ArtifactError, match="exists and is not an Octavo artifact; choose another path or remove it"):
            artifact.save(affine(), tmp_path / name)
    assert (tmp_path / "folder" / "thesis.txt").exists()


@pytest.mark.parametrize("moment", ["fsync", "chmod", "rename"])
def test_an_interrupted_save_leaves_nothing(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "m.octavo"
    monkeypatch.setattr(os if moment == "fsync" else Path, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        artifact.save(affine(), path)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    artifact.save(affine(offset=1), path)
    monkeypatch.setattr(os if moment == "fsync" else Path, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        artifact.save(affine(offset=2), path)
    assert os.listdir(tmp_path) == ["m.octavo"]
    assert octavo.load(path)(ones(1)).tolist() == [[3, 3, 3]]


def test_replacing_works_without_an_exchange_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class OldLibc:
        pass

    artifact.save(affine(offset=1), tmp_path / "m.octavo")
    program = affine(offset=2)
    built = library.build_library(program)
    monkeypatch.setattr(library, "build_library", lambda _: built)
    monkeypatch.setattr(artifact.ctypes, "CDLL", lambda *_, **__: OldLibc())
    artifact.save(program, tmp_path / "m.octavo")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["m.octavo"]
    assert octavo.load(tmp_path / "m.octavo")(ones(1)).tolist() == [[4, 4, 4]]


def test_loading_and_a_session_need_numpy_alone(saved: Path):
    script = """
    import sys
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("llvmlite", "onnx", "ml_dtypes", "google", "click", "rich"):
                raise ImportError(f"{name} is blocked")
    sys.meta_path.insert(0, Block())
    import numpy, octavo, pickle
    model = octavo.InferenceSession(sys.argv[1]).model
    again = pickle.loads(pickle.dumps(model))
    print(again(numpy.ones((1, 3), numpy.float32)).tolist())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(saved)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[[3.0, 3.0, 3.0]]\n", done.stderr


def test_models_pickle_by_path_and_digest(saved: Path, copied: Path):
    model = octavo.load(copied)
    data = pickle.dumps(model)
    assert len(data) < 500
    assert pickle.loads(data)(ones(1)).tolist() == [[3, 3, 3]]
    artifact.save(affine(offset=9), copied)
    with pytest.raises(ArtifactError, match=r"copy\.octavo is no longer the artifact that was pickled; pickle the model again"):
        pickle.loads(data)


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    (
        "copy.octavo/weights.bin has 60 bytes and should have 64: it is truncated or changed; compile the model again",
        lambda p: (p / "weights.bin").write_bytes(bytes(60)),
    ),
    ("the content of {p}/weights.bin is not what was saved (its SHA-256 differs)", lambda p: flip(p / "weights.bin")),
    ("the content of {p}/model.so is not what was saved", lambda p: flip(p / "model.so")),
    ("model.so has 0 bytes and should have", lambda p: (p / "model.so").write_bytes(b"")),
    ("is not a whole artifact: model.so cannot be opened (No such file or directory)", lambda p: (p / "model.so").unlink()),
    ("is not a whole artifact: manifest.json cannot be opened", lambda p: (p / "manifest.json").unlink()),
    ("manifest.json is damaged (JSONDecodeError", lambda p: (p / "manifest.json").write_text('{"format": 1,')),
    ("manifest.json is damaged (TypeError", lambda p: (p / "manifest.json").write_text("[]")),
    ("manifest.json is damaged (RecursionError", lambda p: (p / "manifest.json").write_text("[" * 1_000_000)),
    ("bytes are too many for a manifest", lambda p: (p / "manifest.json").write_bytes(b" " * (17 << 20))),
    ("has artifact format 2 and this Octavo reads format 1; use the Octavo that wrote it", lambda p: edit(p, put(2, "format"))),
    ("has artifact format 1 and this Octavo reads", lambda p: edit(p, put(7, "abi"))),
    ("is damaged: a field has the wrong type", lambda p: edit(p, put("64", "files", "weights.bin", "bytes"))),
    ("is damaged: a field has the wrong type", lambda p: edit(p, put(-1, "files", "weights.bin", "bytes"))),
    ("is damaged: 'inputs' is missing", lambda p: edit(p, put(None, "signature", "inputs"))),
    ("is damaged: input 'x' has dtype 'exec'", lambda p: edit(p, put("exec", "signature", "inputs", 0, "dtype"))),
    ("was built for riscv64 on Linux and this is {machine} on linux", lambda p: edit(p, put("riscv64", "processor"))),
    (
        "manifest.json and model.so are not of the same model",
        lambda p: edit(p, put(["n", 2], "signature", "inputs", 0, "shape")),
    ),
    ("is not a whole artifact: weights.bin cannot be opened (Too many levels", lambda p: link_out(p / "weights.bin")),
    ("weights.bin is not a plain file", lambda p: ((p / "weights.bin").unlink(), os.mkfifo(p / "weights.bin"))),
    ("is not a folder; `octavo compile` writes artifacts as folders", lambda p: (shutil.rmtree(p), p.write_text(""))),
]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def put(value: object, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


@pytest.mark.parametrize(("text", "damage"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage_is_named_with_what_to_do(text: str, damage: Callable[[Path], object], copied: Path):
    damage(copied)
    with pytest.raises(ArtifactError) as error:
        octavo.load(copied)
    assert text.format(p=copied, machine=platform.machine()) in str(error.value)


def test_weights_of_another_size_do_not_pass_with_a_changed_manifest(copied: Path):
    (copied / "weights.bin").write_bytes(b"")
    edit(copied, lambda m: m["files"]["weights.bin"].update(bytes=0, sha256=artifact.hashlib.sha256(b"").hexdigest()))
    with pytest.raises(ArtifactError, match=r"manifest\.json and model\.so are not of the same model"):
        octavo.load(copied)


def test_code_that_this_processor_lacks_is_refused(tmp_path: Path):
    if "avx512_fp16" in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("this processor has everything that the test could ask for")
    artifact.save(affine(features=("avx512fp16", "avx2")), tmp_path / "m.octavo")
    with pytest.raises(ArtifactError, match="needs a processor with avx2, avx512fp16, which this one is not; compile"):
        octavo.load(tmp_path / "m.octavo")


def test_large_weights_are_hashed_on_demand(copied: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(artifact, "_CHEAP", 32)
    flip(copied / "weights.bin")
    octavo.load(copied)
    with pytest.raises(ArtifactError, match=r"weights\.bin is not what was saved"):
        octavo.load(copied, check_weights=True)


def test_weights_are_mapped_not_copied(saved: Path):
    model = octavo.load(saved)
    assert str(saved / "weights.bin") in Path("/proc/self/maps").read_text()
    assert model(ones(1)).shape == (1, 3)


def test_a_forgotten_model_is_unloaded(saved: Path, tmp_path: Path):
    octavo.load(saved, threads=1)
    artifact.save(affine("gone"), tmp_path / "gone.octavo")
    model = octavo.load(tmp_path / "gone.octavo", threads=1)
    assert "gone.octavo/model.so" in Path("/proc/self/maps").read_text()
    del model
    assert "gone.octavo" not in Path("/proc/self/maps").read_text()


def test_without_a_linker_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("octavo.backends.runtime.link.shutil.which", lambda _: None)
    monkeypatch.setattr("octavo.backends.runtime.link.importlib.util.find_spec", lambda _: None)
    with pytest.raises(TargetError, match="needs a linker"):
        artifact.save(affine(), tmp_path / "m.octavo")
    assert os.listdir(tmp_path) == []


def test_many_threads_load_and_run(saved: Path):
    wrong = []

    def work() -> None:
        for _ in range(10):
            if octavo.load(saved)(ones(4)).tolist() != [[3, 3, 3]] * 4:
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("path", [None, 3, b"bytes", ["list"]])
def test_what_is_no_path_is_refused(path: object):
    for read in (octavo.load, artifact.read_manifest, artifact.read_graph):
        with pytest.raises(ArtifactError, match=f"an artifact is given by its path, .* not by a {type(path).__name__}"):
            read(path)  # type: ignore[arg-type]
