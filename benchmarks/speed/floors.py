"""Figures of Octavo alone: the time to compile, the cost of a call, and of numbers too small to be normal."""

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

from ...compiler.driver import compile, compile_native
from ...compiler.machine import pinned
from ...compiler.profile import profile
from ...compiler.progress import report
from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.errors import OctavoError
from ...ir.graph import Graph, Value
from ..c_runner import CRunner
from .cases import export_zoo

COMPILED = "resnet50"
STAGES = 6  # steps that `measure_floors` reports
CALLS = 2000
C_CALLS = 200_000
TEN_OPS_INPUT = np.ones((1, 4), np.float32)
WINDOW = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1, "layout": "channels_first", "out": None}


@dataclass(frozen=True)
class Floors:
    """compile_s: the time of `compile` for the ONNX file of `COMPILED`, in a new process with an empty object cache; cached_s: again.

    call_us: a Python call of a compiled graph of ten small ops; c_call_us: a call of it from C, NaN without a C compiler; kernel_us: of
    which its kernels.  chain_growth, mix_growth: the time to compile 10,000 nodes over that of 1,000, for a chain of matmuls and for a
    chain of additions, activations and softmaxes.
    subnormal_ratios: by what is subnormal, the time of some layers with such numbers over that with normal ones.
    """

    compile_s: float
    cached_s: float
    call_us: float
    c_call_us: float
    kernel_us: float
    chain_growth: float
    mix_growth: float
    subnormal_ratios: dict[str, float]
    scheduling: str


def measure_floors(target: str = "native", rounds: int = 9) -> Floors:
    """Takes about a minute.  Raises OctavoError where the compilation fails."""
    with pinned(1, realtime=True) as scheduling:
        report("calls of ten ops", 0, STAGES)
        call_us = _call_us(target, rounds)
        report("calls of ten ops from C", 1, STAGES)
        c_call_us = _c_call_us(target, rounds)
        kernel_us = profile(compile_native(_ten_ops_graph(), target=target), {"x": TEN_OPS_INPUT}, target=target, seconds=0.2).kernel_us
        report("subnormal numbers", 2, STAGES)
        subnormal = {"inputs": subnormal_ratio(target, rounds, 1e-40, 1.0), "weights": subnormal_ratio(target, rounds, 1.0, 1e-40)}
    with tempfile.TemporaryDirectory(prefix="octavo-speed-") as name:
        folder = Path(name)
        report(f"compile {COMPILED}", 3, STAGES)
        onnx = export_zoo(COMPILED, folder)
        cold = _compile_seconds(onnx, folder / "cache", target)
        report(f"compile {COMPILED} from the cache", 4, STAGES)
        cached = _compile_seconds(onnx, folder / "cache", target)
    report("compile 10,000 nodes", 5, STAGES)
    chain_growth, mix_growth = (_growth(layer, nodes, target) for layer, nodes in ((_product, 1), (_mixed, 3)))
    return Floors(cold, cached, call_us, c_call_us, kernel_us, chain_growth, mix_growth, subnormal, scheduling)


def subnormal_ratio(target: str, rounds: int, of_inputs: float, of_weights: float) -> float:
    """The time of a convolution, a matmul and what is between them, with numbers scaled so, over the time unscaled."""
    rng = np.random.default_rng(0)
    kernel, matrix = rng.standard_normal((32, 16, 3, 3), np.float32), rng.standard_normal((32, 64), np.float32)
    x = rng.standard_normal((1, 16, 32, 32), np.float32)

    def timed(input_scale: float, weight_scale: float) -> Callable[[], float]:
        def layers(x: Value) -> Value:
            y = ops.relu(ops.conv(x, kernel * np.float32(weight_scale), **WINDOW))
            y = ops.reshape(ops.transpose(y, perm=(0, 2, 3, 1)), shape=(1024, 32))
            return ops.softmax(y @ (matrix * np.float32(weight_scale)), axis=1)

        model = compile(trace(layers, spec("f32", x.shape)), target=target, threads=1)
        given = x * np.float32(input_scale)

        def once() -> float:
            start = time.perf_counter()
            for _ in range(20):
                model(given)
            return time.perf_counter() - start

        return once

    normal, scaled = timed(1.0, 1.0), timed(of_inputs, of_weights)
    for warm_up in (scaled, normal):
        warm_up()
    return statistics.median(scaled() / normal() for _ in range(rounds))


def ten_ops(x: Value) -> Value:
    """Three layers of four neurons (matmul, add, relu) and a softmax: ten ops whose own time is next to nothing."""
    w = np.eye(4, dtype=np.float32)
    for _ in range(3):
        x = ops.relu(x @ w + np.float32(1))
    return ops.softmax(x, axis=1)


def _ten_ops_graph() -> Graph:
    return trace(ten_ops, spec("f32", ("batch", 4)))


def _call_us(target: str, rounds: int) -> float:
    model = compile(_ten_ops_graph(), target=target, threads=1)
    each = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(CALLS):
            model(TEN_OPS_INPUT)
        each.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(each)


def _c_call_us(target: str, rounds: int) -> float:
    with tempfile.TemporaryDirectory(prefix="octavo-speed-") as folder:
        compile(_ten_ops_graph(), target=target).save(Path(folder) / "ten.octavo")
        try:
            program = CRunner(Path(folder) / "ten.octavo", Path(folder))
        except OctavoError:
            return math.nan
        return statistics.median(program.seconds({"x": TEN_OPS_INPUT}, C_CALLS) for _ in range(rounds)) * 1e6


def _compile_seconds(onnx: Path, cache: Path, target: str) -> float:
    """The time of `compile` in a new process with this folder as its cache."""
    package = __name__.partition(".benchmarks")[0]
    code = (
        f"import time; from {package}.compiler.driver import compile; start = time.perf_counter(); "
        f"compile({str(onnx)!r}, target={target!r}); print(time.perf_counter() - start)"
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


def _growth(layer: Callable[[Value], Value], nodes: int, target: str) -> float:
    """The processor time to compile 10,000 nodes over that of 1,000, made of layers of some nodes."""

    def seconds(total: int) -> float:
        def model(x: Value) -> Value:
            for _ in range(total // nodes):
                x = layer(x)
            return x

        graph = trace(model, spec("f32", ("batch", 8)))
        start = time.process_time()
        compile_native(graph, target=target)
        return time.process_time() - start

    seconds(10)  # its few kernels are compiled once
    return seconds(10_000) / seconds(1_000)
