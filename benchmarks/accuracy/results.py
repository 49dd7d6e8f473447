"""The outcomes as one table and as data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ... import __version__
from ...compiler.machine import Machine, describe_machine
from .contenders import CONTENDERS, OCTAVO_INT8
from .measure import Outcome, Row
from .task import SAMPLES

PEERS = ("onnxruntime", "openvino", "nncf")
TEXT = 4  # columns of the table that are words
WORDS = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class Results:
    """All that a run found out. `failures`: tasks that could not be measured at all, and why."""

    date: str
    machine: Machine
    versions: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    failures: dict[str, str]

    @staticmethod
    def of(outcomes: Sequence[Outcome], failures: dict[str, str]) -> Results:
        """The results of now and here."""
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        return Results(date, describe_machine(), (f"octavo {__version__}", *_installed()), tuple(outcomes), failures)

    @property
    def rows(self) -> list[Row]:
        return [row for outcome in self.outcomes for row in outcome.rows]

    @property
    def passed(self) -> bool:
        """Everything was measured, and Octavo's int8 is what is required wherever something is."""
        return not self.failures and all(row.met(OCTAVO_INT8) for row in self.rows if row.requirement is not None)

    @property
    def setting(self) -> tuple[str, ...]:
        """Lines that say what was measured and how."""
        return (
            f"{self.date}, {self.machine!s}",
            f"{', '.join(self.versions)}",
            f"post-training quantization with default settings, on the same calibration inputs for all, at most {SAMPLES} for a model",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What has no figure, and why."""
        lost = [f"{task} was not measured: {reason}" for task, reason in self.failures.items()]
        return (*lost, *(f"{o.task}: {name}: {reason}" for o in self.outcomes for name, reason in o.failures.items()))


def _installed() -> list[str]:
    found = []
    for package in PEERS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def columns() -> tuple[str, ...]:
    return ("task", "test", "figure", "required of int8", "met", *(c.name for c in CONTENDERS))


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    required = str(row.requirement) if row.requirement else "-"
    figures = (f"{row.figures[c.name]:.4f}" if c.name in row.figures else "-" for c in CONTENDERS)
    return (row.task, row.name, row.metric, required, WORDS[row.met(OCTAVO_INT8)], *figures)


def as_json(results: Results) -> dict[str, Any]:
    tasks = [
        {
            "task": o.task,
            "about": o.about,
            "calibration_inputs": o.samples,
            "measures": [
                {
                    "test": row.name,
                    "figure": row.metric,
                    "required": str(row.requirement) if row.requirement else None,
                    "met": row.met(OCTAVO_INT8),
                    "figures": row.figures,
                }
                for row in o.rows
            ],
            "failures": o.failures,
        }
        for o in results.outcomes
    ]
    return {
        "date": results.date,
        "machine": str(results.machine),
        "versions": list(results.versions),
        "passed": results.passed,
        "tasks": tasks,
        "failures": results.failures,
    }


def as_markdown(results: Results) -> str:
    marks = ["---" if k < TEXT else "---:" for k in range(len(columns()))]
    lines = ["# Accuracy", "", "Written by `python -m octavo.benchmarks.accuracy`.", ""]
    lines += [f"- {line}" for line in results.setting]
    lines += ["", *("| " + " | ".join(row) + " |" for row in (columns(), marks, *map(cells, results.rows)))]
    lines += ["", "What the figures are of:", "", *(f"- {o.task}: {o.about}" for o in results.outcomes)]
    if results.notes:
        lines += ["", "Without a figure:", "", *(f"- {note}" for note in results.notes)]
    return "\n".join([*lines, ""])
