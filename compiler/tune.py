"""`--tune`: schedules by measurement.  The contractions of a model, those with most work first, each with its real epilogue at sizes of
the model: candidate schedules run in turns on one core, the slow ones drop out, and the best goes into the record (`backends/tune.py`),
where every later compile finds it.

Tuning stops when its time is over or at Ctrl-C, and keeps what it has found.  What the record has is not measured again, so that the
next run goes on where this one stopped.  No schedule changes a bit of any result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ..backends.cpu.race import Race
from ..backends.lower.contraction import contraction_of
from ..backends.lower.kernel import body_symbols
from ..backends.lower.legalize import legalize
from ..backends.lower.lower import template
from ..backends.lower.schedule import Schedule, candidates, signature_of, with_schedule
from ..backends.program import Kernel, plan
from ..backends.target import Target, runnable
from ..backends.tune import Tuned, recorded, remember
from ..backends.work import work
from ..ir import config
from ..ir.dims import evaluate_dim
from ..ir.errors import OctavoError, TargetError
from ..ir.graph import Graph
from ..passes.fuse import fuse
from .machine import pinned
from .progress import report
from .samples import OTHER_AXES, choose_sizes

MOST = 10  # candidates of a kernel: more took long to compile and gained nothing that shows
LEAST_ROUNDS, ROUNDS = 3, 9  # before a median means something, and that the last candidates run
KEPT = 1.25  # times the best so far, above which a candidate drops out
SAMPLE = 1e-3  # seconds of calls that are timed together
MARGIN = 1.01  # by which another schedule must beat the first guess


@dataclass(frozen=True)
class Row:
    """One kernel that was tuned: `calls` of it in the model, and what was measured of one."""

    kernel: str
    loc: str
    calls: int
    first: str
    first_us: float
    best: str
    best_us: float
    ratio: float

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Contest:
    """A kernel to be tuned: the program's step, how often it runs, which operands are constants, and its sizes in this run."""

    signature: str
    step: Kernel
    calls: int
    constants: tuple[bool, ...]
    sizes: tuple[int, ...]
    flops: int


class Timer(Protocol):
    """Times one candidate: see `Race`."""

    def seconds(self, number: int, least: float) -> float: ...


MakeTimer = Callable[[Contest, Sequence[Schedule], Target], Timer]


def tune(
    optimized: Graph,
    target: Target,
    seconds: float,
    sizes: Mapping[str, int] | None = None,
    *,
    tell: Callable[[str, int, int], None] = report,
    clock: Callable[[], float] = time.monotonic,
    timer: MakeTimer | None = None,
) -> list[Row]:
    """Measure schedules for the contractions of a graph for some seconds, and keep the best of each in the record.

    sizes: of the graph's symbols while measuring (default as in generated inputs); tell(stage, done, total) hears of every round, in
    seconds.  The rows are those of this run.

    Raises TargetError where the target does not run here, OctavoError where nothing can be kept.
    """
    if target.name not in {t.name for t in runnable()}:
        raise TargetError(
            f"schedules for {target.name!r} can only be measured on a processor that runs it; compile without tuning here"
        )
    if config.tune_file() is None:
        raise OctavoError("there is nowhere to keep what is measured: OCTAVO_CACHE turns the cache off; name a file in OCTAVO_TUNE")
    end = clock() + seconds
    known = recorded(target)
    todo = [c for c in contests(optimized, target, sizes) if c.signature not in known]
    rows: list[Row] = []
    try:
        for k, contest in enumerate(todo):
            if clock() >= end:
                break
            best: Tuned | None = None
            try:
                with closing(compete(contest, target, timer or race)) as rounds:  # which ends that only one core is used
                    for best in rounds:
                        saved = 1 - 1 / gain([*rows, row_of(contest, best)])
                        stage = f"tune kernel {k + 1} of {len(todo)}, {saved:.1%} less time in them so far"
                        tell(stage, int(seconds - max(0.0, end - clock())), int(seconds))
                        if clock() >= end:
                            break
            finally:
                if best is not None:
                    remember(target, {contest.signature: best})
                    rows.append(row_of(contest, best))
    except KeyboardInterrupt:
        tell("interrupted: what was found is kept", 0, 0)
    return rows


def gain(rows: Sequence[Row]) -> float:
    """The time of the first guesses over that of the best, for all calls of these kernels."""
    best = sum(r.best_us * r.calls for r in rows)
    return sum(r.first_us * r.calls for r in rows) / best if best else 1.0


def row_of(contest: Contest, t: Tuned) -> Row:
    """What a report says of a contest."""
    return Row(contest.signature, contest.step.loc, contest.calls, str(t.first), t.first_us, str(t.best), t.us, t.ratio)


def contests(optimized: Graph, target: Target, sizes: Mapping[str, int] | None = None) -> list[Contest]:
    """The different contractions of a graph, the most work first; kernels that differ in their epilogues alone share one."""
    program = plan(fuse(legalize(optimized, target), attention=False))  # each of its products has a schedule of its own
    known = choose_sizes((v.shape for v in optimized.inputs), sizes)
    found: dict[str, Contest] = {}
    for step in program.kernels():
        if template(step.body) not in ("contract", "winograd"):
            continue
        text = signature_of(step.body)
        env = {**dict.fromkeys(body_symbols(step.body), OTHER_AXES), **known}  # what only a run finds out is a guess
        constants = tuple(ref.place.region == "const" for ref in step.inputs)
        new = Contest(text, step, 0, constants, tuple(evaluate_dim(d, env) for d in step.sizes), work(step.body, env).flops)
        before = found.get(text, new)
        found[text] = replace(before, calls=before.calls + 1)
    return sorted(found.values(), key=lambda c: -c.flops * c.calls)


def race(contest: Contest, schedules: Sequence[Schedule], target: Target) -> Timer:
    """The kernel by each schedule, compiled."""
    bodies = [with_schedule(contest.step.code, s, target) for s in schedules]
    return Race(bodies, contest.constants, contest.sizes, target)


def compete(contest: Contest, target: Target, timer: MakeTimer, most: int = MOST) -> Generator[Tuned, None, None]:
    """The best of the candidates after each round of measurements from `LEAST_ROUNDS` on.

    Times are compared with that of the first guess in the same round, because clocks change between rounds.
    """
    schedules = candidates(contraction_of(contest.step.body), target)[:most]
    timed = timer(contest, schedules, target)
    with pinned(1):
        racing = list(range(len(schedules)))
        ratios: dict[int, list[float]] = {number: [] for number in racing}
        first: list[float] = []
        for number in racing:
            timed.seconds(number, 0.0)  # once to warm up
        for done in range(1, ROUNDS + 1):
            first.append(timed.seconds(0, SAMPLE))
            for number in racing:
                ratios[number].append(timed.seconds(number, SAMPLE) / first[-1] if number else 1.0)
            middle = {number: statistics.median(ratios[number]) for number in racing}
            best = min(racing, key=lambda n: middle[n])
            if done < LEAST_ROUNDS:
                continue
            racing = [n for n in racing if n == 0 or middle[n] <= KEPT * middle[best]]
            if middle[best] * MARGIN > 1:
                best = 0
            us = statistics.median(first) * 1e6
            yield Tuned(schedules[best], us * middle[best], schedules[0], us)
