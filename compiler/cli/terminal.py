"""Where a command writes: data to stdout as text or JSON, progress and warnings to stderr.

Colours and bars appear on terminals only and respect NO_COLOR; elsewhere progress is a plain line now and then, or with
`--json` one JSON object a line.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..progress import Step, listening, report

__all__ = ["Terminal", "report", "table"]

PATIENCE = 2.0  # seconds of silence that need no explanation, and the least time between two plain lines


@dataclass
class Terminal:
    """The two streams of one command, and how it was asked to use them."""

    json: bool = False
    verbose: bool = False

    def emit(self, data: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """Print the result: `data` as JSON if that was asked for, else what `show` prints."""
        if self.json:
            print(json.dumps(_plain(data), indent=2, allow_nan=False))
        else:
            show(_console(sys.stdout))

    def note(self, text: str) -> None:
        """A remark for the person at the terminal."""
        _console(sys.stderr).print(escape(text), highlight=False)

    def fail(self, kind: str, message: str) -> None:
        """Report an error: a line on stderr, and with `--json` an object on stdout."""
        if self.json:
            print(json.dumps({"error": {"kind": kind, "message": message}}, indent=2))
        _console(sys.stderr).print(f"[bold red]error:[/] {escape(message)}", highlight=False)

    @contextmanager
    def progress(self, title: str) -> Iterator[None]:
        """Show the steps reported inside the block, once it has taken longer than `PATIENCE`."""
        if self.json or not sys.stderr.isatty():
            with listening(_lines(title, self.json)):
                yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=_console(sys.stderr), transient=True, auto_refresh=True, disable=False) as bars:
            task = bars.add_task(title, total=None, visible=False)
            appear = threading.Timer(PATIENCE, bars.update, (task,), {"visible": True})
            appear.daemon = True
            appear.start()

            def show(step: Step) -> None:
                bars.update(task, description=f"{title}: {step.stage}", completed=step.done, total=step.total or None)

            try:
                with listening(show):
                    yield
            finally:
                appear.cancel()


def table(*columns: str, title: str | None = None, text: int = 1) -> Table:
    """A table whose first `text` columns are words and whose others are numbers."""
    result = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for k, name in enumerate(columns):
        result.add_column(name, justify="left" if k < text else "right", overflow="fold")
    return result


def _plain(data: Any) -> Any:
    """The data with infinities and NaN as text, which JSON has no numbers for."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def _console(stream: Any) -> Console:
    """A console on the stream as it is now; a pipe gets long lines whole."""
    return Console(file=stream, soft_wrap=True) if stream.isatty() else Console(file=stream, width=200, soft_wrap=True)


def _lines(title: str, as_json: bool) -> Callable[[Step], None]:
    """A listener that prints a plain line (or a JSON object) at most every `PATIENCE` seconds, with the time left."""
    started = last = time.monotonic()
    since, first = started, Step("", 0, 0)  # when and where the count that now runs began

    def show(step: Step) -> None:
        nonlocal last, since, first
        now = time.monotonic()
        if step.total != first.total or step.done < first.done:
            since, first = now, step
        if now - last < PATIENCE:
            return
        last = now
        steps = step.done - first.done
        left = (now - since) / steps * (step.total - step.done) if steps and step.total else None
        if as_json:
            line = {"progress": title, "stage": step.stage, "done": step.done, "total": step.total, "left_s": left}
            print(json.dumps(line), file=sys.stderr, flush=True)
        else:
            count = f" {step.done}/{step.total}" if step.total else ""
            remaining = f", {left:.0f} s left" if left is not None else ""
            print(f"{title}: {step.stage}{count}{remaining}", file=sys.stderr, flush=True)

    return show
