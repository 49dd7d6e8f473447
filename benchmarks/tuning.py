"""`python -m octavo.benchmarks.tuning`: how far the first guess of a schedule is from the best that can be measured.

Every contraction of a model of the zoo runs by each of its candidates, in turns on one core.  A model's ratio is the time of the first
guesses over the time of the best, summed over all calls.  The record of tuned schedules is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ..backends.target import find_target
from ..compiler.cli.options import standard, target_option
from ..compiler.cli.terminal import Terminal, table
from ..compiler.machine import Machine, describe_machine
from ..compiler.progress import report
from ..compiler.tune import MOST, Row, compete, contests, gain, race, row_of
from ..ir.errors import OctavoError
from ..ir.files import replacing
from ..passes.pipeline import optimize
from . import zoo

RESULT = Path(__file__).parent / "results" / "tuning.md"
LIMIT = 1.15  # of a model's ratio: the first guess is good enough to do without tuning
COLUMNS = ("model", "kernels", "us, first guesses", "us, best", "ratio", "worst kernel")


@dataclass(frozen=True)
class Outcome:
    """A model, and every contraction in it."""

    model: str
    rows: tuple[Row, ...]

    @property
    def ratio(self) -> float:
        """The time of the first guesses over that of the best."""
        return gain(self.rows)

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it, as `COLUMNS`."""
        first, best = sum(r.first_us * r.calls for r in self.rows), sum(r.best_us * r.calls for r in self.rows)
        worst = max(self.rows, key=lambda r: r.ratio)
        return (
            self.model,
            str(len(self.rows)),
            f"{first:.0f}",
            f"{best:.0f}",
            f"{self.ratio:.3f}",
            f"{worst.ratio:.2f}: {worst.kernel}, {worst.first} instead of {worst.best}",
        )


def measure(name: str, target: str = "native", most: int = MOST) -> Outcome:
    """Tune every contraction of a model of the zoo, `most` candidates of each.  Raises OctavoError for an unknown name."""
    level = find_target(target)
    found = contests(optimize(zoo.build(name)), level)
    rows = []
    for k, contest in enumerate(found):
        report(name, k, len(found))
        *_, best = compete(contest, level, race, most)
        rows.append(row_of(contest, best))
    return Outcome(name, tuple(rows))


def as_markdown(outcomes: Sequence[Outcome], machine: Machine, target: str, most: int) -> str:
    """The result as a page."""
    lines = [
        "# First guesses beside tuned schedules",
        "",
        f"The ratio is the time of all contractions of a model by the first guess over that by the best of {most} candidates, for one",
        f"core; {LIMIT} is the limit. Written by `python -m octavo.benchmarks.tuning`.",
        "",
        f"- {machine}",
        f"- target {target}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---:|---:|---:|---:|---|",
        *(f"| {' | '.join(o.cells())} |" for o in outcomes),
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="This model alone, and write nothing; may be repeated.")
@click.option(
    "--candidates", type=click.IntRange(2), default=MOST, show_default=True, help="Schedules of each kernel, best guess first."
)
@target_option
@standard
@click.pass_context
def main(ctx: click.Context, only: tuple[str, ...], candidates: int, target: str) -> None:
    """Compare the first guess of a schedule with the best that can be measured, for the contractions of the zoo."""
    terminal = ctx.ensure_object(Terminal)
    try:
        with terminal.progress("tuning"):
            outcomes = [o for name in only or zoo.MODELS if (o := measure(name, target, candidates)).rows]
    except OctavoError as e:
        terminal.fail(type(e).__name__, str(e))
        raise SystemExit(1) from None
    machine = describe_machine()
    if not only:
        with replacing(RESULT) as temporary:
            temporary.write_text(as_markdown(outcomes, machine, find_target(target).name, candidates))
    data: dict[str, Any] = {o.model: {"ratio": o.ratio, "kernels": [asdict(r) for r in o.rows]} for o in outcomes}

    def show(out: Console) -> None:
        rows = table(*COLUMNS, title="first guesses beside tuned schedules")
        for o in outcomes:
            rows.add_row(*map(escape, o.cells()))
        out.print(rows)

    for warning in machine.warnings:
        terminal.note(f"warning: {warning}")
    terminal.emit(data, show)
    if any(o.ratio > LIMIT for o in outcomes):
        raise SystemExit(3)


if __name__ == "__main__":
    main()
