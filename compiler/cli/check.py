"""`octavo check`: every node that cannot be compiled, in one run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from ...frontend.onnx import check_model
from .options import EXISTING, standard
from .terminal import Terminal, table


@click.command("check")
@click.argument("model", type=EXISTING)
@standard
@click.pass_obj
def command(terminal: Terminal, model: Path) -> None:
    """List every node of an ONNX file that Octavo cannot compile, with the reason and a way round.

    Exits with 1 if there are any.

    \b
    octavo check model.onnx
    octavo check model.onnx --json
    """
    with terminal.progress("check"):
        missing = check_model(model)

    def show(out: Console) -> None:
        if not missing:
            out.print(f"{model.name}: every node can be compiled", highlight=False, markup=False)
            return
        rows = table("node", "op", "reason", "what to do", text=4)
        for m in missing:
            rows.add_row(m.node, m.op, m.reason, m.hint)
        out.print(rows)
        out.print(f"{len(missing)} node{'s' if len(missing) > 1 else ''} of {model.name} cannot be compiled", highlight=False)

    terminal.emit({"model": model.name, "unsupported": [asdict(m) for m in missing]}, show)
    if missing:
        raise SystemExit(1)
