"""Results have the same bits for any number of threads, batch, run and processor level, and after a model was saved.

Besides the real pool, loops run under a pool of our own that hands out single iterations backwards, to workers in turn, and finds
every byte of the workspace set: a sum that depended on the order of tasks, on what a worker did before or on memory that nobody wrote
would show.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import octavo
import pytest
from octavo.backends.target import runnable
from octavo.compiler.model import Model
from octavo.tests.backends.templates import Template, templates

LEVELS = [t.name for t in runnable()]
BATCHES = (2, 3, 8, 17, 33)
# The levels below but for integers.
INTEGER_ONLY = ("x86-64-v3-vnni", "x86-64-v4-vnni", "x86-64-v4-amx", "aarch64-dotprod", "aarch64-i8mm")
BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32)
LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Backwards:
    """A pool of two workers for one model: single iterations, the last first."""

    def __init__(self):
        self.loops = 0
        self._callback = LOOP(self._run)
        self._struct = (ctypes.c_void_p * 3)(ctypes.cast(self._callback, ctypes.c_void_p), None, 2)
        self.address = ctypes.addressof(self._struct)

    def _run(self, pool: int, body: int, context: int, n: int) -> None:
        self.loops += 1
        call = BODY(body)
        for i in reversed(range(n)):
            call(context, i, i + 1, i % 2)


def run_with(model: Model, arrays: list[np.ndarray], threads: int) -> list[np.ndarray]:
    """The results with another pool, by its address (0: none), in a workspace full of ones."""
    executable = model.executable
    executable.run(arrays)
    for frame in executable._frames:
        frame.workspace[:] = 0xFF
    usual, executable._threads = executable._threads, threads
    try:
        return executable.run(arrays)
    finally:
        executable._threads = usual


def same(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        wrong = np.flatnonzero(a.reshape(-1).view(np.uint8) != e.reshape(-1).view(np.uint8)) // a.itemsize
        assert not wrong.size, (
            f"{len(set(wrong.tolist()))} of {a.size} elements differ, first {a.flat[wrong[0]]} and {e.flat[wrong[0]]}"
        )


@pytest.fixture(scope="module", params=list(templates()), ids=lambda t: t.name)
def template(request: pytest.FixtureRequest) -> Template:
    return request.param


@pytest.fixture(scope="module")
def compiled(template: Template) -> Callable[[str], Model]:
    """The template's model for a level, with two threads."""
    models: dict[str, Model] = {}

    def get(level: str) -> Model:
        if level not in models:
            models[level] = octavo.compile(template.graph(), target=level, threads=2)
        return models[level]

    return get


def levels(template: Template) -> list[str]:
    return [level for level in LEVELS if level not in INTEGER_ONLY or template.dtype == "i8"]


def test_a_result_does_not_depend_on_the_threads(template: Template, compiled: Callable[[str], Model]):
    arrays = template.arrays(33)
    for level in levels(template):
        model = compiled(level)
        expected = run_with(model, arrays, threads=0)
        for _ in range(2):
            same(model.executable.run(arrays), expected)
        pool = Backwards()
        same(run_with(model, arrays, pool.address), expected)
        assert pool.loops, f"no loop of {template.name} is large enough to go parallel: the test shows nothing"


def test_a_row_does_not_depend_on_the_batch_it_stands_in(template: Template, compiled: Callable[[str], Model]):
    rows = template.arrays(max(BATCHES))
    for level in levels(template):
        run = compiled(level).executable.run
        alone = [run([a[k : k + 1] for a in rows]) for k in range(max(BATCHES))]
        for batch in BATCHES:
            start = max(BATCHES) - batch
            together = run([a[start:] for a in rows])
            same(together, [np.concatenate(parts) for parts in zip(*alone[start:], strict=True)])


def test_a_result_does_not_depend_on_the_processor_level(template: Template, compiled: Callable[[str], Model]):
    arrays = template.arrays(5)
    expected = compiled(LEVELS[0]).executable.run(arrays)
    for level in levels(template)[1:]:
        same(compiled(level).executable.run(arrays), expected)


def test_a_saved_model_gives_the_same_results(template: Template, compiled: Callable[[str], Model], tmp_path: Path):
    model, arrays = compiled(levels(template)[-1]), template.arrays(9)
    model.save(tmp_path / "model.octavo")
    same(octavo.load(tmp_path / "model.octavo").executable.run(arrays), model.executable.run(arrays))
