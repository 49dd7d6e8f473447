"""`octavo bench`: is it fast?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from ..artifact import load
from ..bench import PEERS, BenchReport, bench
from ..driver import compile
from ..progress import report
from ..samples import random_feeds
from .options import EXISTING, dims_option, inputs_option, sizes_option, standard, target_option
from .terminal import Terminal, table


@click.command("bench")
@click.argument("model", type=EXISTING)
@click.option("--against", default="", metavar="NAME,NAME", help=f"Other runtimes to measure beside: {', '.join(PEERS)}.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads, and cores that each process is pinned to."
)
@click.option("--seconds", type=click.FloatRange(0.01), default=3.0, show_default=True, help="Running time for each runtime.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns that the runtimes take.")
@inputs_option
@sizes_option
@dims_option
@target_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    against: str,
    threads: int,
    seconds: float,
    rounds: int,
    feeds: dict[str, np.ndarray],
    sizes: dict[str, int],
    dims: dict[str, int],
    target: str,
) -> None:
    """Measure an ONNX file or an artifact: load, first and steady latency, throughput, memory.

    Each runtime is a process of its own, pinned to the same cores; they take turns, so that a changing clock hits all alike.

    \b
    octavo bench model.octavo --size batch=8
    octavo bench model.onnx --against onnxruntime --threads 2
    octavo bench model.onnx --against onnxruntime,openvino --json
    """
    peers = [name.strip() for name in against.split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder, terminal.progress("bench"):
        is_artifact = model.is_dir()
        if is_artifact:
            artifact, compiled = model, load(model)
        else:
            artifact = Path(folder) / f"{model.stem}.octavo"
            compiled = compile(model, target=target, threads=threads, dims=dims or None, progress=report)
            compiled.save(artifact)
        arrays = {**random_feeds(compiled.inputs, sizes), **feeds}
        result = bench(
            artifact,
            arrays,
            onnx=None if is_artifact else model,
            against=peers,
            threads=threads,
            seconds=seconds,
            rounds=rounds,
        )
    for warning in result.machine.warnings:
        terminal.note(f"warning: {warning}")
    for name, reason in result.failures.items():
        terminal.note(f"warning: {name} is left out: {reason}")
    terminal.emit(result.as_data(), lambda out: _show(out, result))


def _show(out: Console, result: BenchReport) -> None:
    inputs = ", ".join(f"{name} {shape}" for name, shape in result.inputs.items())
    out.print(f"{result.model} on {inputs}, {result.threads} thread{'s' if result.threads > 1 else ''}", highlight=False, markup=False)
    out.print(str(result.machine), highlight=False, markup=False)
    columns = ("load", "first", "p50", "mean", "min", "p90", "p99", "spread", "runs/s", "peak MB", "octavo/this")
    rows = table("runtime, ms", *columns)
    for r in result.results:
        times = (r.load_ms, r.first_ms, r.median_ms, r.mean_ms, r.min_ms, r.p90_ms, r.p99_ms)
        rows.add_row(
            f"{r.runtime} {r.version}",
            *(f"{t:.3g}" if t < 1000 else f"{t:.0f}" for t in times),
            f"{r.spread:.0%}",
            f"{r.per_second:.1f}",
            f"{r.peak_rss_mb:.0f}",
            f"{r.ratio:.2f}",
        )
    out.print(rows)
