"""What is measured: each model compiled to an artifact once, then run beside the peers with one thread and with two."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...compiler.artifact import load
from ...compiler.bench import PEERS, BenchReport, Measured, bench
from ...compiler.driver import compile
from ...compiler.progress import report
from ...frontend.onnx import export_model
from ...ir.errors import OctavoError
from .. import zoo
from ..feeds import feeds as real_feeds
from ..fetch import fetch, models

ON_REQUEST = ("iree",)  # peers that take several times as long as the others: never the fastest
SLOW = ("torch",)  # peers that compile for long, and for each number of threads anew: after the first number only where they are
CLOSE = 1.5  # times as slow as the fastest peer at most
BATCHED = {"mlp x64": ("mlp", 64)}  # a name of ours: (model of the zoo, batch)


@dataclass(frozen=True)
class Outcome:
    """A model at one number of threads; weights and arena are what its run has to hold in memory, in megabytes."""

    name: str
    origin: str  # "zoo" or "real"
    report: BenchReport
    weights_mb: float
    arena_mb: float

    @property
    def ours(self) -> Measured:
        return self.report.results[0]

    @property
    def fastest(self) -> Measured | None:
        """The peer that comes nearest to Octavo or is ahead of it; None where none ran."""
        return max(self.report.results[1:], key=lambda r: r.ratio, default=None)

    @property
    def ratio(self) -> float:
        """Octavo's time over the fastest peer's; NaN without a peer."""
        return self.fastest.ratio if self.fastest else math.nan


def case_names() -> tuple[str, ...]:
    """Everything that can be measured, the zoo first."""
    return (*zoo.MODELS, *BATCHED, *(name for name, r in models().items() if not r.not_yet))


def installed_peers() -> tuple[str, ...]:
    """Those that are measured unless others are asked for."""
    return tuple(name for name in PEERS if name not in ON_REQUEST and importlib.util.find_spec(name) is not None)


def measure(name: str, peers: Sequence[str], threads: Sequence[int], seconds: float, target: str = "native") -> list[Outcome]:
    """A model, compiled for a target, at each number of threads.  Raises OctavoError where it cannot be fetched, compiled or run."""
    with tempfile.TemporaryDirectory(prefix="octavo-speed-") as folder:
        onnx, feeds, origin = _model(name, Path(folder))
        artifact = Path(folder) / "model.octavo"
        compile(onnx, target=target, progress=report).save(artifact)
        model = load(artifact)
        arena = model.workspace_bytes(*(feeds[spec.name].shape for spec in model.inputs)) / 1e6
        weights = (artifact / "weights.bin").stat().st_size / 1e6
        del model
        outcomes: list[Outcome] = []
        for count in threads:
            beside = [p for p in peers if p not in SLOW or not outcomes or is_close(p, outcomes[0])]
            found = bench(artifact, feeds, onnx=onnx, against=beside, threads=count, seconds=seconds, realtime=True, target=target)
            outcomes.append(Outcome(name, origin, found, weights, arena))
        return outcomes


def is_close(peer: str, outcome: Outcome) -> bool:
    """Whether a peer may be the fastest under other circumstances."""
    nearest = outcome.ratio / CLOSE
    return any(r.runtime == peer and r.ratio >= nearest for r in outcome.report.results)


def _model(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray], str]:
    """The ONNX file of a case, inputs for it, and where it is from."""
    if name in models():
        return fetch([name])[name], real_feeds(name, 0), "real"
    model, batch = BATCHED.get(name, (name, 1))
    report("export")
    onnx = export_zoo(model, folder)
    return onnx, zoo.feeds(model, batch), "zoo"


def export_zoo(name: str, folder: Path) -> Path:
    """Write a model of the zoo as NAME.onnx.  Raises OctavoError for an unknown name."""
    path = folder / f"{name}.onnx"
    path.write_bytes(export_model(zoo.build(name)).SerializeToString())
    return path


def geomean(ratios: Sequence[float]) -> float:
    """The geometric mean of those that are numbers; NaN without any."""
    known = [r for r in ratios if not math.isnan(r)]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else math.nan


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """The cases asked for, or all.  Raises OctavoError for an unknown name."""
    unknown = [name for name in only if name not in case_names()]
    if unknown:
        raise OctavoError(f"there is no benchmark {unknown[0]!r}; known: {', '.join(case_names())}")
    return tuple(only) or case_names()
