"""The command for the real models: fetch them, verify them, measure them.

python -m octavo.benchmarks.models                      fetch all, print where they are
python -m octavo.benchmarks.models --verify             compile each once, compare with onnxruntime at two sizes
python -m octavo.benchmarks.models --bench ppocrv4-rec  latency beside onnxruntime
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from ..compiler.bench import BenchReport, bench
from ..compiler.cli.options import standard
from ..compiler.cli.terminal import Terminal, table
from ..compiler.driver import compile
from ..ir.errors import OctavoError
from .agreement import WAYS, Agreement, agree_all
from .feeds import FEEDS, feeds
from .fetch import Resource, fetch, models

GATE = 3  # exit code


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--verify", is_flag=True, help="Compare with onnxruntime: in process, from an artifact, from C.")
@click.option("--bench", "measure", is_flag=True, help="Measure beside onnxruntime.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="For --bench.")
@standard
@click.pass_context
def main(ctx: click.Context, names: tuple[str, ...], verify: bool, measure: bool, threads: int) -> None:
    """Fetch real models (those named, or all that Octavo compiles) and print where they are; or verify or measure them."""
    terminal = ctx.ensure_object(Terminal)
    known = models()
    try:
        with terminal.progress("models"):
            files = fetch(names or [name for name, r in known.items() if not r.not_yet])
            wanted = [known[name] for name in files if name in FEEDS]
            rows = agree_all(wanted, files) if verify else []
            reports = [_bench(r, files[r.name], threads) for r in wanted] if measure else []
    except OctavoError as e:
        terminal.fail(type(e).__name__, str(e))
        raise SystemExit(1) from None
    if verify:
        data = {"models": [{**asdict(r), "ok": r.ok} for r in rows]}
        terminal.emit(data, lambda out: _show_agreement(out, rows))
        if not all(r.ok for r in rows):
            raise SystemExit(GATE)
    elif measure:
        terminal.emit({"models": [r.as_data() for r in reports]}, lambda out: _show_bench(out, reports))
    else:
        data = {name: {**asdict(known[name]), "path": str(path)} for name, path in files.items() if name in known}
        terminal.emit(data, lambda out: _show_files(out, [known[name] for name in data], files))


def _bench(resource: Resource, onnx: Path, threads: int) -> BenchReport:
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        artifact = Path(folder) / f"{resource.name}.octavo"
        compile(onnx, threads=threads).save(artifact)
        return bench(artifact, feeds(resource.name, 0), onnx=onnx, against=("onnxruntime",), threads=threads)


def _show_files(out: Console, listed: list[Resource], files: dict[str, Path]) -> None:
    rows = table("model", "task", "licence", "path", "kB", text=4)
    for r in listed:
        rows.add_row(r.name, r.task, r.licence, str(files[r.name]), str(r.kilobytes))
    out.print(rows)


def _show_agreement(out: Console, agreements: list[Agreement]) -> None:
    rows = table("", "model", "sizes", "compile s", *WAYS, "allowed", text=3)
    for r in agreements:
        errors = [f"{e:.1e}" for e in r.errors] + ["-"] * (len(WAYS) - len(r.errors))
        sizes = ", ".join(r.sizes).replace("[", r"\[")
        rows.add_row("ok" if r.ok else "[bold red]off[/]", r.name, sizes, f"{r.compile_s:.1f}", *errors, f"{r.tolerance:.0e}")
    out.print(rows)
    for r in agreements:
        if r.refused:
            out.print(f"{r.name}: {r.refused}", highlight=False, markup=False)
    out.print(f"{sum(r.ok for r in agreements)} of {len(agreements)} models agree with onnxruntime", highlight=False)


def _show_bench(out: Console, reports: list[BenchReport]) -> None:
    if reports:
        out.print(str(reports[0].machine), highlight=False, markup=False)
    rows = table("model", "inputs", "octavo ms", "onnxruntime ms", "octavo / onnxruntime", "spread", text=2)
    for report in reports:
        ours, theirs = report.results
        inputs = " ".join(report.inputs.values()).replace("[", r"\[")
        spread = max(ours.spread, theirs.spread)
        rows.add_row(report.model, inputs, f"{ours.median_ms:.3g}", f"{theirs.median_ms:.3g}", f"{theirs.ratio:.2f}", f"{spread:.0%}")
    out.print(rows)


if __name__ == "__main__":
    main()
