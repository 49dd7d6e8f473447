"""`octavo inspect`: what is in a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...ir.text import to_text
from ..artifact import load, read_manifest
from ..inspect import KernelRow, Memory, Summary, as_lines, graph_after, kernel_rows, memory, pass_names, summarize
from ..source import graph_of
from .options import EXISTING, dims_option, sizes_option, standard
from .terminal import Terminal, table


@click.command("inspect")
@click.argument("model", type=EXISTING)
@click.option("--after", type=click.Choice(pass_names()), metavar="PASS", help=f"Print the graph after: {', '.join(pass_names())}.")
@click.option("--kernels", "show_kernels", is_flag=True, help="List the kernels that the graph becomes.")
@click.option("--memory", "show_memory", is_flag=True, help="Show the plan of the working memory, value by value.")
@sizes_option
@dims_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    after: str | None,
    show_kernels: bool,
    show_memory: bool,
    sizes: dict[str, int],
    dims: dict[str, int],
) -> None:
    """Show what is in an ONNX file or an artifact; without options, a summary.

    \b
    octavo inspect model.onnx
    octavo inspect model.onnx --after fuse
    octavo inspect model.onnx --kernels --memory --size batch=8
    octavo inspect model.octavo --json
    """
    if model.is_dir():
        if after or show_kernels or show_memory:
            raise click.UsageError("--after, --kernels and --memory need the ONNX file; an artifact holds machine code")
        _inspect_artifact(terminal, model)
        return
    with terminal.progress("inspect"):
        graph = graph_of(model, dims or None)
        if after:
            text = to_text(graph_after(graph, after))
            terminal.emit({"model": model.name, "after": after, "graph": text}, lambda out: click.echo(text, nl=False))
            return
        fused = graph_after(graph, pass_names()[-1])
        imported, rows = summarize(graph), kernel_rows(fused)
        planned = memory(fused, sizes)
    data: dict[str, Any] = {"model": model.name, **asdict(imported), "kernel_count": len(rows)}
    data["memory"] = asdict(planned) if show_memory else {k: v for k, v in asdict(planned).items() if k != "rows"}
    if show_kernels:
        data["kernels"] = [asdict(r) for r in rows]

    def show(out: Console) -> None:
        _show_summary(out, imported, rows, planned)
        if show_kernels:
            _show_kernels(out, rows)
        if show_memory:
            _show_memory(out, planned)

    terminal.emit(data, show)


def _show_summary(out: Console, imported: Summary, rows: list[KernelRow], planned: Memory) -> None:
    def line(title: str, text: str) -> None:
        out.print(f"{title:9} {text}", highlight=False, markup=False)

    line("model", imported.name)
    for title, specs in (("input", imported.inputs), ("output", imported.outputs)):
        for name, type in specs.items():
            line(title, f"{name}: {type}")
    line("weights", f"{imported.constants:,} values, {imported.constant_bytes / 1e6:.2f} MB")
    line("nodes", f"{imported.nodes}: {as_lines(imported.ops)}")
    line("kernels", str(len(rows)))
    sizes = ", ".join(f"{name}={size}" for name, size in planned.sizes.items())
    at = f" at {sizes}" if sizes else ""
    line("memory", f"{planned.arena / 1e6:.2f} MB{at} (most in use at once: {planned.largest_live / 1e6:.2f} MB)")


def _show_kernels(out: Console, rows: list[KernelRow]) -> None:
    listing = table("kernel", "anchor", "ops", "reads", "writes", "where", text=6)
    for r in rows:
        types = (" ".join(t).replace("[", r"\[") for t in (r.inputs, r.outputs))
        listing.add_row(str(r.number), r.anchor, as_lines(r.ops), *types, r.loc)
    out.print(listing)


def _show_memory(out: Console, planned: Memory) -> None:
    listing = table("steps", "bytes as a formula", "offset", "bytes", text=2)
    for r in planned.rows:
        listing.add_row(f"{r.first} to {r.last}", r.formula, f"{r.offset:,}", f"{r.nbytes:,}")
    out.print(listing)


def _inspect_artifact(terminal: Terminal, artifact: Path) -> None:
    model = load(artifact)
    files = {f.name: f.stat().st_size for f in sorted(artifact.iterdir()) if f.is_file()}
    data = {
        "model": model.name,
        "inputs": {s.name: s.text for s in model.inputs},
        "outputs": {s.name: s.text for s in model.outputs},
        "files": files,
        "manifest": read_manifest(artifact),
    }

    def show(out: Console) -> None:
        out.print(f"{'model':9} {model.name}", highlight=False, markup=False)
        for title in ("inputs", "outputs"):
            for name, text in data[title].items():
                out.print(f"{title[:-1]:9} {name}: {text}", highlight=False, markup=False)
        for name, size in files.items():
            out.print(f"{'file':9} {name}: {size:,} bytes", highlight=False, markup=False)

    terminal.emit(data, show)
