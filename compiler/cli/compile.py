"""`octavo compile`: an ONNX file becomes an artifact, or one of the forms on the way to it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ...ir.files import replacing
from ..artifact import save
from ..driver import compile_program, tune_model
from ..emit import FORMS, emit
from ..progress import report
from ..quantize import quantize
from ..tune import Row, gain
from .options import EXISTING, Duration, dims_option, sizes_option, standard, target_option
from .quantizing import speed_options
from .terminal import Terminal, table

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
@click.option(
    "--tune",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="First measure schedules, for 60s or 2m; Ctrl-C ends that early. Later compiles, of other models too, use what was found.",
)
@click.option(
    "--int8", "profile", type=EXISTING, metavar="MODEL.qprof", help="Quantize first, by this profile that `octavo calibrate` wrote."
)
@speed_options
@sizes_option
@dims_option
@target_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    output: Path,
    form: str,
    profile: Path | None,
    seconds: float | None,
    time: bool | None,
    require_speedup: float | None,
    sizes: dict[str, int],
    dims: dict[str, int],
    target: str,
) -> None:
    """Compile an ONNX file ahead of time.

    An artifact is a folder with model.so, model.h, weights.bin, graph.txt and manifest.json; several targets become several
    variants in one model.so, and the processor decides which runs.

    With --int8 each layer is timed in f32 and int8 and stays in f32 where int8 does not make the model faster, if the target is native;
    --no-time, and any other target, has every layer quantized. --require-speedup exits with 3 and writes nothing if int8 is slower.

    \b
    octavo compile model.onnx -o model.octavo
    octavo compile model.onnx -o model.octavo --dim batch=1
    octavo compile model.onnx -o model.octavo --tune 60s --size batch=1
    octavo compile model.onnx -o model.octavo --target x86-64-v3,x86-64-v4
    octavo compile model.onnx -o model.octavo --int8 model.qprof
    octavo compile model.onnx -o model.octavo --int8 model.qprof --require-speedup 1.5
    octavo compile model.onnx -o model.txt --emit graph
    octavo compile model.onnx -o model.s --emit asm
    octavo compile model.onnx -o model.ptx --emit ptx --target sm_90a
    """
    if sizes and seconds is None:
        raise click.UsageError("--size says for which sizes to measure schedules; add --tune, or fix a dimension with --dim")
    if profile is None and (time is not None or require_speedup is not None):
        raise click.UsageError("--time and --require-speedup compare int8 with f32; add --int8 and a profile")
    if target != "native" and (time or require_speedup is not None):
        raise click.UsageError(f"layers of {target} cannot be timed here; compile for native, or without --time and --require-speedup")
    start = perf_counter()
    tuned: dict[str, list[Row]] = {}
    source: Any = model
    with terminal.progress(f"compile {model.name}"):
        if profile is not None:
            report("quantize")
            measured = time is not False and target == "native"
            source = quantize(model, profile, dims=dims or None, time=measured, require_speedup=require_speedup)
            if time is None and target != "native":
                terminal.note(f"{target} is not this machine: every layer is quantized, also where f32 may be faster")
            dims = {}  # they are fixed now
        if seconds is not None:
            tuned = tune_model(
                source, seconds, target=tuple(target.split(",")), dims=dims or None, sizes=sizes or None, progress=report
            )
        if form == ARTIFACT:
            save(compile_program(source, target=tuple(target.split(",")), dims=dims or None, progress=report), output)
        else:
            data = emit(source, form, target=target, dims=dims or None)
            with replacing(output) as temporary:
                temporary.write_bytes(data)
    taken = perf_counter() - start
    files = sorted(f for f in output.iterdir() if f.is_file()) if output.is_dir() else [output]
    lengths = {f.name: f.stat().st_size for f in files}
    facts: dict[str, Any] = {"model": model.name, "output": str(output), "target": target, "seconds": taken, "files": lengths}
    if seconds is not None:
        facts["tuning"] = {name: [row.as_data() for row in rows] for name, rows in tuned.items()}

    def show(out: Console) -> None:
        out.print(f"{output}: {sum(lengths.values()) / 1e6:.2f} MB in {taken:.1f} s", highlight=False, markup=False)
        for name, size in lengths.items():
            out.print(f"  {name:16} {size:>12,} bytes", highlight=False, markup=False)
        for name, rows in tuned.items():
            _show_tuned(out, name, rows)

    terminal.emit(facts, show)


def _show_tuned(out: Console, target: str, rows: list[Row]) -> None:
    """What tuning found for a target, and what it gained."""
    if not rows:
        out.print(f"{target}: there was nothing left to tune, or no time for it", highlight=False, markup=False)
        return
    shown = table("kernel", "first", "best", "calls", "first us", "best us", "gain", title=f"schedules for {target}", text=3)
    for r in rows:
        times = (f"{r.first_us:.1f}", f"{r.best_us:.1f}", f"{r.ratio:.2f}")
        shown.add_row(escape(r.kernel), r.first, r.best, str(r.calls), *times)
    out.print(shown)
    out.print(f"the first guesses take {gain(rows):.3f} times as long as the best", highlight=False, markup=False)
