"""Which layer does quantization hurt, and which does it make slow?  One row for each quantized contraction.

Errors are sums of squares over those of the values in floats, so that parts of them add up; 20 dB are an error of 1 %.  They come from
one program that holds the model in floats, quantized, and each layer quantized alone (`passes/quantize/errors.py`): all samples run
once, by compiled code, and no value leaves it.  There a value that is compared is rounded where the int8 program may scale in the same
step; single elements can differ by one level from what that computes.

>>> report = debug_quant("model.onnx", "model.qprof", samples)
>>> report.layers[0].loc                                    # where most error begins
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..ir.errors import QuantError
from ..ir.graph import Graph, Node, Value
from ..ir.types import u8
from ..passes.quantize.errors import Errors, layers, measuring
from ..passes.quantize.profile import BINS, Profile, Stats, prepared
from ..passes.quantize.quantize import Quantization, quantization, quantize
from .data import each_sample, run_sample
from .driver import compile
from .layer_times import layer_times
from .metric import Metric, mean_metric
from .progress import part, report
from .source import graph_of, profile_of

MOST = 99.9  # percent of elements, the levels of which count as used


@dataclass(frozen=True)
class Layer:
    """A quantized contraction with the pointwise ops after it, up to the value that is stored.

    number: place in the graph; value: name of the contraction's result, as profiles and `exclude` have it; error: of the result in the
    whole int8 graph; added: of this layer alone on operands in floats; both as shares (sums of squares, 1 is as much as the signal).
    clipped: share of the operand's elements outside its range; used: share of the 256 levels within which 99.9 % of them lie; None
    where SmoothQuant or equalization changed the operand.  f32_us, int8_us: the kernels that compute the contraction, None where none
    was measured; f32_with, int8_with: numbers of other layers that the same kernels compute.  gain: what the metric gains if this layer
    alone stays in floats.
    """

    number: int
    value: str
    op: str
    loc: str
    type: str
    error: float
    added: float
    clipped: float | None
    used: float | None
    f32_us: float | None = None
    int8_us: float | None = None
    f32_with: tuple[int, ...] = ()
    int8_with: tuple[int, ...] = ()
    gain: float | None = None

    @property
    def inherited(self) -> float:
        """What earlier layers' errors bring; below 0 where they cancel this one's."""
        return self.error - self.added

    @property
    def sqnr_db(self) -> float:
        """Signal over error of the int8 result, in dB."""
        return decibels(self.error)


@dataclass(frozen=True)
class Times:
    """Microseconds of a program: all its kernels, and those of them that compute no layer of the table."""

    total_us: float
    other_us: float


@dataclass(frozen=True)
class QuantReport:
    """All layers, the one that adds most error first.

    outputs: SQNR of each f32 output in dB; times: None where nothing was measured; metric_f32, metric_int8: means over the samples.
    """

    model: str
    samples: int
    layers: tuple[Layer, ...]
    outputs: dict[str, float]
    f32_times: Times | None = None
    int8_times: Times | None = None
    metric_f32: float | None = None
    metric_int8: float | None = None

    def as_data(self) -> dict[str, Any]:
        rows = [{**asdict(x), "inherited": x.inherited, "sqnr_db": x.sqnr_db} for x in self.layers]
        return {**asdict(self), "layers": rows}


def debug_quant(
    model: Any,
    profile: Profile | str | os.PathLike[str],
    data: Iterable[Mapping[str, np.ndarray]],
    *,
    metric: Metric | None = None,
    top: int | None = None,
    seconds: float = 1.0,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    exclude: Sequence[str] = (),
    **options: Any,
) -> QuantReport:
    """Errors and times of every layer that quantization by this profile makes of bytes.

    model, profile, dims, exclude, options: as of `octavo.quantize`.  data: samples {input name: array}, as of `octavo.calibrate`, but
    best others than those; they are kept in memory only for a metric.  metric(outputs by name, number of the sample from 0): higher is
    better, and its mean over the samples counts; the model is then quantized again without each of the `top` layers that add most error
    (without all, where top is None), and run on all samples.  seconds: of measuring each program on the first sample, 0 for no times;
    threads: of everything.

    Raises QuantError for a profile of another graph, for data without samples or that the model does not take, where nothing can be
    quantized, and for a metric that fails or gives no number; and what `octavo.compile` raises.
    """
    report("import")
    graph = prepared(graph_of(model, dims))
    known = profile_of(profile)
    q = quantization(graph, known, exclude=exclude, **options)
    samples = list(each_sample(data)) if metric else each_sample(data)
    first, count, sums, found, ends = _measured(q, samples, threads)
    rows = [
        _layer(k, q, known, x.contraction, x.result, _share(sums, e.total, e), _share(sums, e.alone, e))
        for k, (x, e) in enumerate(zip(layers(q), found, strict=True))
    ]
    outputs = [name for name, v in zip(graph.output_names, graph.outputs, strict=True) if v.dtype.name == "f32"]
    result = QuantReport(
        graph.name, count, tuple(rows), {n: decibels(_share(sums, e.total, e)) for n, e in zip(outputs, ends, strict=True)}
    )
    if seconds:
        result = _with_times(result, q, first, seconds, threads)
    ranked = tuple(sorted(result.layers, key=lambda x: (-x.added, x.number)))
    result = replace(result, layers=ranked)
    if metric is None:
        return result
    return _with_metric(result, q, known, list(samples), metric, top, threads, exclude, options)


def decibels(error: float) -> float:
    """An error, as a share of the signal's power, in dB of signal over error."""
    return -10 * math.log10(error) if error > 0 else math.inf


# --- errors ---


def _measured(
    q: Quantization, samples: Iterable[Any], threads: int
) -> tuple[Mapping[str, np.ndarray], int, np.ndarray, list[Errors], list[Errors]]:
    """The first sample, how many there are, sums of squares over all, and which of these are whose."""
    graph, found, ends = measuring(q)
    compiled = compile(graph, threads=threads, progress=report)
    total = len(samples) if hasattr(samples, "__len__") else 0  # type: ignore[arg-type]
    first: Mapping[str, np.ndarray] = {}
    sums = np.zeros(len(graph.outputs))
    count = 0
    for count, sample in enumerate(samples, 1):
        sums += np.array(run_sample(compiled, sample, count))
        first = first or sample
        report("samples", count, total)
    if not count:
        raise QuantError("there are no samples to compare on: data was empty (a generator gives its samples only once)")
    return first, count, sums, found, ends


def _share(sums: np.ndarray, error: int | None, e: Errors) -> float:
    off, signal = float(sums[error]), float(sums[e.signal])  # type: ignore[index]
    return off / signal if signal else (math.inf if off else 0.0)


def _layer(number: int, q: Quantization, known: Profile, n: Node, result: Value, error: float, added: float) -> Layer:
    operand, names = n.inputs[0], q.names
    clipped = used = None
    if operand not in q.factors and operand not in q.divided:
        scale, zero = q.grids[operand]
        stats = known.values[names[operand]]
        low, high = known.range(names[operand], "percentile", percent=MOST)
        clipped = clipped_share(stats, scale, zero)
        used = min((high - low) / (scale * u8.max), 1.0)
    return Layer(number, names[n.outputs[0]], n.op, n.loc, str(result.type), error, added, clipped, used)


def clipped_share(stats: Stats, scale: float, zero: int) -> float:
    """The share of a value's elements that lie beyond the first and last level, as far as whole bins of the histogram tell."""
    inner = np.arange(BINS) - BINS // 2
    inner[: BINS // 2] += 1  # negative bins begin at their right end
    at = inner * (2.0**stats.exponent / (BINS // 2))
    outside = (at >= (u8.max - zero + 0.5) * scale) & (inner > 0) | (at <= (-zero - 0.5) * scale) & (inner < 0)
    return float(np.array(stats.bins)[outside].sum()) / max(stats.count, 1)


# --- times ---


def _with_times(result: QuantReport, q: Quantization, sample: Mapping[str, np.ndarray], seconds: float, threads: int) -> QuantReport:
    contractions = [x.contraction for x in layers(q)]
    quantized = [q.images[n.outputs[0]].node for n in contractions]
    f32 = layer_times("f32", q.before, contractions, sample, seconds, threads)
    int8 = layer_times("int8", q.after, quantized, sample, seconds, threads)
    rows = tuple(
        replace(x, f32_us=f32.us.get(k), int8_us=int8.us.get(k), f32_with=f32.together.get(k, ()), int8_with=int8.together.get(k, ()))
        for k, x in enumerate(result.layers)
    )
    f32_times, int8_times = (Times(x.total_us, x.other_us) for x in (f32, int8))
    return replace(result, layers=rows, f32_times=f32_times, int8_times=int8_times)


# --- a metric ---


def _with_metric(
    result: QuantReport,
    q: Quantization,
    known: Profile,
    samples: Sequence[Any],
    metric: Metric,
    top: int | None,
    threads: int,
    exclude: Sequence[str],
    options: Mapping[str, Any],
) -> QuantReport:
    rows = list(result.layers)
    chosen = rows[:top]
    works = len(chosen) + 2

    def measured(name: str, k: int, graph: Graph) -> float:
        with part(name, k, works):
            return mean_metric(metric, graph, samples, threads)

    f32, int8 = measured("metric f32", 0, q.before), measured("metric int8", 1, q.after)
    for k, row in enumerate(chosen):
        without = (*exclude, row.value)
        if len(result.layers) == 1:
            value = f32
        else:
            value = measured(
                f"metric without {row.loc.removeprefix('onnx:') or row.value}",
                k + 2,
                quantize(q.source, known, exclude=without, **options),
            )
        rows[k] = replace(row, gain=value - int8)
    return replace(result, layers=tuple(rows), metric_f32=f32, metric_int8=int8)
