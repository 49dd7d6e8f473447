"""Seeds in, reports out: generate, check in a child process, shrink what fails."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from octavo.ir.text import to_text

from .differential import STAGES, Failure, check
from .generate import Case, generate
from .isolate import Crash, each
from .shrink import shrink

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
    seeds: Sequence[int], *, nodes: int = 12, stages: Sequence[str] = STAGES, shrinking: bool = True
) -> Iterator[Finding | None]:
    """For each seed its finding, or None where all is well."""

    def work(seed: int) -> Failure | None:
        try:
            case = generate(seed, nodes)
        except Exception:  # the reference of an op that fails is a finding too
            return Failure("generate", traceback.format_exc())
        return check(case.graph, case.feeds, stages)

    for done in each(work, seeds):
        failure = _failure(done.result)
        if failure is None:
            yield None
            continue
        if failure.kind == "generate":
            yield Finding(done.item, failure)
            continue
        case = generate(done.item, nodes)
        if shrinking:
            case = shrink(case, lambda c, kind=failure.kind: _fails(c, kind))
            failure = _isolated(case, failure.kind) or failure
        yield Finding(done.item, failure, case)


def _failure(result: Failure | Crash | None) -> Failure | None:
    return Failure("native", result.reason) if isinstance(result, Crash) else result


def _isolated(case: Case, kind: str) -> Failure | None:
    (done,) = each(lambda c: check(c.graph, c.feeds, (kind,)), [case])
    return _failure(done.result)


def _fails(case: Case, kind: str) -> bool:
    failure = _isolated(case, kind)
    return failure is not None and failure.kind == kind
