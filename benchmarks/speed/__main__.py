"""`python -m octavo.benchmarks.speed`: measure, print the tables, write JSON, Markdown and SVG."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...compiler.bench import PEERS
from ...compiler.cli.options import standard, target_option
from ...compiler.cli.terminal import Terminal
from ...compiler.machine import available_cores
from ...compiler.progress import part
from ...ir.errors import OctavoError
from ...ir.files import replacing
from ..tables import show
from .cases import Outcome, chosen, installed_peers, measure
from .chart import as_svg, sweep_as_svg
from .floors import measure_floors
from .limits import measure_limits
from .results import Results, as_json, as_markdown, sections, stem
from .sweep import measure_sweep

RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Measure this model alone, and write nothing; may be repeated.")
@click.option("--against", default="", metavar="NAME,NAME", help=f"Peers: {', '.join(PEERS)}; default: those installed but iree.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Running time for each runtime and model.")
@click.option(
    "--output", type=click.Path(path_type=Path), help=f"Folder of the results; default: {RESULTS.parent.name}/{RESULTS.name}."
)
@target_option
@standard
@click.pass_context
def main(ctx: click.Context, only: tuple[str, ...], against: str, seconds: float, output: Path | None, target: str) -> None:
    """Measure the zoo and the real models beside other runtimes, with one thread and with two, and Octavo's own floor figures."""
    terminal = ctx.ensure_object(Terminal)
    peers = tuple(name.strip() for name in against.split(",") if name.strip()) or installed_peers()
    threads = (1, 2) if len(available_cores()) > 1 else (1,)
    try:
        names = chosen(only)
        with terminal.progress("speed"):
            outcomes: list[Outcome] = []
            failures: dict[str, str] = {}
            alone = {} if only else {"floors": measure_floors, "limits": measure_limits, "sweep": measure_sweep}
            total = len(names) + len(alone)
            for k, name in enumerate(names):
                with part(name, k, total):
                    try:
                        outcomes += measure(name, peers, threads, seconds, target)
                    except OctavoError as e:
                        failures[name] = str(e)
            found = {}
            for k, (name, figures) in enumerate(alone.items(), len(names)):
                with part(name, k, total):
                    found[name] = figures(target)
        results = Results.of(outcomes, failures, seconds, target, **found)
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
        terminal.note(f"written to {folder / stem(results)}.json, .md and .svg")
    if not outcomes:
        raise SystemExit(1)


def _write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".json": json.dumps(as_json(results), indent=1) + "\n", ".md": as_markdown(results), ".svg": as_svg(results)}
    if results.sweep:
        texts["-sizes.svg"] = sweep_as_svg(results.sweep)
    for name, text in texts.items():
        with replacing(folder / (stem(results) + name)) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
