"""Figures of Octavo alone: the share of the machine's peak, the time to compile, the cost of a call."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...backends.cpu.peak import Peaks
from ...backends.target import find_target
from ...compiler.driver import compile, compile_native
from ...compiler.machine import pinned
from ...compiler.profile import profile
from ...compiler.progress import report
from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.errors import OctavoError
from ...ir.graph import Graph, Value
from .. import zoo
from ..c_runner import CRunner
from .cases import export_zoo

COMPILED = "resnet50"
STAGES = 6  # steps that `measure_floors` reports
CALLS = 2000
C_CALLS = 200_000
TEN_OPS_INPUT = np.ones((1, 4), np.float32)


@dataclass(frozen=True)
class Floors:
    """peak_gflops: one core's measured f32 multiply-adds; matmul_share: what the 1024^3 matmul reaches of it, side by side.

    compile_s: the time of `compile` for the ONNX file of `COMPILED`, in a new process with an empty object cache; cached_s: again.
    call_us: a Python call of a compiled graph of ten small ops; c_call_us: a call of it from C, NaN without a C compiler; kernel_us: of
    which its kernels.  chain_growth, mix_growth: the time to compile 10,000 nodes over that of 1,000, for a chain of matmuls and for a
    chain of additions, activations and softmaxes.
    """

    peak_gflops: float
    matmul_gflops: float
    matmul_share: float
    compile_s: float
    cached_s: float
    call_us: float
    c_call_us: float
    kernel_us: float
    chain_growth: float
    mix_growth: float
    scheduling: str


def measure_floors(rounds: int = 9) -> Floors:
    """Take some 30 seconds.  Raises OctavoError where the compilation fails."""
    report("matmul beside the peak", 0, STAGES)
    with pinned(1, realtime=True) as scheduling:
        pairs = _matmul(rounds)
        report("calls of ten ops", 1, STAGES)
        call_us = _call_us(rounds)
        report("calls of ten ops from C", 2, STAGES)
        c_call_us = _c_call_us(rounds)
        kernel_us = profile(compile_native(_ten_ops_graph()), {"x": TEN_OPS_INPUT}, seconds=0.2).kernel_us
    with tempfile.TemporaryDirectory(prefix="octavo-speed-") as folder:
        report(f"compile {COMPILED}", 3, STAGES)
        onnx = export_zoo(COMPILED, Path(folder))
        cold = _compile_seconds(onnx, Path(folder) / "cache")
        report(f"compile {COMPILED} from the cache", 4, STAGES)
        cached = _compile_seconds(onnx, Path(folder) / "cache")
    report("compile 10,000 nodes", 5, STAGES)
    chain_growth, mix_growth = (_growth(layer, nodes) for layer, nodes in ((_product, 1), (_mixed, 3)))
    return Floors(
        peak_gflops=statistics.median(peak for _, peak in pairs),
        matmul_gflops=statistics.median(reached for reached, _ in pairs),
        matmul_share=statistics.median(reached / peak for reached, peak in pairs),
        compile_s=cold,
        cached_s=cached,
        call_us=call_us,
        c_call_us=c_call_us,
        kernel_us=kernel_us,
        chain_growth=chain_growth,
        mix_growth=mix_growth,
        scheduling=scheduling,
    )


def _matmul(rounds: int) -> list[tuple[float, float]]:
    """(what the matmul reaches, the peak beside it) in GFLOP/s for each round."""
    model = compile(zoo.build("matmul"), threads=1)
    arrays = [zoo.feeds("matmul")[s.name] for s in model.inputs]
    peaks = Peaks(find_target("native"))
    work = 2 * arrays[0].shape[0] ** 3
    model(*arrays)
    pairs = []
    for _ in range(rounds):
        peak = peaks.flops(repeats=5)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            model(*arrays)
            seconds.append(time.perf_counter() - start)
        pairs.append((work / min(seconds) / 1e9, peak))
    return pairs


def ten_ops(x: Value) -> Value:
    """Three layers of four neurons (matmul, add, relu) and a softmax: ten ops whose own time is next to nothing."""
    w = np.eye(4, dtype=np.float32)
    for _ in range(3):
        x = ops.relu(x @ w + np.float32(1))
    return ops.softmax(x, axis=1)


def _ten_ops_graph() -> Graph:
    return trace(ten_ops, spec("f32", ("batch", 4)))


def _call_us(rounds: int) -> float:
    model = compile(_ten_ops_graph(), threads=1)
    each = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(CALLS):
            model(TEN_OPS_INPUT)
        each.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(each)


def _c_call_us(rounds: int) -> float:
    with tempfile.TemporaryDirectory(prefix="octavo-speed-") as folder:
        compile(_ten_ops_graph()).save(Path(folder) / "ten.octavo")
        try:
            program = CRunner(Path(folder) / "ten.octavo", Path(folder))
        except OctavoError:
            return math.nan
        return statistics.median(program.seconds({"x": TEN_OPS_INPUT}, C_CALLS) for _ in range(rounds)) * 1e6


def _compile_seconds(onnx: Path, cache: Path) -> float:
    """The time of `compile` in a new process with this folder as its cache."""
    package = __name__.partition(".benchmarks")[0]
    code = (
        f"import time; from {package}.compiler.driver import compile; start = time.perf_counter(); "
        f"compile({str(onnx)!r}); print(time.perf_counter() - start)"
    )
    environment = {**os.environ, "OCTAVO_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise OctavoError(f"compiling {onnx.name} failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return float(json.loads(done.stdout))


def _product(x: Value) -> Value:
    return x @ np.eye(8, dtype=np.float32)


def _mixed(x: Value) -> Value:
    return ops.softmax(ops.relu(x + np.float32(1)), axis=1)


def _growth(layer: Callable[[Value], Value], nodes: int) -> float:
    """The processor time to compile 10,000 nodes over that of 1,000, made of layers of some nodes."""

    def seconds(total: int) -> float:
        def model(x: Value) -> Value:
            for _ in range(total // nodes):
                x = layer(x)
            return x

        graph = trace(model, spec("f32", ("batch", 8)))
        start = time.process_time()
        compile_native(graph)
        return time.process_time() - start

    seconds(10)  # its few kernels are compiled once
    return seconds(10_000) / seconds(1_000)
