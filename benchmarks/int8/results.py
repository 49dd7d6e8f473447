"""The outcomes as tables, data for JSON, and Markdown; what is required of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ... import __version__
from ...compiler.machine import Machine, describe_machine
from ..peers import RECIPES
from ..speed.cases import geomean
from ..tables import Section, markdown
from .cases import SAMPLES, Outcome, versions

MOST_OF_PEERS, MOST_OF_ONE = 0.80, 1.00  # Octavo's time over that of the fastest peer: on average, and of each model
LEAST_GAINS = {"resnet50": 3.3, "bert_base": 2.8, "mobilenet_v2": 2.0}  # how many times as fast as f32
LEAST_GAIN = 1.0  # of every model
WORDS = {True: "met", False: "missed", None: "not measured"}


@dataclass(frozen=True)
class Target:
    """What is required, what was found, and whether that is enough; None where nothing was found."""

    required: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Results:
    """All that a run found out.  `failures`: models that could not be measured, and why."""

    date: str
    machine: Machine
    versions: tuple[str, ...]
    seconds: float
    outcomes: tuple[Outcome, ...]
    failures: Mapping[str, str]

    @staticmethod
    def of(outcomes: Sequence[Outcome], failures: Mapping[str, str], seconds: float) -> Results:
        """The results of now and here."""
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        known = (f"octavo {__version__}", *(f"{package} {version}" for package, version in versions().items()))
        return Results(date, describe_machine(), known, seconds, tuple(outcomes), failures)

    @property
    def targets(self) -> tuple[Target, ...]:
        ratios = {o.name: o.fastest.ratio for o in self.outcomes if o.fastest}
        gains = {o.name: o.gain for o in self.outcomes}
        mean = geomean(list(ratios.values()))
        worst, slowest = max(ratios, key=ratios.__getitem__, default=""), min(gains, key=gains.__getitem__, default="")
        return (
            Target(
                f"int8 over the fastest int8 peer, geometric mean, at most {MOST_OF_PEERS:.2f}",
                f"{mean:.2f} of {len(ratios)} models" if ratios else "-",
                mean <= MOST_OF_PEERS if ratios else None,
            ),
            Target(
                f"int8 over the fastest int8 peer, of no model above {MOST_OF_ONE:.2f}",
                f"{ratios[worst]:.2f} ({worst})" if ratios else "-",
                ratios[worst] <= MOST_OF_ONE if ratios else None,
            ),
            *(
                Target(
                    f"f32 over int8 of {name}, at least {least:g}",
                    f"{gains[name]:.2f}" if name in gains else "-",
                    gains[name] >= least if name in gains else None,
                )
                for name, least in LEAST_GAINS.items()
            ),
            Target(
                f"f32 over int8, of no model below {LEAST_GAIN:g}",
                f"{gains[slowest]:.2f} ({slowest})" if gains else "-",
                gains[slowest] >= LEAST_GAIN if gains else None,
            ),
        )

    @property
    def setting(self) -> tuple[str, ...]:
        """Lines that say what was measured, on what and how."""
        scheduling = ", then ".join(dict.fromkeys(o.scheduling for o in self.outcomes))
        return (
            f"{self.date}, {self.machine!s}",
            ", ".join(self.versions),
            f"post-training quantization with default settings from {SAMPLES} random inputs, the same for all; one thread",
            f"each runtime in a process of its own, taking turns, {self.seconds:g} s each in 7 rounds; {scheduling}",
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the figures doubtful or is missing, each once."""
        left_out = [f"{o.name}: {peer} is left out: {reason}" for o in self.outcomes for peer, reason in o.failures.items()]
        failed = [f"{name} was not measured: {reason}" for name, reason in self.failures.items()]
        return tuple(dict.fromkeys([*self.machine.warnings, *failed, *left_out]))


def as_json(results: Results) -> dict[str, Any]:
    outcomes = [{**asdict(o), "fastest_peer": o.fastest.runtime if o.fastest else None, "gain": o.gain} for o in results.outcomes]
    fields = {"date": results.date, "machine": asdict(results.machine), "versions": list(results.versions), "seconds": results.seconds}
    return {**fields, "targets": [asdict(t) for t in results.targets], "failures": dict(results.failures), "outcomes": outcomes}


def sections(results: Results) -> list[Section]:
    peers = [r.name for r in RECIPES]
    rows = []
    for o in results.outcomes:
        times = {r.runtime: r.median_ms for r in o.results}
        spread = max(r.spread for r in (o.int8, o.f32, o.fastest) if r)
        each = (f"{times[p]:.3g}" if p in times else "-" for p in peers)
        ratio = f"{o.fastest.ratio:.2f}" if o.fastest else "-"
        own = (f"{o.f32.median_ms:.3g}", f"{o.int8.median_ms:.3g}")
        rows.append((o.name, o.origin, " ".join(o.inputs.values()), *own, *each, ratio, f"{o.gain:.2f}", f"{spread:.0%}"))
    columns = ("model", "from", "inputs", "octavo f32 ms", "octavo int8 ms", *(f"{p} ms" for p in peers))
    columns = (*columns, "int8 / fastest peer", "f32 / int8", "spread")
    gain = geomean([o.gain for o in results.outcomes])
    notes = () if math.isnan(gain) else (f"int8 is {gain:.2f} times as fast as f32 (geometric mean of {len(results.outcomes)} models)",)
    targets = tuple((t.required, t.found, WORDS[t.met]) for t in results.targets)
    return [
        Section("Median latency, one thread", columns, tuple(rows), notes, 3),
        Section("Targets", ("required", "found", ""), targets, text=3),
    ]


def as_markdown(results: Results) -> str:
    lines = ["# Speed of int8", "", "Written by `python -m octavo.benchmarks.int8`.", ""]
    lines += [f"- {line}" for line in (*results.setting, *(f"warning: {w}" for w in results.warnings))]
    return "\n".join([*lines, *markdown(sections(results)), ""])
