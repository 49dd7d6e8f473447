"""Measurements of a model, beside other runtimes if asked, made so that they can be compared.

Every runtime is a process of its own, pinned to the same cores and given the same inputs.  They take turns (A B A B ...), so
that a clock that changes or a neighbour that wakes up hits all of them; a ratio is the median over rounds of what stood side
by side.
Octavo is measured as it is shipped: compiled to an artifact first, then loaded from it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import OctavoError
from .artifact import load
from .contender import RUNTIMES
from .machine import Machine, describe_machine
from .progress import report

PEERS = tuple(name for name in RUNTIMES if name != "octavo")
WARM_UP_S = 0.2
# What keeps a peer to the instructions of a target.  onnxruntime knows no such limit and takes the best that the processor has.
LIMITS = {
    "x86-64-v3": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
THREAD_VARIABLES = ("OCTAVO_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Measured:
    """What one runtime did; times in milliseconds, `spread` is (slowest - fastest) / median over the rounds' medians."""

    runtime: str
    version: str
    load_ms: float
    first_ms: float
    median_ms: float
    mean_ms: float
    min_ms: float
    p90_ms: float
    p99_ms: float
    spread: float
    runs: int
    per_second: float
    peak_rss_mb: float
    ratio: float  # Octavo's time (that of the first entry) over this runtime's, side by side; 1 for Octavo itself


@dataclass(frozen=True)
class BenchReport:
    """All runtimes, Octavo first, with what they ran and where."""

    model: str
    inputs: dict[str, str]
    threads: int
    machine: Machine
    scheduling: str
    results: tuple[Measured, ...]
    failures: dict[str, str]  # peers that could not run the model, and what they said

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """What takes turns: `runtime` runs the model file at `path`; `name` is what the result is called."""

    name: str
    runtime: str
    path: Path


def bench(
    artifact: Path,
    feeds: Mapping[str, np.ndarray],
    *,
    onnx: Path | None = None,
    against: Sequence[str] = (),
    threads: int = 1,
    seconds: float = 3.0,
    rounds: int = 7,
    realtime: bool = False,
    target: str = "native",
) -> BenchReport:
    """Measure a saved artifact, and `against` peers the ONNX file that it was made from; `seconds` of running for each of them.

    realtime: at real-time priority where permitted, so that other work on the machine disturbs little.
    target: what the artifact was compiled for; peers are kept to the instructions of `LIMITS` for it.

    Raises OctavoError when Octavo's own process fails, when there is no such peer, or none of the peers is installed or runs.
    """
    unknown = sorted(set(against) - set(PEERS))
    if unknown:
        raise OctavoError(f"there is no runtime {unknown[0]!r} to measure against; known: {', '.join(PEERS)}")
    if against and onnx is None:
        raise OctavoError("a comparison needs the ONNX file: other runtimes cannot read an artifact")
    entries = [Entry("octavo", "octavo", artifact), *(Entry(name, name, Path(onnx or "")) for name in against)]
    results, failures, scheduling = take_turns(
        entries, feeds, threads=threads, seconds=seconds, rounds=rounds, realtime=realtime, limits=LIMITS.get(target, {})
    )
    if against and len(results) == 1:
        raise OctavoError("; ".join(failures.values()))
    inputs = {name: f"{array.dtype}{list(array.shape)}" for name, array in feeds.items()}
    return BenchReport((onnx or artifact).name, inputs, threads, describe_machine(), scheduling, results, failures)


def take_turns(
    entries: Sequence[Entry],
    feeds: Mapping[str, np.ndarray],
    *,
    threads: int = 1,
    seconds: float = 3.0,
    rounds: int = 7,
    realtime: bool = False,
    limits: Mapping[str, str] | None = None,
) -> tuple[tuple[Measured, ...], dict[str, str], str]:
    """Run entries in turns: what each did, what those that cannot run said by name, and the scheduling in words.

    The first is an artifact of Octavo; ratios are its times over those of the others.  limits: environment variables for all.

    Raises OctavoError when the first fails.
    """
    first = entries[0]
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        feeds_file = Path(folder) / "feeds.npz"
        ordered = {spec.name: feeds[spec.name] for spec in load(first.path).inputs if spec.name in feeds}  # some peers go by position
        np.savez(feeds_file, allow_pickle=False, **{**ordered, **feeds})
        running: dict[str, _Contender] = {}
        failures: dict[str, str] = {}
        try:
            for entry in entries:
                report(f"load in {entry.name}")
                contender = _Contender(entry, feeds_file, threads, realtime, limits or {})
                running[entry.name] = contender
                try:
                    contender.load()
                except OctavoError as e:
                    if entry is first:
                        raise
                    failures[entry.name] = str(e)
                    running.pop(entry.name).close()
            for k in range(rounds):
                for name, contender in running.items():
                    report(f"run {name}", k * len(running) + list(running).index(name), rounds * len(running))
                    contender.run(seconds / rounds)
            scheduling = running[first.name].facts["scheduling"]
            return tuple(c.result(running[first.name]) for c in running.values()), failures, scheduling
        finally:
            for contender in running.values():
                contender.close()


class _Contender:
    """The parent's end of a `contender` process."""

    def __init__(self, entry: Entry, feeds: Path, threads: int, realtime: bool, limits: Mapping[str, str]):
        self.name = entry.name
        self.rounds: list[list[float]] = []
        self.facts: dict[str, Any] = {}
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **limits}
        package = __name__.rpartition(".")[0]
        command = [sys.executable, "-m", f"{package}.contender", entry.runtime, str(entry.path), str(feeds), str(threads)]
        command.append("realtime" if realtime else "normal")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def load(self) -> None:
        self.facts.update(self._ask(do="load"))
        self._ask(do="run", seconds=WARM_UP_S)

    def run(self, seconds: float) -> None:
        self.rounds.append(self._ask(do="run", seconds=seconds)["ms"])

    def result(self, first: _Contender) -> Measured:
        """End the process and sum up; ratios are taken against the rounds of `first`."""
        self.facts.update(self._ask(do="end"))
        times = np.array([t for one in self.rounds for t in one])
        medians = [statistics.median(one) for one in self.rounds]
        side_by_side = [statistics.median(o) / m for o, m in zip(first.rounds, medians, strict=True)]
        return Measured(
            runtime=self.name,
            version=self.facts["version"],
            load_ms=self.facts["load_ms"],
            first_ms=self.facts["first_ms"],
            median_ms=float(np.median(times)),
            mean_ms=float(times.mean()),
            min_ms=float(times.min()),
            p90_ms=float(np.percentile(times, 90)),
            p99_ms=float(np.percentile(times, 99)),
            spread=(max(medians) - min(medians)) / statistics.median(medians),
            runs=times.size,
            per_second=1e3 / float(times.mean()),
            peak_rss_mb=self.facts["peak_rss_mb"],
            ratio=statistics.median(side_by_side),
        )

    def close(self) -> None:
        """End the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def _ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for the answer.  Raises OctavoError when the process failed or died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self.process.communicate()[1].strip().splitlines()
            raise OctavoError(f"{self.name} died with exit code {self.process.returncode}: {said[-1] if said else 'silently'}")
        answer = json.loads(line)
        if "error" in answer:
            raise OctavoError(f"{self.name} failed: {answer['error']}")
        return answer
