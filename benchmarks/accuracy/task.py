"""What a task is: calibration inputs, and measures of what a model answers on other inputs.

A task is one file beside this one, and one entry of `tasks.TASKS`. All its data are made from fixed seeds or come from pinned packages.

>>> Requirement(0.005, better="lower").met(0.004, f32=0.0)
True
>>> Requirement(0.001, better="higher", than_f32=True).met(0.992, f32=0.9936)
False
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..feeds import Feeds

SAMPLES = 200  # the most calibration inputs that a model gets
SLACK = 1e-9  # by which a figure may miss its limit: 0.9936 - 0.001 is not 0.9926 in binary

Outputs = Sequence[np.ndarray]
Run = Callable[[Feeds], Outputs]
Runs = Mapping[str, Run]  # by name of the model


@dataclass(frozen=True)
class Requirement:
    """What int8 must reach: `limit`, or with `than_f32` to be worse than f32 by no more than that."""

    limit: float
    better: Literal["higher", "lower"]
    than_f32: bool = False

    def met(self, value: float, f32: float) -> bool:
        if self.better == "lower":
            return value <= self.limit + (f32 if self.than_f32 else 0.0) + SLACK
        return value >= (f32 - self.limit if self.than_f32 else self.limit) - SLACK

    def __str__(self) -> str:
        if self.than_f32:
            return f"f32 {'+' if self.better == 'lower' else '-'} {self.limit:.2g}"
        return f"{'<=' if self.better == 'lower' else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Measure:
    """One figure: what the models answer on the test inputs, and the score of those answers given the answers of f32."""

    name: str
    metric: str
    answer: Callable[[Runs], Any]
    score: Callable[[Any, Any], float]
    requirement: Requirement | None = None


@dataclass(frozen=True)
class Data:
    """Calibration inputs by model, and the measures, whose inputs are others."""

    calibration: Mapping[str, Sequence[Feeds]]
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Task:
    """`load` fetches and makes the data; it gets the f32 models, for a model whose inputs are the outputs of another."""

    name: str
    models: tuple[str, ...]
    about: str
    load: Callable[[Runs], Data]
    transformer: bool = False


def outputs(model: str, feeds: Sequence[Feeds], index: int = 0) -> Callable[[Runs], list[np.ndarray]]:
    """An `answer` for a single model: its output number `index` on each of the inputs."""
    return lambda runs: [np.asarray(runs[model](one)[index]) for one in feeds]
