"""Work in a forked child, so that a crash of native code is a result and not the end.

One child does item after item; when it dies or hangs, the item at hand is reported and the next child goes on after it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
CHUNK = 100  # items for one child: bounds the native code that piles up in it


@dataclass(frozen=True)
class Crash:
    """The child died or hung on an item."""

    reason: str


@dataclass(frozen=True)
class Done(Generic[Item]):
    """An item with what came of it: what the work returned, or a `Crash`."""

    item: Item
    result: Any


def each(work: Callable[[Item], Any], items: Sequence[Item], seconds: float = 60) -> Iterator[Done[Item]]:
    """`work` on every item in order, in children.  Results must be picklable; an item may take so many seconds."""
    context = multiprocessing.get_context("fork")
    at = 0
    while at < len(items):
        here, there = context.Pipe(duplex=False)
        chunk = items[at : at + CHUNK]
        child = context.Process(target=_serve, args=(there, work, chunk), daemon=True)
        child.start()
        there.close()
        for item in chunk:
            at += 1
            outcome = _receive(here, child, seconds)
            yield Done(item, outcome)
            if isinstance(outcome, Crash):
                break
        child.join()


def _serve(out: Connection, work: Callable[[Item], Any], items: Sequence[Item]) -> None:
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a dying C runtime has to say; the parent reports the signal
    for item in items:
        try:
            out.send(work(item))
        except Exception:
            out.send(Crash(traceback.format_exc()))
    out.close()
    os._exit(0)  # a thread pool in the child must not delay its end


def _receive(here: Connection, child: multiprocessing.process.BaseProcess, seconds: float) -> Any:
    try:
        if here.poll(seconds):
            return here.recv()
    except EOFError:
        child.join()
        code = child.exitcode or 0
        return Crash(f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process ended with code {code}")
    child.kill()
    return Crash(f"no result after {seconds:g} s")
