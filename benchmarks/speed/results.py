"""The outcomes as data for JSON and as tables, the same for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ... import __version__
from ...compiler.machine import Machine, describe_machine
from ..tables import Section, markdown
from .cases import CLOSE, SLOW, Outcome, geomean
from .floors import COMPILED, Floors
from .limits import Limits, Share
from .sweep import LARGEST, OTHERS, Sweep

SCALED = ("resnet50", "bert_base")  # models whose speed with two threads is compared with one


@dataclass(frozen=True)
class Results:
    """All that a run found out; `floors`, `limits` and `sweep` are None where only some models were measured."""

    date: str
    octavo: str
    machine: Machine
    seconds: float
    target: str
    outcomes: tuple[Outcome, ...]
    failures: Mapping[str, str]
    floors: Floors | None = None
    limits: Limits | None = None
    sweep: Sweep | None = None

    @staticmethod
    def of(outcomes: Sequence[Outcome], failures: Mapping[str, str], seconds: float, target: str = "native", **alone: Any) -> Results:
        """The results of now and here; `alone`: floors, limits and sweep, where they were measured."""
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        return Results(date, __version__, describe_machine(), seconds, target, tuple(outcomes), failures, **alone)

    @property
    def threads(self) -> tuple[int, ...]:
        return tuple(sorted({o.report.threads for o in self.outcomes}))

    @property
    def versions(self) -> tuple[str, ...]:
        """Octavo and every peer that ran, with versions."""
        return tuple(dict.fromkeys(f"{r.runtime} {r.version}" for o in self.outcomes for r in o.report.results))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the figures doubtful, each once."""
        left_out = [
            f"{o.name}: {peer} is left out: {reason}"
            for o in self.outcomes
            if o.report.threads == self.threads[0]
            for peer, reason in o.report.failures.items()
        ]
        failed = [f"{name} was not measured: {reason}" for name, reason in self.failures.items()]
        return tuple(dict.fromkeys([*self.machine.warnings, *failed, *left_out]))

    @property
    def setting(self) -> tuple[str, ...]:
        """Lines that say what was measured, on what and how."""
        scheduling = ", then ".join(dict.fromkeys(o.report.scheduling for o in self.outcomes))
        peers = {r.runtime for o in self.outcomes for r in o.report.results[1:]}
        limited = f"code for {self.target}; peers are kept to its instructions" if self.target != "native" else ""
        free = ", but onnxruntime, which knows no such limit, is not" if "onnxruntime" in peers else ""
        return (
            f"{self.date}, {self.machine!s}",
            *([limited + free] if limited else []),
            f"{', '.join(self.versions)}; float32 arithmetic, no tuning",
            f"each runtime in a process of its own, taking turns, {self.seconds:g} s each in 7 rounds; {scheduling}",
        )

    def at(self, threads: int) -> list[Outcome]:
        return [o for o in self.outcomes if o.report.threads == threads]


def as_json(results: Results) -> dict[str, Any]:
    outcomes = [{**asdict(o), "fastest_peer": o.fastest.runtime if o.fastest else None} for o in results.outcomes]
    summary = {str(t): _summary(results.at(t)) for t in results.threads}
    fields = {"date": results.date, "octavo": results.octavo, "machine": asdict(results.machine), "seconds": results.seconds}
    alone = {name: asdict(part) if (part := getattr(results, name)) else None for name in ("floors", "limits", "sweep")}
    return {**fields, "target": results.target, "summary": summary, **alone, "failures": dict(results.failures), "outcomes": outcomes}


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Octavo's time over the fastest peer's: the geometric mean and the largest; None where no peer ran."""
    known = [o for o in outcomes if not math.isnan(o.ratio)]
    if not known:
        return {"geomean": None, "worst": None, "worst_model": None, "models": 0}
    worst = max(known, key=lambda o: o.ratio)
    return {"geomean": geomean([o.ratio for o in known]), "worst": worst.ratio, "worst_model": worst.name, "models": len(known)}


def sections(results: Results) -> list[Section]:
    """The tables, in the order in which people want them."""
    found = [_latency(results.at(t), t, again=t != results.threads[0]) for t in results.threads]
    if results.outcomes:
        found.append(_memory(results))
    if results.limits:
        found += _limits(results.limits)
    if results.floors:
        found.append(_floors(results, results.floors, results.sweep))
    return found


def _latency(outcomes: Sequence[Outcome], threads: int, again: bool) -> Section:
    """A table; again: the models were measured with another number of threads before."""
    peers = tuple(dict.fromkeys(r.runtime for o in outcomes for r in o.report.results[1:]))
    rows = []
    for o in outcomes:
        times = {r.runtime: r.median_ms for r in o.report.results}
        spread = max(r.spread for r in (o.ours, o.fastest) if r)
        inputs = " ".join(o.report.inputs.values())
        each = (f"{times[p]:.3g}" if p in times else "-" for p in peers)
        ratio = "-" if math.isnan(o.ratio) else f"{o.ratio:.2f}"
        rows.append((o.name, o.origin, inputs, f"{o.ours.median_ms:.3g}", *each, ratio, f"{spread:.0%}"))
    summary = _summary(outcomes)
    notes: tuple[str, ...] = ()
    if summary["models"]:
        notes = (
            f"Octavo takes {summary['geomean']:.2f} of the fastest peer's time (geometric mean of {summary['models']} models); "
            f"worst {summary['worst_model']} with {summary['worst']:.2f}",
        )
    if again and set(SLOW) & set(peers):
        notes += (f"{' and '.join(SLOW)} took part only where it was within {CLOSE} times of the fastest peer before",)
    columns = ("model", "from", "inputs", "octavo ms", *(f"{p} ms" for p in peers), "octavo / fastest", "spread")
    return Section(f"Median latency, {threads} thread{'s' if threads > 1 else ''}", columns, tuple(rows), notes, 3)


def _memory(results: Results) -> Section:
    rows = []
    for o in results.at(results.threads[0]):
        ours = o.ours
        resident = ours.peak_rss_mb * 1.048576  # the process reports in units of 1024
        rest = resident - o.weights_mb - o.arena_mb
        cells = (
            ours.load_ms,
            ours.first_ms,
            ours.first_ms / ours.median_ms,
            ours.peak_rss_mb * 1.048576,
            o.weights_mb,
            o.arena_mb,
            rest,
        )
        rows.append((o.name, *(f"{value:.3g}" for value in cells)))
    columns = ("model", "load ms", "first ms", "first / median", "peak RSS MB", "weights MB", "workspace MB", "rest MB")
    note = "the rest is mostly Python, NumPy and the inputs; weights are mapped, so pages that a run does not touch are not resident"
    return Section("Octavo's start and memory, one thread", columns, tuple(rows), (note,))


def _limits(limits: Limits) -> list[Section]:
    found = [Section("Square matmuls, one thread", ("m x n x k", "GFLOP/s", "peak beside it", "share"), _shares(limits.squares))]
    for name, shares in limits.models.items():
        rows = tuple((words, str(s.calls), *rest) for s, (words, *rest) in zip(shares, _shares(shares), strict=True))
        columns = (f"matmuls and convolutions of {name}", "calls", "GFLOP/s", "peak beside it", "share")
        note = "more than 100 % is Winograd's way to compute a convolution, with fewer multiplications than are counted here"
        notes = (note,) if any(s.share > 1 for s in shares) else ()
        found.append(Section(f"Kernels of {name}, one thread", columns, rows, notes))
    columns = (f"{limits.array_mb:.0f} MB of arrays", "GB/s", "best loop beside it", "share")
    note = "the loop reads and writes as many arrays as the op, with ordinary or with non-temporal stores, whichever is faster"
    found.append(Section("Ops bound by memory, one thread", columns, _shares(limits.memory), (note,)))
    return found


def _shares(shares: Sequence[Share]) -> tuple[tuple[str, ...], ...]:
    return tuple((s.name, f"{s.reached:.3g}", f"{s.limit:.3g}", f"{s.share:.0%}") for s in shares)


def _floors(results: Results, floors: Floors, sweep: Sweep | None) -> Section:
    rows = [
        (f"compile {COMPILED}, empty cache", f"{floors.compile_s:.1f} s"),
        (f"compile {COMPILED}, from the cache", f"{floors.cached_s:.2f} s"),
        ("a call of a ten-op graph from Python", f"{floors.call_us:.1f} us"),
        ("a call of a ten-op graph from C, of which its kernels", f"{floors.c_call_us:.2f} us, {floors.kernel_us:.2f} us"),
        ("compile 10,000 nodes over 1,000: matmuls; softmaxes and pointwise", f"{floors.chain_growth:.1f}; {floors.mix_growth:.1f}"),
        *((f"subnormal {what} over normal ones", f"{ratio:.2f}") for what, ratio in floors.subnormal_ratios.items()),
    ]
    if sweep:
        words = f"steepest cliff of matmuls with sizes 1 to {LARGEST}, the others {OTHERS}"
        rows.append((words, f"{sweep.cliff:.2f} between {sweep.where}"))
    alone, beside = ({o.name: o.ours.median_ms for o in results.at(t)} for t in (1, 2))
    for name in SCALED:
        if name in alone and name in beside:
            rows.append((f"two threads on {name}", f"{alone[name] / beside[name]:.2f} times as fast as one"))
    return Section("Octavo alone", ("figure", "measured"), tuple(rows), (f"{floors.scheduling}; compiling on all cores",))


def stem(results: Results) -> str:
    """What the files of these results are called."""
    return "speed" if results.target == "native" else f"speed-{results.target}"


def as_markdown(results: Results) -> str:
    command = "python -m octavo.benchmarks.speed" + (f" --target {results.target}" if results.target != "native" else "")
    lines = ["# Speed", "", f"Written by `{command}`.", ""]
    lines += [f"- {line}" for line in (*results.setting, *(f"warning: {w}" for w in results.warnings))]
    lines += ["", f"![Octavo's time over the fastest peer's]({stem(results)}.svg)"]
    if results.sweep:
        lines += ["", f"![Time of small matmuls by size]({stem(results)}-sizes.svg)"]
    return "\n".join([*lines, *markdown(sections(results)), ""])
