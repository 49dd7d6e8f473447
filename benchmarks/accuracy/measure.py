"""Measure one task: each contender prepares its models from the same calibration inputs and answers the same test inputs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

from ...compiler.progress import part, report
from ..fetch import fetch
from ..peers import reason
from .contenders import CONTENDERS, REFERENCE, Contender
from .task import Measure, Requirement, Task


@dataclass(frozen=True)
class Row:
    """One measure: the figure of each contender that has one, by name; `Outcome.failures` explains the others."""

    task: str
    name: str
    metric: str
    requirement: Requirement | None
    figures: dict[str, float]

    def met(self, contender: str) -> bool | None:
        """Whether the contender's figure is what is required; None where nothing is required or it has none."""
        if self.requirement is None or contender not in self.figures:
            return None
        return self.requirement.met(self.figures[contender], self.figures[REFERENCE])


@dataclass(frozen=True)
class Outcome:
    """A task's rows; what went wrong, by contender; how many calibration inputs there were at most for one model."""

    task: str
    about: str
    samples: int
    rows: tuple[Row, ...]
    failures: dict[str, str]


def measure(task: Task, contenders: Sequence[Contender] = CONTENDERS) -> Outcome:
    """Raises OctavoError where data cannot be fetched or Octavo cannot run the model in f32, which all others are compared with."""
    report("data")
    files = fetch(task.models)
    reference = {name: CONTENDERS[0].prepare(files[name], [], task.transformer) for name in task.models}
    data = task.load(reference)
    truth = [one.answer(reference) for one in data.measures]
    figures = {REFERENCE: _scores(data.measures, truth, truth)}
    failures: dict[str, str] = {}
    for k, contender in enumerate(contenders):
        if contender.name == REFERENCE or (contender.dynamic and not task.transformer):
            continue
        try:
            with (
                part(contender.name, k, len(contenders)),
                redirect_stdout(io.StringIO()),
            ):  # peers print bars
                runs = {name: contender.prepare(files[name], data.calibration[name], task.transformer) for name in task.models}
                figures[contender.name] = _scores(data.measures, [one.answer(runs) for one in data.measures], truth)
        except Exception as e:  # whatever a contender raises is its answer
            failures[contender.name] = reason(e)
    rows = tuple(
        Row(task.name, one.name, one.metric, one.requirement, {name: scores[k] for name, scores in figures.items()})
        for k, one in enumerate(data.measures)
    )
    return Outcome(task.name, task.about, max(map(len, data.calibration.values())), rows, failures)


def _scores(measures: Sequence[Measure], answers: Sequence[object], truth: Sequence[object]) -> list[float]:
    return [one.score(answer, best) for one, answer, best in zip(measures, answers, truth, strict=True)]
