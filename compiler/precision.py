"""Which layers compute in int8, and which stay in floats: by measured times, and within a budget for accuracy.

Times come first: a region stays in int8 only where that makes the model faster on this machine (`passes/quantize/fastest.py`).  Then
the budget: the regions whose precision a metric needs most for the time that it costs go back to floats (`budget.py`).  Both choose
names of contractions, and the graph is what `octavo.quantize` makes with these in `exclude`: the choice is in the graph, and compiles
to the same code everywhere.  Results of timing depend on the machine; nothing else does.

>>> choose_precision("model.onnx", "model.qprof", max_drop=0.5, metric=accuracy, data=samples).kept
(KeptLayer(value='%40', op='matmul', loc='/head', why='accuracy', ...),)
"""

from __future__ import annotations

import math
import statistics
import time as clock
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from numbers import Real
from typing import Any

import numpy as np

from ..backends.work import work
from ..ir.errors import GateError, QuantError, QuantWarning
from ..ir.graph import Graph, Node
from ..passes.quantize.budget import within_budget
from ..passes.quantize.fastest import NONE, Kept, fastest
from ..passes.quantize.profile import Profile, prepared
from ..passes.quantize.quantize import Quantization, quantization
from .data import each_sample, run_sample
from .driver import compile
from .layer_times import LayerTimes, layer_times
from .machine import pinned
from .metric import Metric, mean_metric
from .model import Model
from .progress import part, report
from .samples import OTHER_AXES, choose_sizes, random_feeds

SECONDS = 0.5  # of measuring a program, or two side by side
LEAST_PAIRS = 5
NAMED = 5  # slow layers in a message
HELD = 2  # compiled models beside those in f32 and in use: each has all weights

LayerTimer = Callable[[str, Graph, Sequence[Node], Mapping[str, np.ndarray], float, int], LayerTimes]
Stopwatch = Callable[[Model, Model, Mapping[str, np.ndarray], int], tuple[float, float]]


@dataclass(frozen=True)
class KeptLayer:
    """A contraction that stays in floats.

    value: name of its result, as `exclude` has it; why: "time" or "accuracy"; f32_us, int8_us: its kernels, None where nothing was
    measured; gain: of the metric, if its region alone stays in floats, None where that was not tried.
    """

    value: str
    op: str
    loc: str
    why: str
    f32_us: float | None = None
    int8_us: float | None = None
    gain: float | None = None


@dataclass(frozen=True)
class Precisions:
    """A quantized graph, and why it is as it is.

    kept: what could be quantized and is not; quantized: how many contractions are; metric_int8: of the model before the budget was
    looked for, metric: of the result; speedup: time in f32 over that of the result, None where nothing was timed.
    """

    graph: Graph
    kept: tuple[KeptLayer, ...]
    quantized: int
    metric_f32: float | None = None
    metric_int8: float | None = None
    metric: float | None = None
    f32_ms: float | None = None
    ms: float | None = None

    @property
    def speedup(self) -> float | None:
        return self.f32_ms / self.ms if self.f32_ms is not None and self.ms else None

    def as_data(self) -> dict[str, Any]:
        facts = {key: value for key, value in vars(self).items() if key not in ("graph", "kept")}
        return {**facts, "speedup": self.speedup, "kept": [asdict(x) for x in self.kept]}


def side_by_side(a: Model, b: Model, feeds: Mapping[str, np.ndarray], threads: int) -> tuple[float, float]:
    """Medians of the times of two models in seconds, which take turns: A B B A ..."""
    pairs: tuple[list[float], list[float]] = ([], [])
    models = (a, b)
    with pinned(threads):
        for model in models:
            model.run(None, feeds)
        stop = clock.perf_counter() + SECONDS
        while len(pairs[0]) < LEAST_PAIRS or clock.perf_counter() < stop:
            for k in (0, 1) if len(pairs[0]) % 2 else (1, 0):
                begin = clock.perf_counter()
                models[k].run(None, feeds)
                pairs[k].append(clock.perf_counter() - begin)
    return statistics.median(pairs[0]), statistics.median(pairs[1])


def choose_precision(
    graph: Graph,
    profile: Profile,
    *,
    time: bool = False,
    max_drop: float | None = None,
    metric: Metric | None = None,
    data: Iterable[Mapping[str, np.ndarray]] | None = None,
    require_speedup: float | None = None,
    threads: int = 1,
    exclude: Sequence[str] = (),
    layer_timer: LayerTimer = layer_times,
    stopwatch: Stopwatch = side_by_side,
    **options: Any,
) -> Precisions:
    """Quantize a graph where it pays.

    time: leave in floats what is not faster in int8 here.  max_drop, metric, data: leave in floats what the metric's mean over the
    samples of data needs to be at most max_drop below that in f32, in the metric's own unit; data also gives the sample to time, else
    random numbers do.  require_speedup: how many times as fast as f32 the result has to be here.  threads: of all runs.  exclude and
    options: as of `octavo.quantize`.  layer_timer, stopwatch: what measures.

    Raises GateError where the budget or the speed cannot be reached, QuantError as `quantization` and for options that do not fit.
    """
    _check(max_drop, metric, data, require_speedup)
    samples = list(islice(each_sample(data), None if metric else 1)) if data is not None else []  # one is enough to time on
    if max_drop is not None and not samples:
        raise QuantError("there are no samples for the metric: data was empty (a generator gives its samples only once)")
    trials = _Trials(graph, profile, exclude, options, threads, samples[0] if samples else None, layer_timer, stopwatch)
    regions = trials.regions(time)
    kept = fastest(regions, lambda k: trials.times(k).us, trials.ratio) if time else NONE
    slow = kept
    found = None
    metric_f32 = None
    if metric is not None and max_drop is not None:
        metric_f32, found, kept = _budget(trials, regions, kept, metric, max_drop, samples, time)
        if time and kept != slow and kept != trials.every and trials.ratio(kept, trials.every) >= 1:
            kept = trials.every
    result = trials.graph(kept)
    f32_ms = ms = None
    if time or require_speedup is not None:
        a, b = trials.seconds(trials.every, kept) if kept != trials.every else (1.0, 1.0)
        f32_ms, ms = (a * 1e3, b * 1e3) if kept != trials.every else (None, None)
        if require_speedup is not None and a / b < require_speedup:
            raise GateError(_too_slow(trials, kept, a / b, require_speedup))
    if kept == trials.every:
        warnings.warn("int8 is not faster than f32 here for any part of this model: all of it stays in f32", QuantWarning, stacklevel=3)
    gains = {k: gain for region, gain in found.gains.items() for k in region} if found else {}
    before, after = (trials.times(trials.every).us, trials.times(NONE).us) if time else ({}, {})
    layers = tuple(
        KeptLayer(
            trials.names[k],
            n.op,
            n.loc.removeprefix("onnx:"),
            "time" if k in slow or found is None or k not in found.kept else "accuracy",
            before.get(k),
            after.get(k),
            gains.get(k),
        )
        for k, n in enumerate(trials.contractions)
        if k in kept
    )
    count = len(trials.contractions) - len(kept)
    metric_after = metric_f32 if kept == trials.every else (found.metric if found else None)
    metric_int8 = trials.metric_before if found else None
    return Precisions(result, layers, count, metric_f32, metric_int8, metric_after, f32_ms, ms)


def _check(max_drop: float | None, metric: Metric | None, data: Any, require_speedup: float | None) -> None:
    """Raises QuantError for options that say nothing together."""
    if (max_drop is None) != (metric is None):
        raise QuantError("max_drop bounds what a metric drops by: give both max_drop and metric")
    if metric is not None and data is None:
        raise QuantError("a metric needs samples to be measured on: give data")
    for name, value in (("max_drop", max_drop), ("require_speedup", require_speedup)):
        if value is not None and not (isinstance(value, Real) and 0 <= value < math.inf):
            raise QuantError(f"{name} is a finite number that is not negative, not {value!r}")


def _budget(
    trials: _Trials, regions: Sequence[Kept], start: Kept, metric: Metric, max_drop: float, samples: Sequence[Any], timed: bool
) -> tuple[float, Any, Kept]:
    """The metric in f32, what the search found, and what stays in floats.  Raises GateError where the budget cannot be met."""
    stage = ("metric f32", 0, 1)

    def tell(name: str, done: int, total: int) -> None:
        nonlocal stage
        stage = (name, done, total)

    def measured(kept: Kept) -> float:
        with part(*stage):
            return mean_metric(metric, trials.graph(kept), samples, trials.threads)

    exact = measured(trials.every)
    if start == trials.every:
        return exact, None, start
    cost = trials.cost_measured if timed else trials.cost_counted
    first: list[float] = []

    def noted(kept: Kept) -> float:
        value = measured(kept)
        first.append(value)
        return value

    found = within_budget(regions, noted, cost, exact - max_drop, start=start, tell=tell)
    if found is None:
        raise GateError(
            f"the budget cannot be met: the metric is {exact:.6g} in f32 and {first[0]:.6g} in int8, and it drops by more than "
            f"{max_drop:g} whichever regions stay in f32, down to a single one in int8; try --method mse, --smooth 0.5 or more "
            "calibration samples (`octavo debug quant` shows where the error begins)"
        )
    trials.metric_before = first[0]
    return exact, found, found.kept


def _too_slow(trials: _Trials, kept: Kept, reached: float, wanted: float) -> str:
    text = f"int8 is {reached:.2f} times as fast as f32 on this machine, not {wanted:g} times"
    f32, int8 = trials.times(trials.every).us, trials.times(kept).us
    rows = sorted((f32[k] / wanted - int8[k], k) for k in f32 if k in int8 and int8[k] > f32[k] / wanted)
    named = [
        f"{trials.contractions[k].op} {trials.contractions[k].loc.removeprefix('onnx:') or trials.names[k]}: f32 {f32[k]:.1f} us, "
        f"{'stays f32' if k in kept else f'int8 {int8[k]:.1f} us'}"
        for _, k in rows[:NAMED]
    ]
    return "\n  ".join([f"{text}; what is too slow for that:", *named]) if named else text


class _Trials:
    """Quantizations of one graph that differ in what stays in floats, and what was measured of them."""

    def __init__(
        self,
        graph: Graph,
        profile: Profile,
        exclude: Sequence[str],
        options: Mapping[str, Any],
        threads: int,
        sample: Mapping[str, np.ndarray] | None,
        layer_timer: LayerTimer,
        stopwatch: Stopwatch,
    ):
        self.before = prepared(graph)
        self.profile, self.exclude, self.options, self.threads = profile, tuple(exclude), options, threads
        self.layer_timer, self.stopwatch = layer_timer, stopwatch
        self.metric_before: float | None = None
        self.whole = whole = quantization(self.before, profile, exclude=exclude, **options)
        self.contractions = [n for n in whole.before.nodes if n in whole.choice.contractions]
        self.names = [whole.names[n.outputs[0]] for n in self.contractions]
        self.every = Kept(range(len(self.contractions)))
        self._times: dict[Kept, LayerTimes] = {}
        self._models: dict[Kept, Model] = {}
        self._sample = sample
        self._feeds: Mapping[str, np.ndarray] = {}

    def quantization(self, kept: Kept) -> Quantization:
        if not kept:
            return self.whole
        exclude = (*self.exclude, *(self.names[k] for k in sorted(kept)))
        return quantization(self.before, self.profile, exclude=exclude, **self.options)

    def graph(self, kept: Kept) -> Graph:
        return self.before if kept == self.every else self.quantization(kept).after

    def regions(self, timed: bool) -> list[Kept]:
        """Contractions, those together that a kernel computes together where times are measured."""
        region = {k: Kept((k,)) for k in self.every}
        for times in (self.times(self.every), self.times(NONE)) if timed else ():
            for k, others in times.together.items():
                joined = region[k].union(*(region[o] for o in others))
                region.update(dict.fromkeys(joined, joined))
        return sorted(set(region.values()), key=min)

    def times(self, kept: Kept) -> LayerTimes:
        if kept not in self._times:
            if kept == self.every:
                nodes, graph = self.contractions, self.quantization(NONE).before
            else:
                q = self.quantization(kept)
                by_name = {name: v for v, name in q.names.items()}
                nodes = [q.images[by_name[name]].node for name in self.names]
                graph = q.after
            title = "f32" if kept == self.every else f"int8 with {len(kept)} layers in f32"
            self._times[kept] = self.layer_timer(title, graph, nodes, self.feeds(), SECONDS, self.threads)
        return self._times[kept]

    def seconds(self, a: Kept, b: Kept) -> tuple[float, float]:
        report(f"time {len(a)} beside {len(b)} of {len(self.contractions)} layers in f32")
        return self.stopwatch(self._model(a), self._model(b), self.feeds(), self.threads)

    def ratio(self, a: Kept, b: Kept) -> float:
        x, y = self.seconds(a, b)
        return x / y

    def feeds(self) -> Mapping[str, np.ndarray]:
        """What is timed on: a sample that the model runs on, the caller's or a made up one."""
        if not self._feeds:
            exact = self._model(self.every)
            if self._sample is not None:
                run_sample(exact, self._sample, 1)
                self._feeds = self._sample
            else:
                made_up = random_feeds(exact.inputs)
                try:
                    run_sample(exact, made_up, 1)
                except QuantError as e:
                    raise QuantError(
                        f"the model does not run on made-up inputs to time it on; give data, or do not time it: {e}"
                    ) from e
                self._feeds = made_up
        return self._feeds

    def cost_measured(self, region: Kept) -> float:
        """Microseconds that a region takes longer in floats."""
        f32, int8 = self.times(self.every).us, self.times(NONE).us
        return max(f32.get(k, 0.0) - int8.get(k, 0.0) for k in region)

    def cost_counted(self, region: Kept) -> float:
        """The same as far as products tell, where nothing is measured: in any unit."""
        sizes = choose_sizes(v.shape for v in self.before.inputs)
        symbols = {**dict.fromkeys(self.before.symbols, OTHER_AXES), **sizes}
        return float(sum(work(_alone(self.contractions[k]), symbols).flops for k in region))

    def _model(self, kept: Kept) -> Model:
        if kept not in self._models:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", QuantWarning)  # whoever compiles the result is told
                self._models[kept] = compile(self.graph(kept), threads=self.threads, progress=report)
            old = [k for k in self._models if k not in (kept, self.every)]
            for k in old[:-HELD]:
                del self._models[k]
        return self._models[kept]


def _alone(contraction: Node) -> Graph:
    """A graph of a contraction and nothing else."""
    return Graph("one", (), contraction.outputs)
