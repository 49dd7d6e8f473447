"""`octavo compile`: an ONNX file becomes an artifact, or one of the forms on the way to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..driver import compile
from ..emit import FORMS, emit
from ..files import replacing
from ..progress import report
from .options import EXISTING, dims_option, standard, target_option
from .terminal import Terminal

ARTIFACT = "so"


@click.command("compile")
@click.argument("model", type=EXISTING)
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The artifact's folder, or the file.")
@click.option(
    "--emit",
    "form",
    type=click.Choice((ARTIFACT, *FORMS)),
    default=ARTIFACT,
    show_default=True,
    help="so: the artifact with its shared object; otherwise one file with the graph, loops or code.",
)
@dims_option
@target_option
@standard
@click.pass_obj
def command(terminal: Terminal, model: Path, output: Path, form: str, dims: dict[str, int], target: str) -> None:
    """Compile an ONNX file ahead of time.

    An artifact is a folder with model.so, model.h, weights.bin, graph.txt and manifest.json; several targets become several
    variants in one model.so, and the processor decides which runs.

    \b
    octavo compile model.onnx -o model.octavo
    octavo compile model.onnx -o model.octavo --dim batch=1
    octavo compile model.onnx -o model.octavo --target x86-64-v3,x86-64-v4
    octavo compile model.onnx -o model.txt --emit graph
    octavo compile model.onnx -o model.s --emit asm
    octavo compile model.onnx -o model.ptx --emit ptx --target sm_90a
    """
    start = time.perf_counter()
    with terminal.progress(f"compile {model.name}"):
        if form == ARTIFACT:
            compile(model, target=tuple(target.split(",")), dims=dims or None, progress=report).save(output)
        else:
            data = emit(model, form, target=target, dims=dims or None)
            with replacing(output) as temporary:
                temporary.write_bytes(data)
    seconds = time.perf_counter() - start
    files = sorted(f for f in output.iterdir() if f.is_file()) if output.is_dir() else [output]
    sizes = {f.name: f.stat().st_size for f in files}
    facts: dict[str, Any] = {"model": model.name, "output": str(output), "target": target, "seconds": seconds, "files": sizes}

    def show(out: Console) -> None:
        out.print(f"{output}: {sum(sizes.values()) / 1e6:.2f} MB in {seconds:.1f} s", highlight=False, markup=False)
        for name, size in sizes.items():
            out.print(f"  {name:16} {size:>12,} bytes", highlight=False, markup=False)

    terminal.emit(facts, show)
