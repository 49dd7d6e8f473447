"""`octavo debug`: what is wrong with a model?  `quant`: which layer loses the accuracy of an int8 model, and which is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ...ir.files import replacing
from ..data import read_function, read_samples
from ..debug_quant import QuantReport, debug_quant
from ..progress import report
from ..quant_page import COLUMNS, cells, gain, page, remarks, summary, title
from ..source import graph_of
from .options import EXISTING, dims_option, standard
from .quantizing import quantizing_options
from .terminal import Terminal, table


@click.group("debug")
def command() -> None:
    """Find what is wrong with a model.

    \b
    octavo debug quant model.onnx model.qprof --data samples/     which layer loses the accuracy in int8, which is slow?
    """


@command.command("quant")
@click.argument("model", type=EXISTING)
@click.argument("profile", type=EXISTING, metavar="MODEL.qprof")
@click.option(
    "--data", required=True, metavar="DIR|FILE.npz|MODULE:READER", help="Where the samples come from, as in `octavo calibrate`."
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples only.")
@click.option("--metric", metavar="MODULE:FUNCTION", help="Also show what a metric gains if a layer stays in f32; see above.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="Try --metric on the N layers that add most error only.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Time to measure each program for; 0 for no times."
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Also write the table as a page with a picture."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads, and cores to measure on.")
@quantizing_options
@dims_option
@standard
@click.pass_obj
def quant(
    terminal: Terminal,
    model: Path,
    profile: Path,
    data: str,
    samples: int | None,
    metric: str | None,
    top: int | None,
    seconds: float,
    html: Path | None,
    threads: int,
    dims: dict[str, int],
    quantizing: dict[str, Any],
) -> None:
    """Show which layers of a model lose accuracy in int8, and which are slow: a row for each, that which adds most error first.

    The model runs on the samples in f32, quantized as `octavo quantize` does it with the same options, and with each layer quantized
    alone. Take some samples that the profile was not made of. A layer is a convolution or matmul with the bias and activation after it.

    \b
    SQNR       signal over error of the layer's result in the int8 model, in dB: 40 is good, below 20 is bad
    error      the same as a share of squares: 20 dB are 1 %
    added      the error that this layer alone makes of exact operands: where the cause is
    inherited  the rest, made by layers before; below 0 where errors cancel
    clipped    elements of the layer's operand that are outside its range, by the profile: a method that clips cuts these off
    used       of the 256 levels, those within which 99.9 % of the operand's elements are: few, if some outliers make the range wide
    f32, int8  microseconds of the kernels that compute the layer, for the first sample
    gain       what the metric gains if this layer alone stays in f32 (--exclude)

    \b
    What helps?  low "used": --method percentile or mse, in a transformer --smooth 0.5
                 high "clipped": --method minmax, or more calibration samples
                 neither: --weights mse, or --exclude that layer

    --metric names a Python function, function(outputs, number) -> float: outputs is {output name: array} of one sample and number that
    sample's place in the data, from 0, by which the function finds its label. Higher is better; the mean over the samples counts. Each
    row costs a compilation and a run over all samples; --top limits them.

    \b
    octavo debug quant model.onnx model.qprof --data samples/
    octavo debug quant model.onnx model.qprof --data my_dataset:test --metric my_dataset:is_right --top 5
    octavo debug quant model.onnx model.qprof --data samples.npz --samples 50 --html report.html
    octavo debug quant model.onnx model.qprof --data samples.npz --method percentile --exclude '/head/*' --json
    """
    if top and not metric:
        raise click.UsageError("--top limits the layers that --metric is tried on; give --metric too")
    with terminal.progress(f"debug {model.name}"):
        graph = graph_of(model, dims or None)
        found = debug_quant(
            graph,
            profile,
            read_samples(data, graph.input_names, samples),
            metric=read_function(metric) if metric else None,
            top=top,
            seconds=seconds,
            threads=threads,
            **quantizing,
        )
        report("write")
        if html:
            with replacing(html) as temporary:
                temporary.write_text(page(found), encoding="utf-8")
    terminal.emit(found.as_data(), lambda out: _show(out, found, html))


def _show(out: Console, found: QuantReport, html: Path | None) -> None:
    with_gain = found.metric_int8 is not None
    rows = table("layer", "op", *COLUMNS, *(["gain"] if with_gain else []), text=2)
    for x in found.layers:
        rows.add_row(escape(title(x)), x.op, *cells(x), *([gain(x)] if with_gain else []))
    out.print(rows)
    for line in (*summary(found), *remarks(found), *([f"written: {html}"] if html else [])):
        out.print(line, highlight=False, markup=False)
