"""`calibrate`: run a model on samples of its data and keep what its values were, as a profile from which quantization works.

The values are looked at where they are: the program that runs computes statistics instead of outputs (`passes/quantize/watch.py`), and
what is kept between samples does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..ir.errors import QuantError
from ..ir.text import digest
from ..passes.quantize.profile import BINS, LEAST_EXPONENT, UNIT, Profile, Stats, prepared, value_names, widen
from ..passes.quantize.watch import Watched, watch
from .data import each_sample, run_sample
from .driver import compile
from .source import graph_of

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def calibrate(
    model: Any,
    data: Iterable[Mapping[str, np.ndarray]],
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Profile:
    """What the values of a model are on samples of its data, for `octavo.quantize`.

    model: anything that `octavo.compile` takes.  data: samples {input name: array} of the dtypes and shapes of the model's inputs, each
    a batch of any size; it is gone through once, so a generator will do.  dims, threads, progress: as of `octavo.compile`; quantize
    with the same dims.

    Some hundred samples like those that the model will meet are enough.  Raises QuantError for a model without f32 convolution or
    matmul, for data without samples, and for samples that the model does not take or that hold NaN or infinite numbers; and what
    `octavo.compile` raises.
    """
    tell = progress or (lambda stage, done, total: None)
    tell("import", 0, 1)
    graph = prepared(graph_of(model, dims))
    watching, rows = watch(graph)
    if not rows:
        raise QuantError(f"model {graph.name!r} has no convolution or matmul of f32, so there is nothing to quantize")
    compiled = compile(watching, threads=threads, progress=progress)
    seen = [_Seen(row) for row in rows]
    total = len(data) if hasattr(data, "__len__") else 0  # type: ignore[arg-type]
    count = 0
    for count, sample in enumerate(each_sample(data), 1):
        results = run_sample(compiled, sample, count)
        for one in seen:
            one.add(results, count)
        tell("samples", count, total)
    if not count:
        raise QuantError("there are no samples to calibrate with: data was empty (a generator gives its samples only once)")
    names = value_names(graph)
    return Profile(digest(graph), count, {names[one.row.value]: one.stats() for one in seen})


class _Seen:
    """What was seen of one value so far."""

    def __init__(self, row: Watched):
        self.row = row
        self.low, self.high = np.inf, -np.inf
        self.exponent = LEAST_EXPONENT
        self.bins = np.zeros(BINS, np.int64)
        self.channel_max: np.ndarray | None = None
        self.channel_sum: list[int] = []

    def add(self, results: list[np.ndarray], number: int) -> None:
        """Take in a sample.  Raises QuantError for what no histogram can hold."""
        row = self.row
        sums = results[row.channel_sum] if row.channel_sum is not None else np.zeros(0)
        if np.isnan(results[row.low]) or not np.isfinite(sums).all():
            node = row.value.node
            kind = "NaN" if np.isnan(results[row.low]) else "infinite"
            raise QuantError(f"sample {number}: a result of {node!r} is {kind}; such a model cannot be calibrated on this sample")
        exponent = max(self.exponent, int(results[row.exponent]))
        counts = results[row.bins].astype(np.int64)
        self.bins = widen(self.bins, exponent - self.exponent) + widen(counts, exponent - int(results[row.exponent]))
        self.exponent = exponent
        self.low, self.high = min(self.low, float(results[row.low])), max(self.high, float(results[row.high]))
        if row.channel_max is not None:
            maxima = np.maximum(results[row.channel_max], 0)  # -inf is that of no elements
            self.channel_max = maxima if self.channel_max is None else np.maximum(self.channel_max, maxima)
        if sums.size:
            whole = [int(x) for x in (sums / UNIT).tolist()]  # sums of f32 are whole numbers of the least f32
            self.channel_sum = [a + b for a, b in zip(self.channel_sum, whole, strict=True)] if self.channel_sum else whole

    def stats(self) -> Stats:
        count = int(self.bins.sum())
        low, high = (self.low, self.high) if count else (0.0, 0.0)
        maxima = () if self.channel_max is None else tuple(self.channel_max.tolist())
        return Stats(count, low, high, self.exponent, tuple(self.bins.tolist()), maxima, tuple(self.channel_sum))
