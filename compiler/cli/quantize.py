"""`octavo quantize`: a model with 8-bit weights and activations, as ONNX."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...frontend.onnx import export_model
from ...ir.files import replacing
from ...ir.graph import Graph
from ..quantize import quantize
from .options import EXISTING, dims_option, standard
from .quantizing import quantizing_options
from .terminal import Terminal


@click.command("quantize")
@click.argument("model", type=EXISTING)
@click.argument("profile", type=EXISTING, metavar="[MODEL.qprof]", required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="OUT.onnx", help="The model.")
@quantizing_options
@click.option("--weights-only", is_flag=True, help="Make bytes of large weights of matmuls, without a profile, and of nothing else.")
@dims_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    profile: Path | None,
    output: Path,
    weights_only: bool,
    dims: dict[str, int],
    quantizing: dict[str, Any],
) -> None:
    """Quantize a model by a profile of it, which `octavo calibrate` writes.

    The result is an ONNX file with QuantizeLinear and DequantizeLinear (QDQ), which Octavo compiles to integer arithmetic and other
    runtimes read too. `octavo compile --int8` does both steps at once.

    \b
    octavo quantize model.onnx model.qprof -o model.int8.onnx
    octavo quantize model.onnx model.qprof -o model.int8.onnx --method percentile --percent 99.999
    octavo quantize model.onnx -o model.int8.onnx --weights-only
    octavo quantize model.onnx model.qprof -o model.int8.onnx --weights mse --exclude '/head/*' --exclude matmul
    """
    if weights_only == (profile is not None):
        raise click.UsageError("give the profile that `octavo calibrate` wrote, or --weights-only")
    start = time.perf_counter()
    with terminal.progress(f"quantize {model.name}"):
        graph = quantize(model, profile, dims=dims or None, **quantizing)
        data = export_model(graph).SerializeToString()
        with replacing(output) as temporary:
            temporary.write_bytes(data)
    quantized, floats = _contractions(graph)
    facts: dict[str, Any] = {
        "output": str(output),
        "bytes": len(data),
        "bytes_before": model.stat().st_size,
        "seconds": time.perf_counter() - start,
        "quantized": dict(quantized),
        "floats": dict(floats),
    }

    def show(out: Console) -> None:
        size = f"{len(data) / 1e6:.2f} MB (from {facts['bytes_before'] / 1e6:.2f} MB)"
        out.print(f"{output}: {size} in {facts['seconds']:.1f} s", highlight=False, markup=False)
        out.print(f"  in 8 bits: {_counted(quantized)}; in floats: {_counted(floats)}", highlight=False, markup=False)

    terminal.emit(facts, show)


def _contractions(graph: Graph) -> tuple[Counter[str], Counter[str]]:
    """How many contractions have quantized weights, by op, and how many floats."""
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for node in graph.nodes:
        if node.op in ("conv", "matmul"):
            counts[node.inputs[1].node.op != "dequantize"][node.op] += 1
    return counts


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {op}" for op, n in sorted(counts.items())) or "none"
