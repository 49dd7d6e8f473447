"""`octavo verify`: are the results right?"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console

from ..verify import AGAINST, VerifyReport, verify
from .options import EXISTING, dims_option, inputs_option, sizes_option, standard, target_option, threads_option
from .terminal import Terminal, table

GATE = 3  # exit code


@click.command("verify")
@click.argument("model", type=EXISTING)
@click.option("--against", type=click.Choice(AGAINST), default="reference", show_default=True, help="What to compare with.")
@click.option("--per-node", is_flag=True, help="Compare every intermediate value, not only the outputs.")
@click.option("--tolerance", type=float, help="Largest error over largest value; default 1e-3, for f16 and bf16 2e-2.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs.")
@inputs_option
@sizes_option
@dims_option
@target_option
@threads_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    against: str,
    per_node: bool,
    tolerance: float | None,
    seed: int,
    feeds: dict[str, np.ndarray],
    sizes: dict[str, int],
    dims: dict[str, int],
    target: str,
    threads: int | None,
) -> None:
    """Compile an ONNX file, run it and compare the results with a reference.

    Inputs that are not given are random: floats in [-1, 1), integers 0 or 1. Exits with 3 if a value is off.

    \b
    octavo verify model.onnx
    octavo verify model.onnx --against onnxruntime --size batch=4 --size width=320
    octavo verify model.onnx --per-node --input x=x.npy
    """
    with terminal.progress("verify"):
        result = verify(
            model,
            against=against,
            per_node=per_node,
            dims=dims,
            sizes=sizes,
            feeds=feeds,
            tolerance=tolerance,
            target=target,
            threads=threads,
            seed=seed,
        )
    terminal.emit(result.as_data(), lambda out: _show(out, result))
    if not result.ok:
        raise SystemExit(GATE)


def _show(out: Console, result: VerifyReport) -> None:
    rows = table("", "value", "op", "where", "type", "error", "allowed", text=5)
    for r in result.rows:
        mark = "ok" if r.ok else "[bold red]off[/]"
        rows.add_row(mark, r.name, r.op, r.loc, r.type.replace("[", r"\["), f"{r.error:.1e}", f"{r.tolerance:.0e}")
    out.print(rows)
    off = [r for r in result.rows if not r.ok]
    inputs = ", ".join(f"{name} {shape}" for name, shape in result.inputs.items())
    verdict = f"{len(off)} of {len(result.rows)} values are off, first {off[0].name} ({off[0].op})" if off else "all values agree"
    out.print(f"{result.model} against {result.against} on {inputs}: {verdict}", highlight=False, markup=False)
