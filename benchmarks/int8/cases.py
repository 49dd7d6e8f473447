"""What is measured: models quantized by everyone from the same random inputs, then run side by side on one thread.

What int8 costs in answers is not seen here; `..accuracy` measures it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...compiler.bench import Entry, Measured, take_turns
from ...compiler.calibrate import calibrate
from ...compiler.driver import compile
from ...compiler.progress import report
from ...compiler.quantize import quantize
from ...frontend.onnx import export_model
from ...ir import config
from ...ir.errors import OctavoError
from ...ir.graph import Graph
from .. import zoo
from ..feeds import FEEDS, Feeds
from ..fetch import fetch, models
from ..peers import FOLDERS, RECIPES, Recipe, reason
from ..zoo.small import mlp

INT8, F32 = "octavo int8", "octavo f32"
SAMPLES = 8  # calibration inputs: enough for ranges of random data
PACKAGES = ("onnxruntime", "openvino", "nncf")
TRANSFORMERS = frozenset(("bert_base", "bert_small", "vit_tiny", "minilm-l6-int8w"))


@dataclass(frozen=True)
class Case:
    """`save` writes or fetches the ONNX file, given a folder; `feed` makes the inputs of a seed: 0 is measured, others calibrate."""

    name: str
    origin: str  # "zoo" or "real"
    save: Callable[[Path], Path]
    feed: Callable[[int], Feeds]
    transformer: bool = False


@dataclass(frozen=True)
class Outcome:
    """A model's results: Octavo's int8, its f32, then the peers' int8; `failures` says why others are missing."""

    name: str
    origin: str
    inputs: dict[str, str]
    results: tuple[Measured, ...]
    failures: dict[str, str]
    scheduling: str

    @property
    def int8(self) -> Measured:
        return self.results[0]

    @property
    def f32(self) -> Measured:
        return self.results[1]

    @property
    def fastest(self) -> Measured | None:
        """The peer whose int8 comes nearest to Octavo's or is ahead of it; None where none ran."""
        return max(self.results[2:], key=lambda r: r.ratio, default=None)

    @property
    def gain(self) -> float:
        """How many times as fast Octavo's int8 is as its f32."""
        return 1 / self.f32.ratio


def cases() -> dict[str, Case]:
    """By name, the zoo first."""
    found = [
        *(_zoo(name) for name in ("resnet50", "mobilenet_v2", "yolo", "bert_base", "bert_small", "vit_tiny")),
        _zoo("mlp", 64),
        Case("matmul 1024", "zoo", partial(save_graph, _matmul), lambda seed: {"x": _normal(seed, 1024, 1024)}),
        *(_real(name) for name, r in models().items() if not r.not_yet),
    ]
    return {case.name: case for case in found}


def _zoo(name: str, batch: int = 1) -> Case:
    words = f"{name} x{batch}" if batch > 1 else name
    save, feed = partial(save_graph, lambda: zoo.build(name)), lambda seed: zoo.feeds(name, batch, seed=seed)
    return Case(words, "zoo", save, feed, name in TRANSFORMERS)


def _real(name: str) -> Case:
    def feed(seed: int) -> Feeds:
        return FEEDS[name](np.random.default_rng(seed), 0)

    return Case(name, "real", lambda folder: fetch([name])[name], feed, name in TRANSFORMERS)


def _matmul() -> Graph:
    """One product with a constant: there is no int8 form of one of two inputs."""
    return mlp("matmul", (1024, 1024))


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def save_graph(build: Callable[[], Graph], folder: Path) -> Path:
    """Write what `build` makes as an ONNX file into the folder."""
    path = folder / "model.onnx"
    path.write_bytes(export_model(build()).SerializeToString())
    return path


def chosen(only: Sequence[str]) -> list[Case]:
    """The cases asked for, or all.  Raises OctavoError for an unknown name."""
    known = cases()
    unknown = [name for name in only if name not in known]
    if unknown:
        raise OctavoError(f"there is no benchmark {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in only] or list(known.values())


def measure(case: Case, seconds: float, recipes: Sequence[Recipe] = RECIPES) -> Outcome:
    """Raises OctavoError where the model cannot be fetched, or Octavo cannot quantize, compile or run it."""
    with tempfile.TemporaryDirectory(prefix="octavo-int8-") as name:
        folder = Path(name)
        onnx = case.save(folder)
        calibration = [case.feed(seed) for seed in range(1, SAMPLES + 1)]
        compile(onnx, threads=1, progress=report).save(folder / "f32.octavo")
        profile = calibrate(onnx, calibration, threads=1, progress=report)
        compile(quantize(onnx, profile), threads=1, progress=report).save(folder / "int8.octavo")
        entries = [Entry(INT8, "octavo", folder / "int8.octavo"), Entry(F32, "octavo", folder / "f32.octavo")]
        failures: dict[str, str] = {}
        for recipe in recipes:
            if recipe.dynamic and not case.transformer:
                continue
            report(f"quantize for {recipe.name}")
            try:
                entries.append(Entry(recipe.name, recipe.runtime, quantized(recipe, onnx, calibration, case.transformer)))
            except Exception as e:  # whatever a peer raises is its answer
                failures[recipe.name] = reason(e)
        feeds = case.feed(0)
        results, failed, scheduling = take_turns(entries, feeds, seconds=seconds, realtime=True)
    if F32 in failed:
        raise OctavoError(failed[F32])
    failures.update({name: FOLDERS.sub("", text) for name, text in failed.items()})
    inputs = {name: f"{array.dtype}{list(array.shape)}" for name, array in feeds.items()}
    return Outcome(case.name, case.origin, inputs, results, failures, scheduling)


def quantized(recipe: Recipe, onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Path:
    """The model that a recipe makes, kept in the cache folder: it takes minutes, and depends on nothing of Octavo's."""
    key = hashlib.sha256(onnx.read_bytes())
    key.update(repr((recipe.name, transformer, versions())).encode())
    for feeds in calibration:
        for name, array in feeds.items():
            key.update(repr((name, array.dtype, array.shape)).encode() + array.tobytes())
    folder = (config.cache_dir() or Path(tempfile.gettempdir()) / "octavo") / "int8" / key.hexdigest()[:32]
    path = folder / f"model{recipe.suffix}"
    if not path.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as making:
            whole = Path(making) / "whole"
            whole.mkdir()
            with redirect_stdout(io.StringIO()):  # they print bars
                recipe.quantize(onnx, calibration, transformer, whole / path.name)
            whole.rename(folder)  # OpenVINO writes two files
    return path


def versions() -> dict[str, str]:
    """Of the packages that quantize for peers, those installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
