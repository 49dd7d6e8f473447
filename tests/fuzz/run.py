"""Seeds in, reports out: generate, check in a child process, shrink what fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from octavo.ir.graph import Graph
from octavo.ir.text import to_text

from .differential import LEVELS, STAGES, Failure, check, check_quantized
from .generate import Case, Feeds, generate
from .isolate import Crash, each
from .quantized import generate_quantized
from .shrink import shrink


@dataclass(frozen=True)
class Kind:
    """What is generated (seed, nodes -> case), how a case is checked (graph, feeds, stages), and the stages that this has by default."""

    generate: Callable[[int, int], Case]
    check: Callable[[Graph, Sequence[Feeds], Sequence[str]], Failure | None]
    stages: tuple[str, ...]


ANY = Kind(generate, check, STAGES)
QUANTIZED = Kind(generate_quantized, check_quantized, ("reference", "text", "pass", *LEVELS))
SHOWN = 64  # elements of an input that a report writes out


@dataclass(frozen=True)
class Finding:
    """A seed that failed, and the smallest case found for it."""

    seed: int
    failure: Failure
    smallest: Case | None = None

    def __str__(self) -> str:
        head = f"seed {self.seed}, {self.failure.stage}: {self.failure.message}\n"
        if self.smallest is None:
            return head
        feeds = "\n".join(f"{name} = {_array(a)}" for f in self.smallest.feeds for name, a in f.items())
        return f"{head}{to_text(self.smallest.graph)}{feeds}\n"


def _array(a: np.ndarray) -> str:
    return repr(a) if a.size <= SHOWN else f"{a.dtype}{list(a.shape)}, from the seed"


def findings(
    seeds: Sequence[int], *, nodes: int = 12, stages: Sequence[str] = (), shrinking: bool = True, kind: Kind = ANY
) -> Iterator[Finding | None]:
    """For each seed its finding, or None where all is well.  stages: those of the kind unless some are given."""
    stages = stages or kind.stages

    def work(seed: int) -> Failure | None:
        try:
            case = kind.generate(seed, nodes)
        except Exception:  # the reference of an op that fails is a finding too
            return Failure("generate", traceback.format_exc())
        return kind.check(case.graph, case.feeds, stages)

    for done in each(work, seeds):
        failure = _failure(done.result)
        if failure is None:
            yield None
            continue
        if failure.kind == "generate":
            yield Finding(done.item, failure)
            continue
        case = kind.generate(done.item, nodes)
        again = failure.kind if not isinstance(done.result, Crash) else _crashing(case, stages, kind)
        if shrinking and again:
            case = shrink(case, lambda c, stage=again: _fails(c, stage, kind))
            failure = _isolated(case, again, kind) or failure
        yield Finding(done.item, failure, case)


def _failure(result: Failure | Crash | None) -> Failure | None:
    return Failure("native", result.reason) if isinstance(result, Crash) else result


def _crashing(case: Case, stages: Sequence[str], kind: Kind) -> str:
    """The first stage that ends the process, or ""."""
    return next((stage for stage in stages if _isolated(case, stage, kind)), "")


def _isolated(case: Case, stage: str, kind: Kind) -> Failure | None:
    (done,) = each(lambda c: kind.check(c.graph, c.feeds, (stage,)), [case])
    if isinstance(done.result, Crash):
        return Failure(stage, done.result.reason)
    return done.result


def _fails(case: Case, stage: str, kind: Kind) -> bool:
    failure = _isolated(case, stage, kind)
    return failure is not None and failure.kind == stage
