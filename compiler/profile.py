"""Where the time of a model goes: each kernel call beside what it computes, what it moves and what the machine can do at most.

The program gets a main function that reads a counter around every kernel call (`backends.cpu.timing`).  The
machine's peaks are measured between the rounds, on the same cores, because clocks change.  Calls inside loops add up.

>>> report = profile(compile_native("resnet50.onnx"), feeds)
>>> report.kernels[0].flop_share                                  # of the measured peak
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..backends.cpu.peak import Peaks
from ..backends.cpu.timing import Logged, TimedProgram, timed
from ..backends.lower.lower import template
from ..backends.program import Kernel
from ..backends.target import find_target
from ..backends.work import multiplies_bytes, work
from ..ir.dims import symbols_of
from ..ir.errors import ModelError
from ..ir.graph import Graph
from .driver import Compilation
from .machine import Machine, describe_machine, pinned
from .progress import report
from .samples import OTHER_AXES

WARM_UP = 2  # runs


@dataclass(frozen=True)
class KernelTime:
    """One kernel call of the program; a call inside a loop stands for all its repetitions.

    us: median over the runs; share: of all kernels' time; flop_share and byte_share: of the measured peak (that of bytes where it
    multiplies bytes) and bandwidth (data that is in a cache moves faster than memory); bound: which of the two takes longer at the
    machine's best.
    """

    number: int
    template: str
    ops: tuple[str, ...]
    loc: str
    symbol: str
    calls: int
    us: float
    share: float
    flops: int
    nbytes: int
    gflops: float
    gbytes: float
    flop_share: float
    byte_share: float
    bound: str


@dataclass(frozen=True)
class Profile:
    """A profile: kernels in program order, and the run whose time was the median, event by event, for a trace."""

    model: str
    inputs: dict[str, str]
    threads: int
    machine: Machine
    scheduling: str
    target: str
    peak_gflops: float
    peak_gops: float  # of products of bytes, summed in i32
    bandwidth_gbytes: float
    runs: int
    run_us: float  # a whole call from Python
    kernel_us: float  # of which kernels
    kernels: tuple[KernelTime, ...]
    events: tuple[tuple[int, float, float], ...]  # kernel number, begin and duration in microseconds

    def as_data(self) -> dict[str, Any]:
        data = asdict(self)
        del data["events"]
        return data

    def as_trace(self) -> dict[str, Any]:
        """The median run as a Chrome trace, for chrome://tracing or ui.perfetto.dev."""
        named: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": self.model}}]
        for number, begin, duration in self.events:
            kernel = self.kernels[number]
            title = f"{kernel.template} {kernel.loc}".strip()
            details = {"kernel": number, "ops": " ".join(kernel.ops), "gflops": kernel.gflops, "bound": kernel.bound}
            fields = {"name": title, "cat": kernel.template, "ph": "X", "pid": 1, "tid": 1}
            named.append({**fields, "ts": begin, "dur": duration, "args": details})
        return {"traceEvents": named, "displayTimeUnit": "ns"}


def profile(
    compiled: Compilation,
    feeds: Mapping[str, np.ndarray],
    *,
    target: str = "native",
    threads: int = 1,
    seconds: float = 3.0,
    rounds: int = 7,
    realtime: bool = False,
) -> Profile:
    """Run what `compile_native` gave for one `target` for some `seconds`, and say where the time went.

    Raises ModelError for inputs that are missing or unknown.
    """
    signature = compiled.native.signature
    names = [spec.name for spec in signature.inputs]
    if set(names) != set(feeds):
        raise ModelError(f"a profile of model {signature.name!r} needs inputs {', '.join(names)}, not {', '.join(feeds) or 'none'}")
    arrays = [np.ascontiguousarray(feeds[name]) for name in names]
    level = find_target(target)
    variant = timed(compiled.program, compiled.built[0], level, (*signature.symbols, *signature.defined))
    with pinned(threads, realtime) as scheduling:
        program = TimedProgram(compiled.native, variant, threads)
        peaks = Peaks(level, program.executable.threads)
        report("measure the memory")
        bandwidth = peaks.bandwidth()
        warm = [program.run(arrays) for _ in range(WARM_UP)]
        runs: list[Logged] = []
        flops: list[float] = []
        dots: list[float] = []
        opened, seen = program.now()
        for k in range(rounds):
            report("run", k, rounds)
            flops.append(peaks.flops())
            dots.append(peaks.dots())
            spent = 0.0
            while spent < seconds / rounds or not spent:
                runs.append(program.run(arrays))
                spent += runs[-1].seconds
        closed, last = program.now()
    us_per_tick = (closed - opened) / (last - seen) * 1e6
    sizes = _sizes(compiled, arrays, warm[-1].outputs)
    peak, byte_peak = statistics.median(flops), statistics.median(dots)
    kernels = _kernels(compiled, runs, us_per_tick, sizes, lambda body: byte_peak if multiplies_bytes(body) else peak, bandwidth)
    shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in zip(names, arrays, strict=True)}
    middle = sorted(runs, key=lambda r: r.seconds)[len(runs) // 2]
    return Profile(
        model=signature.name,
        inputs=shapes,
        threads=program.executable.threads,
        machine=describe_machine(),
        scheduling=scheduling,
        target=level.name,
        peak_gflops=peak,
        peak_gops=byte_peak,
        bandwidth_gbytes=bandwidth,
        runs=len(runs),
        run_us=middle.seconds * 1e6,
        kernel_us=sum(k.us for k in kernels),
        kernels=kernels,
        events=_events(middle, us_per_tick),
    )


def _sizes(compiled: Compilation, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> dict[str, int]:
    """Every symbol of the program: from the inputs, from outputs whose sizes the run found out, else a guess."""
    given: dict[str, int] = {}
    graph = compiled.program.graph
    for values, results in ((graph.inputs, arrays), (graph.outputs, outputs)):
        for v, array in zip(values, results, strict=True):
            given.update({str(d): size for d, size in zip(v.shape, array.shape, strict=True) if symbols_of(d) == {str(d)}})
    return {**dict.fromkeys(compiled.program.defined, OTHER_AXES), **given}


def _kernels(
    compiled: Compilation,
    runs: Sequence[Logged],
    us_per_tick: float,
    sizes: Mapping[str, int],
    peak: Callable[[Graph], float],
    bandwidth: float,
) -> tuple[KernelTime, ...]:
    calls = compiled.built[0].calls
    ticks = np.stack([np.bincount(r.rows[:, 0], r.rows[:, 2] - r.rows[:, 1], len(calls)) for r in runs])
    repeats = np.bincount(runs[-1].rows[:, 0], minlength=len(calls))
    times = np.median(ticks, axis=0) * us_per_tick
    total = float(times.sum()) or 1.0
    return tuple(
        _kernel(number, symbol, step, int(n), float(us), float(us) / total, sizes, peak(step.body), bandwidth)
        for number, ((symbol, step), n, us) in enumerate(zip(calls, repeats, times, strict=True))
    )


def _kernel(
    number: int,
    symbol: str,
    step: Kernel,
    calls: int,
    us: float,
    share: float,
    sizes: Mapping[str, int],
    peak: float,
    bandwidth: float,
) -> KernelTime:
    once = work(step.body, sizes)
    flops, nbytes = once.flops * calls, once.nbytes * calls
    gflops, gbytes = (flops / us / 1e3, nbytes / us / 1e3) if us else (0.0, 0.0)
    ops = tuple(Counter(n.op for n in step.body.nodes if n.op not in ("input", "const")))
    bound = "compute" if flops / peak > nbytes / bandwidth else "memory"
    shares = (gflops / peak, gbytes / bandwidth)
    return KernelTime(
        number, template(step.body), ops, step.loc, symbol, calls, us, share, flops, nbytes, gflops, gbytes, *shares, bound
    )


def _events(run: Logged, us_per_tick: float) -> tuple[tuple[int, float, float], ...]:
    if not len(run.rows):
        return ()
    start = run.rows[0, 1]
    return tuple((int(k), float(begin - start) * us_per_tick, float(end - begin) * us_per_tick) for k, begin, end in run.rows)
