"""Progress of long work: code that takes long reports its steps, and whoever wants to show them listens.

Reporting costs a look-up when nobody listens, so that the driver reports always and knows nothing of terminals.

>>> with listening(print):
...     report("kernels", 1, 2)
Step(stage='kernels', done=1, total=2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`done` of `total` pieces of a stage; `total` is 0 while nobody can tell."""

    stage: str
    done: int
    total: int


PARTS = 100  # of a piece of work, in which its own progress is counted

Listener = Callable[[Step], None]
_listener: ContextVar[Listener | None] = ContextVar("octavo_progress", default=None)


def report(stage: str, done: int = 0, total: int = 0) -> None:
    """Tell the listener of this context, if any, how far a stage is."""
    listener = _listener.get()
    if listener is not None:
        listener(Step(stage, done, total))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the reports made inside the block to `listener`; reports of other threads do not arrive here."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def part(name: str, k: int, total: int) -> Iterator[None]:
    """Report what happens inside as progress of piece `k` of `total`: one count to the end, from which the time left follows."""
    outer = copy_context()

    def tell(step: Step) -> None:
        done = PARTS * k + (PARTS * step.done // step.total if step.total else 0)
        outer.run(report, f"{name}: {step.stage}", done, PARTS * total)

    with listening(tell):
        report("start")
        yield
