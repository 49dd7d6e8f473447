"""`python -m octavo.benchmarks.int8`: measure, print the tables, write JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...compiler.cli.options import standard
from ...compiler.cli.terminal import Terminal
from ...compiler.progress import part
from ...ir.errors import OctavoError
from ...ir.files import replacing
from ..tables import show
from .cases import Outcome, chosen, measure
from .results import Results, as_json, as_markdown, sections

RESULTS = Path(__file__).parents[1] / "results"
GATE = 3  # exit code


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Measure this model alone, and write nothing; may be repeated.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Running time for each runtime and model.")
@click.option(
    "--output", type=click.Path(path_type=Path), help=f"Folder of the results; default: {RESULTS.parent.name}/{RESULTS.name}."
)
@standard
@click.pass_context
def main(ctx: click.Context, only: tuple[str, ...], seconds: float, output: Path | None) -> None:
    """Measure int8 on the zoo and the real models beside f32 and the int8 of other runtimes, with one thread.

    The peers' quantized models are kept in the cache folder. Exit code 3: a target is missed.
    """
    terminal = ctx.ensure_object(Terminal)
    outcomes: list[Outcome] = []
    failures: dict[str, str] = {}
    try:
        wanted = chosen(only)
        with terminal.progress("int8"):
            for k, case in enumerate(wanted):
                try:
                    with part(case.name, k, len(wanted)):
                        outcomes.append(measure(case, seconds))
                except OctavoError as e:
                    failures[case.name] = str(e)
        results = Results.of(outcomes, failures, seconds)
        folder = output or (None if only else RESULTS)
        if folder is not None:
            _write(results, folder)
    except OctavoError as e:
        terminal.fail(type(e).__name__, str(e))
        raise SystemExit(1) from None
    for warning in results.warnings:
        terminal.note(f"warning: {warning}")
    terminal.emit(as_json(results), lambda out: show(out, results.setting, sections(results)))
    if folder is not None:
        terminal.note(f"written to {folder / 'int8'}.json and .md")
    if not outcomes:
        raise SystemExit(1)
    if any(target.met is False for target in results.targets):
        raise SystemExit(GATE)


def _write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {".json": json.dumps(as_json(results), indent=1) + "\n", ".md": as_markdown(results)}.items():
        with replacing(folder / f"int8{suffix}") as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
