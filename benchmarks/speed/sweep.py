"""Matmuls of every size up to a few register tiles: nothing may fall off a cliff where a size misses a multiple.

Several are nodes of one graph, few enough to stay in a core's own cache, and are timed by the profiler's counter around each kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...backends.cpu.timing import TimedProgram, timed
from ...backends.target import find_target
from ...backends.work import work
from ...compiler.driver import compile_native
from ...compiler.machine import pinned
from ...compiler.progress import report
from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Value

LARGEST = 70
OTHERS = 64  # the sizes that stay while one moves
AXES = ("m", "n", "k", "m = n = k")
TOGETHER = 10  # products in one graph: less than half a megabyte
RUNS = 300
LEAST_NS = 1000  # below that a call is what takes time, not the product

Shape = tuple[int, int, int]  # m, n, k


@dataclass(frozen=True)
class Sweep:
    """ns: for each axis the time of sizes 1 to `LARGEST`, the other two being `OTHERS`.

    cliff: the largest ratio between neighbours of the time for each multiply-add, columns padded to whole vectors; where: which ones.
    """

    ns: dict[str, tuple[float, ...]]
    cliff: float
    where: str


def measure_sweep(target: str = "native") -> Sweep:
    """One thread; the second operand is constant, as weights are.  Compiles some 260 kernels the first time."""
    shapes = sorted({_shape(axis, size) for axis in AXES for size in range(1, LARGEST + 1)}, key=lambda s: (s[0] * s[1] * s[2], s))
    found: dict[Shape, float] = {}
    for k in range(0, len(shapes), TOGETHER):
        report("sizes of matmuls", k, len(shapes))
        found.update(sweep_times(shapes[k : k + TOGETHER], target))
    ns = {axis: tuple(found[_shape(axis, size)] for size in range(1, LARGEST + 1)) for axis in AXES}
    return Sweep(ns, *steepest(ns, find_target(target).lanes(32)))


def steepest(ns: dict[str, tuple[float, ...]], lanes: int) -> tuple[float, str]:
    """The cliff of a sweep, and where it is."""
    found = [(1.0, "nowhere")]
    for axis, times in ns.items():
        shapes = [_shape(axis, size) for size in range(1, len(times) + 1)]
        each = [t / (m * k * -(-n // lanes) * lanes) for (m, n, k), t in zip(shapes, times, strict=True)]
        for size, (a, b) in enumerate(pairwise(each), 1):
            if min(times[size - 1], times[size]) >= LEAST_NS:
                found.append((max(a / b, b / a), f"{axis} = {size} and {size + 1}"))
    return max(found)


def _shape(axis: str, size: int) -> Shape:
    m, n, k = (size if axis in (name, AXES[-1]) else OTHERS for name in AXES[:3])
    return m, n, k


def sweep_times(shapes: Sequence[Shape], target: str) -> Iterable[tuple[Shape, float]]:
    """The time of each product in nanoseconds: that of the fastest quarter of the runs, which a noisy neighbour does not move."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((m, k), np.float32) for m, _, k in shapes]
    weights = [rng.standard_normal((k, n), np.float32) for _, n, k in shapes]

    def products(*a: Value) -> tuple[Value, ...]:
        return tuple(ops.matmul(x, w) for x, w in zip(a, weights, strict=True))

    compiled = compile_native(trace(products, *[spec("f32", a.shape) for a in arrays]), target=target)
    variant = timed(compiled.program, compiled.built[0], find_target(target), ())
    with pinned(1, realtime=True):
        program = TimedProgram(compiled.native, variant, 1)
        opened, seen = program.now()
        runs = [program.run(arrays).rows for _ in range(RUNS)]
        closed, last = program.now()
    ticks = np.percentile([r[:, 2] - r[:, 1] for r in runs], 25, axis=0)
    for number, (_, step) in enumerate(compiled.built[0].calls):
        m, n = (int(str(d)) for d in step.body.outputs[0].shape)
        yield (m, n, work(step.body, {}).flops // (2 * m * n)), float(ticks[number]) * (closed - opened) / (last - seen) * 1e9
