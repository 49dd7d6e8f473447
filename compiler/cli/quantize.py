"""`octavo quantize`: a model with 8-bit weights and activations, as ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from rich.console import Console

from ...frontend.onnx import export_model
from ...ir.files import replacing
from ...ir.graph import Graph
from ...passes.quantize.profile import Profile
from ...passes.quantize.weight_only import BLOCK, BLOCKS, DTYPES, is_in_blocks
from ..data import read_function, read_samples
from ..precision import Precisions, choose_precision
from ..quantize import quantize
from ..source import graph_of
from .options import EXISTING, dims_option, standard
from .quantizing import described, quantizing_options, speed_options
from .terminal import Terminal


@click.command("quantize")
@click.argument("model", type=EXISTING)
@click.argument("profile", type=EXISTING, metavar="[MODEL.qprof]", required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="OUT.onnx", help="The model.")
@quantizing_options
@speed_options
@click.option(
    "--max-drop", type=click.FloatRange(0), metavar="D", help="Leave in f32 what --metric needs to drop by at most D; in its unit."
)
@click.option("--metric", metavar="MODULE:FUNCTION", help="What is right, as in `octavo debug quant`; see above.")
@click.option("--data", metavar="DIR|FILE.npz|MODULE:READER", help="Samples for --metric and to time on, as in `octavo calibrate`.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples of --data only.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads, and cores to measure on.")
@click.option(
    "--weight-only", type=click.Choice(DTYPES), help="Quantize large weights of matmuls with few rows, without a profile; see above."
)
@click.option(
    "--block", type=click.Choice([str(b) for b in BLOCKS]), help=f"Rows that share a scale, for --weight-only int4. [default: {BLOCK}]"
)
@dims_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    model: Path,
    profile: Path | None,
    output: Path,
    time: bool | None,
    require_speedup: float | None,
    max_drop: float | None,
    metric: str | None,
    data: str | None,
    samples: int | None,
    threads: int,
    weight_only: str | None,
    block: str | None,
    dims: dict[str, int],
    quantizing: dict[str, Any],
) -> None:
    """Quantize a model by a profile of it, which `octavo calibrate` writes.

    The result is an ONNX file with QuantizeLinear and DequantizeLinear (QDQ), which Octavo compiles to integer arithmetic and other
    runtimes read too. `octavo compile --int8` does both steps at once.

    Each layer is timed in f32 and int8 on this machine and stays in f32 where int8 does not make the model faster, so that the result
    is never slower than f32 here; which layers these are is in the file, and they are the same wherever it runs. --no-time quantizes
    all layers, and gives the same file on every machine.

    --max-drop keeps a budget: the function of --metric gets (outputs, number) of each sample and returns a number, of which higher is
    better. Layers stay in f32, those that the metric gains most by for the time that they cost first, until its mean over the samples
    is at most D below that in f32. A metric that counts percent takes --max-drop 0.5 for half a percent, one of shares 0.005. Take
    samples that the profile was not made of. It costs a compilation and a run over all samples for each layer.

    --weight-only needs no profile and leaves all values but weights in f32. It pays where a matmul waits for its weights, which is
    where they are many and rows are few: f32 took 3 to 4 times as long as int8 and 4 to 5 times as long as int4 with one row, 1.3 to 2
    times with 16, and no longer with 32. So those matmuls are quantized that have weights of 256 KiB or more (in f32) and can have 16
    rows or fewer: a batch or length of any size can. int8 has a scale for each column, int4 one for each block of rows.

    Exits with 3, and writes nothing, if --max-drop or --require-speedup cannot be reached.

    \b
    octavo quantize model.onnx model.qprof -o model.int8.onnx
    octavo quantize model.onnx model.qprof -o model.int8.onnx --data my_dataset:test --metric my_dataset:is_right --max-drop 0.005
    octavo quantize model.onnx model.qprof -o model.int8.onnx --require-speedup 1.5
    octavo quantize model.onnx model.qprof -o model.int8.onnx --no-time
    octavo quantize model.onnx model.qprof -o model.int8.onnx --method percentile --percent 99.999
    octavo quantize model.onnx -o model.int8.onnx --weight-only int8
    octavo quantize model.onnx -o model.int4.onnx --weight-only int4 --block 32
    octavo quantize model.onnx model.qprof -o model.int8.onnx --weights mse --exclude '/head/*' --exclude matmul
    """
    if (weight_only is None) == (profile is None):
        raise click.UsageError("give the profile that `octavo calibrate` wrote, or --weight-only")
    if weight_only and (time or require_speedup is not None or max_drop is not None):
        raise click.UsageError("--weight-only quantizes all large weights; --time, --require-speedup and --max-drop need a profile")
    if block is not None and weight_only != "int4":
        raise click.UsageError("--block is an option of --weight-only int4")
    if (max_drop is None) != (metric is None) or (metric and not data):
        raise click.UsageError("a budget takes --max-drop, --metric and --data")
    start = perf_counter()
    chosen: Precisions | None = None
    with terminal.progress(f"quantize {model.name}"):
        if profile is None:
            graph = quantize(
                model,
                weight_only=weight_only,
                block=int(block) if block else None,
                dims=dims or None,
                weights=quantizing.get("weights"),
                exclude=quantizing["exclude"],
            )
        else:
            source = graph_of(model, dims or None)
            chosen = choose_precision(
                source,
                Profile.load(profile),
                time=time is not False,
                max_drop=max_drop,
                metric=read_function(metric) if metric else None,
                data=read_samples(data, source.input_names, samples) if data else None,
                require_speedup=require_speedup,
                threads=threads,
                **quantizing,
            )
            graph = chosen.graph
        exported = export_model(graph).SerializeToString()
        with replacing(output) as temporary:
            temporary.write_bytes(exported)
    quantized, floats = _contractions(graph)
    facts: dict[str, Any] = {
        "output": str(output),
        "bytes": len(exported),
        "bytes_before": model.stat().st_size,
        "seconds": perf_counter() - start,
        "quantized": dict(quantized),
        "floats": dict(floats),
        "precision": chosen.as_data() if chosen else None,
    }

    def show(out: Console) -> None:
        size = f"{len(exported) / 1e6:.2f} MB (from {facts['bytes_before'] / 1e6:.2f} MB)"
        out.print(f"{output}: {size} in {facts['seconds']:.1f} s", highlight=False, markup=False)
        bits = 4 if weight_only == "int4" else 8
        out.print(f"  in {bits} bits: {_counted(quantized)}; in floats: {_counted(floats)}", highlight=False, markup=False)
        for line in _said(chosen) if chosen else ():
            out.print(f"  {line}", highlight=False, markup=False)

    terminal.emit(facts, show)


def _said(chosen: Precisions) -> Iterator[str]:
    """What was chosen and measured, in lines."""
    yield from map(described, chosen.kept)
    if chosen.metric is not None:
        yield f"metric: f32 {chosen.metric_f32:.6g}, int8 {chosen.metric_int8:.6g}, as written {chosen.metric:.6g}"
    if chosen.speedup is not None:
        yield f"time here: f32 {chosen.f32_ms:.3f} ms, as written {chosen.ms:.3f} ms: {chosen.speedup:.2f} times as fast"


def _contractions(graph: Graph) -> tuple[Counter[str], Counter[str]]:
    """How many contractions have quantized weights, by op, and how many floats."""
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for node in graph.nodes:
        if node.op in ("conv", "matmul"):
            w = node.inputs[1]
            counts[w.node.op != "dequantize" and not is_in_blocks(w)][node.op] += 1
    return counts


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {op}" for op, n in sorted(counts.items())) or "none"
