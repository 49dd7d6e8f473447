"""`python -m octavo.benchmarks.accuracy`: measure, print the table, write JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from ...compiler.cli.options import standard
from ...compiler.cli.terminal import Terminal, table
from ...compiler.progress import part
from ...ir.errors import OctavoError
from ...ir.files import replacing
from .measure import measure
from .results import TEXT, Results, as_json, as_markdown, cells, columns
from .tasks import TASKS

RESULTS = Path(__file__).parents[1] / "results"
GATE = 3  # exit code


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...", type=click.Choice(list(TASKS)))
@click.option(
    "--output", type=click.Path(path_type=Path), help=f"Folder of the results; default: {RESULTS.parent.name}/{RESULTS.name}, for all."
)
@standard
@click.pass_context
def main(ctx: click.Context, names: tuple[str, ...], output: Path | None) -> None:
    """Measure the accuracy of real models (those named, or all), in f32 and int8, beside other runtimes.

    Data and models are downloaded once. Exit code 3: Octavo's int8 is not what is required.
    """
    terminal = ctx.ensure_object(Terminal)
    folder = output or (None if names else RESULTS)
    outcomes, failures = [], {}
    with terminal.progress("accuracy"):
        wanted = names or tuple(TASKS)
        for k, name in enumerate(wanted):
            try:
                with part(name, k, len(wanted)):
                    outcomes.append(measure(TASKS[name]))
            except OctavoError as e:
                failures[name] = str(e)
    if not outcomes:
        terminal.fail("OctavoError", "; ".join(dict.fromkeys(failures.values())))
        raise SystemExit(1)
    results = Results.of(outcomes, failures)
    terminal.emit(as_json(results), lambda out: _show(out, results))
    for note in results.notes:
        terminal.note(note)
    if folder is not None:
        _write(results, folder)
        terminal.note(f"written to {folder / 'accuracy'}.json and .md")
    if not results.passed:
        raise SystemExit(GATE)


def _write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {".json": json.dumps(as_json(results), indent=1) + "\n", ".md": as_markdown(results)}.items():
        with replacing(folder / f"accuracy{name}") as temporary:
            temporary.write_text(text)


def _show(out: Console, results: Results) -> None:
    for line in results.setting:
        out.print(line, highlight=False, markup=False)
    out.print()
    rows = table(*columns(), text=TEXT)
    for row in results.rows:
        rows.add_row(*map(escape, cells(row)))
    out.print(rows)


if __name__ == "__main__":
    main()
