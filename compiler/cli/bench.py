"""`octavo bench`: is it fast?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.markup import escape

from ...ir.errors import OctavoError
from ...ir.files import replacing
from ..artifact import load
from ..bench import PEERS, BenchReport, bench
from ..driver import compile, compile_native
from ..machine import Machine
from ..profile import Profile, profile
from ..progress import report
from ..samples import random_feeds
from .options import EXISTING, dims_option, inputs_option, sizes_option, standard, target_option
from .terminal import Terminal, table

OPS_WIDTH = 44  # characters of a kernel's ops in the table; --json has them all


@click.command("bench")
@click.argument("model", type=EXISTING)
@click.option("--against", default="", metavar="NAME,NAME", help=f"Other runtimes to measure beside: {', '.join(PEERS)}.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads, and cores that each process is pinned to."
)
@click.option("--seconds", type=click.FloatRange(0.01), default=3.0, show_default=True, help="Running time for each runtime.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns that the runtimes take.")
@click.option("--realtime", is_flag=True, help="Run at real-time priority where permitted, before other work on these cores.")
@click.option("--profile", "wants_profile", is_flag=True, help="Time every kernel of an ONNX file instead, beside the machine's peaks.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Profile, and write the median run as a Chrome trace.")
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
    realtime: bool,
    wants_profile: bool,
    trace: Path | None,
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
    octavo bench model.onnx --against onnxruntime,openvino,torch --json
    octavo bench model.onnx --profile --trace trace.json
    """
    if wants_profile or trace:
        if against:
            raise click.UsageError("--profile and --trace look into Octavo alone; leave out --against")
        if model.is_dir():
            raise OctavoError(f"a profile compiles the model anew: give the ONNX file that {model.name} was made from")
        with terminal.progress("profile"):
            program = compile_native(model, target=target, dims=dims or None, progress=report)
            arrays = {**random_feeds(program.native.signature.inputs, sizes), **feeds}
            found = profile(program, arrays, target=target, threads=threads, seconds=seconds, rounds=rounds, realtime=realtime)
        if trace:
            with replacing(trace) as temporary:
                temporary.write_text(json.dumps(found.as_trace()))
        _warn(terminal, found.machine)
        terminal.emit(found.as_data(), lambda out: _show_profile(out, found))
        return
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
            realtime=realtime,
            target=target,
        )
    _warn(terminal, result.machine)
    for name, reason in result.failures.items():
        terminal.note(f"warning: {name} is left out: {reason}")
    terminal.emit(result.as_data(), lambda out: _show(out, result))


def _warn(terminal: Terminal, machine: Machine) -> None:
    for warning in machine.warnings:
        terminal.note(f"warning: {warning}")


def _show_profile(out: Console, p: Profile) -> None:
    """Kernels by time, the most expensive first."""
    inputs = ", ".join(f"{name} {shape}" for name, shape in p.inputs.items())
    lines = [
        f"{p.model} on {inputs}, {p.threads} thread{'s' if p.threads > 1 else ''}, {p.target}, {p.scheduling}",
        str(p.machine),
        f"measured peak {p.peak_gflops:.0f} GFLOP/s of f32 multiply-adds, {p.peak_gops:.0f} GOP/s of those of bytes, "
        f"{p.bandwidth_gbytes:.1f} GB/s from memory",
        f"{p.runs} runs, median {p.run_us:.1f} us, of which kernels {p.kernel_us:.1f} us",
    ]
    for line in lines:
        out.print(line, highlight=False, markup=False)
    rows = table("#", "template", "from", "ops", "calls", "us", "share", "GFLOP/s", "of peak", "GB/s", "of memory", "bound", text=4)
    for k in sorted(p.kernels, key=lambda k: -k.us):
        ops = " ".join(k.ops)
        rows.add_row(
            str(k.number),
            k.template,
            escape(k.loc),
            ops if len(ops) <= OPS_WIDTH else ops[: OPS_WIDTH - 3] + "...",
            str(k.calls),
            f"{k.us:.1f}",
            f"{k.share:.1%}",
            f"{k.gflops:.1f}",
            f"{k.flop_share:.0%}",
            f"{k.gbytes:.1f}",
            f"{k.byte_share:.0%}",
            k.bound,
        )
    out.print(rows)


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
