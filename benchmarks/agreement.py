"""Do the real models compute what onnxruntime computes?  Each is compiled once and runs at two sizes, in three ways.

In process (`octavo.compile`), from a saved artifact (`octavo.load`), and through the C interface of that artifact's `model.so`
(a C program, `c_runner`).  An entry of the table is the worst error over the largest value, over outputs and both sizes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..compiler.artifact import load
from ..compiler.compare import relative_error
from ..compiler.driver import compile
from ..compiler.progress import report
from ..compiler.verify import run_onnxruntime
from .c_runner import CRunner
from .feeds import Feeds, feeds
from .fetch import Resource

WAYS = ("in process", "artifact", "C")
SIZES = 2


@dataclass(frozen=True)
class Agreement:
    """One row: the errors of the three ways, or why there are none."""

    name: str
    compile_s: float
    sizes: tuple[str, ...]
    errors: tuple[float, ...]
    tolerance: float
    refused: str = ""

    @property
    def ok(self) -> bool:
        return not self.refused and len(self.errors) == len(WAYS) and max(self.errors) <= self.tolerance


def agree(resource: Resource, onnx: Path) -> Agreement:
    """Compile one model, run it in every way at every size, compare.  What goes wrong is in the row, not raised."""
    given = [feeds(resource.name, k) for k in range(SIZES)]
    sizes = tuple(" ".join("x".join(map(str, array.shape)) or "scalar" for array in one.values()) for one in given)
    compile_s, errors = 0.0, []
    try:
        expected = [run_onnxruntime(onnx, one) for one in given]
        start = time.perf_counter()
        model = compile(onnx)
        compile_s = time.perf_counter() - start
        errors.append(_worst(lambda one: model.run(None, one), given, expected))
        with tempfile.TemporaryDirectory(prefix="octavo-agree-") as folder:
            artifact = Path(folder) / f"{resource.name}.octavo"
            model.save(artifact)
            loaded = load(artifact)
            errors.append(_worst(lambda one: loaded.run(None, one), given, expected))
            errors.append(_worst(CRunner(artifact, Path(folder)), given, expected))
    except Exception as e:  # a fault of the compiler belongs into the report too
        return Agreement(resource.name, compile_s, sizes, tuple(errors), resource.tolerance, f"{type(e).__name__}: {e}")
    return Agreement(resource.name, compile_s, sizes, tuple(errors), resource.tolerance)


def agree_all(wanted: Sequence[Resource], files: dict[str, Path]) -> list[Agreement]:
    """A row for each model."""
    rows = []
    for k, resource in enumerate(wanted):
        report(resource.name, k, len(wanted))
        # In a process of its own: code that crashes ends one row, not the table.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                rows.append(process.submit(agree, resource, files[resource.name]).result())
            except BrokenProcessPool:
                rows.append(Agreement(resource.name, 0.0, (), (), resource.tolerance, "the process crashed"))
    return rows


def _worst(run: Callable[[Feeds], Sequence[np.ndarray]], given: list[Feeds], expected: list[list[np.ndarray]]) -> float:
    worst = 0.0
    for one, theirs in zip(given, expected, strict=True):
        mine = run(one)
        worst = max([worst, *(relative_error(np.asarray(a), e) for a, e in zip(mine, theirs, strict=True))])
    return worst
