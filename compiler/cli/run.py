"""`octavo run`: one inference on arrays from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import octavo  # its face imports the compiler only if something has to be compiled
from rich.console import Console

from ...ir.files import replacing
from ..progress import report
from .options import EXISTING, dims_option, inputs_option, standard, threads_option
from .terminal import Terminal, table

SHOWN = 6  # leading values of an output in the table


@click.command("run")
@click.argument("model", type=EXISTING)
@inputs_option
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="OUT.npz", help="Where to write the outputs.")
@dims_option
@threads_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    feeds: dict[str, np.ndarray],
    output: Path | None,
    dims: dict[str, int],
    threads: int | None,
) -> None:
    """Run an artifact, or an ONNX file compiled for the occasion, once.

    \b
    octavo run model.octavo --input x=x.npy --output y.npz
    octavo run model.onnx --input feeds.npz --json
    """
    with terminal.progress("run"):
        loaded = (
            octavo.load(model, threads=threads)
            if model.is_dir()
            else octavo.compile(model, dims=dims or None, threads=threads, progress=report)
        )
        results = loaded.run(None, feeds)
        named = dict(zip((spec.name for spec in loaded.outputs), results, strict=True))
        if output:
            with replacing(output) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **named)
    data = {"outputs": {name: _describe(array) for name, array in named.items()}, "written": str(output) if output else None}

    def show(out: Console) -> None:
        rows = table("output", "dtype", "shape", "min", "max", "mean", "first values", text=3)
        for name, d in data["outputs"].items():
            stats = (f"{d[key]:.5g}" if d[key] is not None else "" for key in ("min", "max", "mean"))
            rows.add_row(name, d["dtype"], str(d["shape"]).replace("[", r"\["), *stats, " ".join(f"{v:.5g}" for v in d["first"]))
        out.print(rows)

    terminal.emit(data, show)


def _describe(array: np.ndarray) -> dict[str, Any]:
    """Dtype, shape, range and the leading values of an output, in a form that JSON can hold."""
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    real = wide.real
    finite = real[np.isfinite(real)]
    some = finite.size > 0
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": float(finite.min()) if some else None,
        "max": float(finite.max()) if some else None,
        "mean": float(finite.mean()) if some else None,
        "not_finite": int(real.size - finite.size),
        "first": [float(v) for v in real.flat[:SHOWN]],
    }
