"""`octavo calibrate`: what are a model's values on its data?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from ...passes.quantize.profile import Profile
from ..calibrate import calibrate
from ..data import read_samples
from ..progress import report
from ..source import graph_of
from .options import EXISTING, dims_option, standard, threads_option
from .terminal import Terminal, table

SHOWN, NOTABLE = 8, 1.5  # values in the table, and how much wider than most of its elements the range of one must be


@click.command("calibrate")
@click.argument("sources", nargs=-1, required=True, type=EXISTING, metavar="MODEL.onnx")
@click.option("--data", metavar="DIR|FILE.npz|MODULE:READER", help="Where the samples come from; see above.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="OUT.qprof", help="The profile."
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples only.")
@click.option("--merge", is_flag=True, help="Join profiles of one model, given instead of it, into one of all their samples.")
@dims_option
@threads_option
@standard
@click.pass_obj
def command(
    terminal: Terminal,
    sources: tuple[Path, ...],
    data: str | None,
    output: Path,
    samples: int | None,
    merge: bool,
    dims: dict[str, int],
    threads: int | None,
) -> None:
    """Run a model on samples of its data and write a profile: the range and histogram of every value that could be stored in 8 bits.

    Some hundred samples like those that the model will meet are enough. The profile is text, a value on each line; the ranges
    that `octavo quantize` chooses follow from it without the data. It belongs to this very model, with the same --dim.

    \b
    --data takes
      a folder       a sample in each .npz file (arrays by the names of inputs), or in each .npy file if there is one input
      an .npz file   arrays by the names of inputs, with the samples along an additional first axis: x[k] is input x of sample k
      module:reader  an iterable of {input name: array}, or a function that returns one, from a Python module

    \b
    octavo calibrate model.onnx --data samples/ -o model.qprof
    octavo calibrate model.onnx --data samples.npz -o model.qprof --samples 200
    octavo calibrate model.onnx --data my_dataset:batches -o model.qprof
    octavo calibrate --merge monday.qprof tuesday.qprof -o model.qprof
    """
    if merge == (data is not None) or (not merge and len(sources) != 1) or (merge and (samples or dims or threads)):
        raise click.UsageError("give one model and --data, or --merge and the profiles to join, each with -o")
    start = time.perf_counter()
    with terminal.progress("calibrate"):
        if data is None:
            profile = Profile.load(sources[0])
            for source in sources[1:]:
                profile = profile.merge(Profile.load(source))
        else:
            report("import")
            graph = graph_of(sources[0], dims or None)
            profile = calibrate(graph, read_samples(data, graph.input_names, samples), threads=threads, progress=report)
        profile.save(output)
    taken = time.perf_counter() - start
    facts: dict[str, Any] = {
        "output": str(output),
        "graph": profile.graph,
        "samples": profile.samples,
        "seconds": taken,
        "values": {name: {"count": s.count, "low": s.low, "high": s.high} for name, s in profile.values.items()},
    }
    terminal.emit(facts, lambda out: _show(out, output, profile, taken))


def _show(out: Console, output: Path, profile: Profile, taken: float) -> None:
    out.print(f"{output}: {len(profile.values)} values on {profile.samples} samples, in {taken:.1f} s", highlight=False, markup=False)
    spread = []
    for name in profile.values:
        (low, high), (a, b) = profile.range(name, "minmax"), profile.range(name, "percentile")
        if high - low > NOTABLE * (b - a) > 0:
            spread.append(((high - low) / (b - a), name, low, high, a, b))
    if not spread:
        return
    title = "ranges that few elements make wide; the default method leaves these out"
    rows = table("value", "least", "greatest", "99.99 % from", "to", "ratio", title=title)
    for ratio, name, *numbers in sorted(spread, reverse=True)[:SHOWN]:
        rows.add_row(escape(name), *(f"{x:.5g}" for x in numbers), f"{ratio:.1f}")
    out.print(rows)
