"""How near single kernels come to the machine's limits, measured beside them: products to its multiply-adds, the rest to its memory.

Products are square matmuls whose operands are both given at run time, and every matmul and convolution of two models of the zoo as
the profiler sees them.  Everything else runs over arrays far larger than the caches, and is held against the best loop known that
reads and writes as many arrays.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.cpu.peak import Peaks
from ...backends.target import find_target
from ...compiler.driver import compile, compile_native
from ...compiler.machine import pinned
from ...compiler.profile import profile
from ...compiler.progress import report
from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.dims import dim_product, evaluate_dim
from ...ir.graph import Value
from ...ir.ops.registry import op_def
from .. import zoo

SQUARES = (1024, 2048, 4096)
MODELS = ("resnet50", "bert_base")  # whose contractions are listed
COLUMNS = 1024  # of the arrays that memory is measured with; softmax and layer_norm run along them
OUT_OF_CACHE = 3  # times the largest cache, over all arrays of an op
LEAST_BYTES = 512 << 20
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of glibc's mallopt

# An op, and the loop (with its number of arrays) that it is held against.
STREAMED: dict[str, tuple[Callable[..., Value], int, str, int]] = {
    "add": (lambda a, b: ops.add(a, b), 2, "add", 3),
    "relu": (lambda a: ops.relu(a), 1, "copy", 2),
    "gelu": (lambda a: ops.gelu(a), 1, "copy", 2),
    "sum of rows": (lambda a: ops.reduce_sum(a, axes=(1,)), 1, "read", 1),
    "softmax of rows": (lambda a: ops.softmax(a, axis=1), 1, "copy", 2),
    "layer_norm of rows": (lambda a: ops.layer_norm(a, np.ones(COLUMNS, np.float32), axis=1), 1, "copy", 2),
}


@dataclass(frozen=True)
class Share:
    """What a kernel reaches of a limit measured beside it, in GFLOP/s or GB/s; `calls` is how often a run of the model has it."""

    name: str
    reached: float
    limit: float
    share: float
    calls: int = 1


@dataclass(frozen=True)
class Limits:
    """squares: matmuls by size; models: for each model its contractions, the longest first; memory: ops over large arrays."""

    squares: tuple[Share, ...]
    models: dict[str, tuple[Share, ...]]
    memory: tuple[Share, ...]
    array_mb: float  # over all arrays of one op of `memory`


def measure_limits(target: str = "native", rounds: int = 5) -> Limits:
    """One thread.  Takes about a minute."""
    report("matmuls beside the peak", 0, 3)
    with pinned(1, realtime=True):
        squares = tuple(_square(size, target, rounds) for size in SQUARES)
    report("kernels beside the peak", 1, 3)
    models = {name: _contractions(name, target) for name in MODELS}
    report("ops beside the memory", 2, 3)
    nbytes = max(LEAST_BYTES, OUT_OF_CACHE * _largest_cache())
    with pinned(1, realtime=True):
        memory = _memory(nbytes, target, rounds)
    return Limits(squares, models, memory, nbytes / 1e6)


def _square(size: int, target: str, rounds: int) -> Share:
    """A product of two square matrices."""
    model = compile(trace(lambda a, b: ops.matmul(a, b), *[spec("f32", (size, size))] * 2), target=target, threads=1)
    rng = np.random.default_rng(size)
    arrays = [rng.standard_normal((size, size), np.float32) for _ in range(2)]
    peaks = Peaks(find_target(target))
    model(*arrays)
    pairs = [(2 * size**3 / _best(model, arrays) / 1e9, peaks.flops(repeats=5)) for _ in range(rounds)]
    return _share(f"{size} x {size} x {size}", pairs)


def _contractions(name: str, target: str) -> tuple[Share, ...]:
    """Every different matmul and convolution of a model, together with those that share its code and sizes."""
    compiled = compile_native(zoo.build(name), target=target)
    found = profile(compiled, zoo.feeds(name), target=target, threads=1, seconds=2.0, realtime=True)
    groups: dict[str, list[Any]] = {}
    for (_, step), kernel in zip(compiled.built[0].calls, found.kernels, strict=True):
        for node in step.body.nodes:
            if op_def(node.op).kind == "contraction":
                size = [evaluate_dim(d, {"batch": 1}) for d in node.types[0].shape]
                depth = evaluate_dim(dim_product(node.inputs[1].shape[1:]), {}) if node.op == "conv" else node.inputs[0].shape[-1]
                groups.setdefault(f"{node.op} to {' x '.join(map(str, size))}, sums of {depth}", []).append(kernel)
                break
    groups = dict(sorted(groups.items(), key=lambda item: -sum(k.us for k in item[1])))
    rows = []
    for words, kernels in groups.items():
        reached = sum(k.flops for k in kernels) / sum(k.us for k in kernels) / 1e3
        rows.append(Share(words, reached, found.peak_gflops, reached / found.peak_gflops, sum(k.calls for k in kernels)))
    return tuple(rows)


def _memory(nbytes: int, target: str, rounds: int) -> tuple[Share, ...]:
    """Each op of `STREAMED` beside its loop."""
    _keep_pages()
    peaks = Peaks(find_target(target))
    shares = []
    for name, (op, operands, loop, arrays) in STREAMED.items():
        rows = nbytes // arrays // (4 * COLUMNS)
        model = compile(trace(op, *[spec("f32", ("rows", COLUMNS))] * operands), target=target, threads=1)
        given = [np.full((rows, COLUMNS), 0.5, np.float32) for _ in range(operands)]
        model(*given)
        moved = rows * 4 * COLUMNS * arrays
        pairs = [(moved / _best(model, given, 2) / 1e9, peaks.streams(nbytes, 2)[loop]) for _ in range(rounds)]
        shares.append(_share(name, pairs))
        del given
    return tuple(shares)


def _share(name: str, pairs: Sequence[tuple[float, float]]) -> Share:
    """Medians of (reached, limit) that stood side by side."""
    reached, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Share(name, reached, limit, statistics.median(a / b for a, b in pairs))


def _best(call: Callable[..., Any], arrays: Sequence[np.ndarray], repeats: int = 3) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call(*arrays)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _keep_pages() -> None:
    """Let glibc keep freed memory: pages of a result that are new at each call would cost more than what is measured."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _largest_cache() -> int:
    """Bytes of the first core's largest cache; 0 where the system does not say."""
    texts = (p.read_text().strip() for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return max((int(t.rstrip("KM")) << {"K": 10, "M": 20}[t[-1]] for t in texts if t[-1:] in "KM" and t), default=0)
