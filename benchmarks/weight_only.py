"""`python -m octavo.benchmarks.weight_only`: how fast is a matmul whose weights alone are quantized?

One product of few rows by large constant weights, on one thread: Octavo's in f32, with int8 and with int4 weights (blocks of 32) beside
onnxruntime's in f32 and its MatMulNBits of the same 4-bit integers, with activations in f32 and in int8, which is what it does unless
told otherwise.  All take turns in one process, and a ratio is that of medians.  What a product reads, over the bandwidth measured in
between, is the least time that it can take; where the weights lie in the largest cache, that of a large read is no limit.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .. import __version__
from ..backends.cpu.peak import Peaks
from ..backends.target import find_target
from ..compiler.cli.options import standard
from ..compiler.cli.terminal import Terminal
from ..compiler.driver import compile
from ..compiler.machine import Machine, describe_machine, pinned
from ..compiler.progress import report
from ..compiler.quantize import quantize
from ..ir.files import replacing
from .tables import Section, markdown, show

RESULTS = Path(__file__).parent / "results"
SHAPES = ((4096, 4096), (8192, 8192), (4096, 11008))  # of weights; the last is that of a large language model
ROWS = (1, 4, 16)
BLOCK = 32
TURNS = 3  # that are not counted
BYTES = {"f32": 4.0, "int8": 1.0, "int4": 0.5 + 4 / BLOCK}  # that are read for a weight
COLUMNS = ("rows", "weights", "runtime", "ms", "f32 over it", "GB/s", "of the bandwidth")

Run = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Row:
    """One runtime's product: median time, and how many times longer Octavo's in f32 takes."""

    rows: int
    weights: tuple[int, int]
    runtime: str
    ms: float
    gain: float
    gb_per_s: float
    bandwidth: float


def measure(rows: int, weights: tuple[int, int], turns: int) -> list[Row]:
    """Every runtime's time for a product of `rows` rows by weights of this shape."""
    w = (np.random.default_rng(0).standard_normal(weights) * 0.05).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((rows, weights[0])).astype(np.float32)
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, rows)
    small = quantize(model, weight_only="int4", block=BLOCK, weights="max")
    runs: dict[str, Run] = {}
    for name, source in (("f32", model), ("int8", quantize(model, weight_only="int8")), ("int4", small)):
        report(f"compile {rows} x {weights[0]} x {weights[1]}, {name}", len(runs), 6)
        runs[f"octavo {name}"] = compile(source, threads=1)
    q, scales, _ = (v.array for v in next(n for n in small.nodes if n.op == "dequantize").inputs)
    runs["onnxruntime f32"] = _onnxruntime(model)
    runs["onnxruntime int4"] = _onnxruntime(_n_bits(q, scales, rows, 1))
    runs["onnxruntime int4, int8 activations"] = _onnxruntime(_n_bits(q, scales, rows, 4))
    expected = x @ w
    for name, run in runs.items():
        error = np.sqrt(np.square(np.reshape(run(x), expected.shape) - expected).mean() / np.square(expected).mean())
        assert error < 0.2, f"{name} computes something else"
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks = Peaks(find_target("native"))
    report(f"run {rows} x {weights[0]} x {weights[1]}", 5, 6)
    with pinned(1, realtime=True):
        for turn in range(TURNS + turns):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                if turn >= TURNS:
                    times[name].append(time.perf_counter() - start)
        bandwidth = peaks.bandwidth()
    medians = {name: statistics.median(t) for name, t in times.items()}
    return [_row(rows, weights, name, t, medians["octavo f32"], bandwidth) for name, t in medians.items()]


def _row(rows: int, weights: tuple[int, int], name: str, seconds: float, f32: float, bandwidth: float) -> Row:
    of = BYTES[name.split(",")[0].split()[1]]
    return Row(rows, weights, name, seconds * 1e3, f32 / seconds, weights[0] * weights[1] * of / seconds / 1e9, bandwidth)


def _model(nodes: Sequence[onnx.NodeProto], arrays: dict[str, np.ndarray], rows: int, columns: int = 0) -> onnx.ModelProto:
    depth = next(iter(arrays.values())).shape[0]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth if not columns else None])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns or None])
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=opsets, ir_version=10)


def _n_bits(q: np.ndarray, scales: np.ndarray, rows: int, accuracy: int) -> onnx.ModelProto:
    """MatMulNBits of the integers [blocks, block, columns]; accuracy: 1, activations in f32, or 4, in int8."""
    blocks, block, columns = q.shape
    unsigned = np.moveaxis(q.astype(np.int8) + 8, -1, 0).astype(np.uint8)  # [columns, blocks, block]
    packed = unsigned[..., 0::2] | unsigned[..., 1::2] << 4
    by_column = np.ascontiguousarray(np.moveaxis(scales[:, 0], -1, 0))
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=blocks * block, N=columns, bits=4, block_size=block, accuracy_level=accuracy,
    )  # fmt: skip
    return _model([node], {"w": packed, "s": by_column}, rows, columns)


def _onnxruntime(model: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The table."""
    cells = tuple(
        (str(r.rows), f"{r.weights[0]} x {r.weights[1]}", r.runtime, f"{r.ms:.3f}", f"{r.gain:.2f}", f"{r.gb_per_s:.1f}")
        + (f"{r.gb_per_s / r.bandwidth:.0%}",)
        for r in rows
    )
    return [Section("Products by large weights", COLUMNS, cells, ("int4: blocks of 32 rows with scales in f32",))]


def _setting(machine: Machine) -> list[str]:
    return [str(machine), f"octavo {__version__}, onnxruntime {onnxruntime.__version__}, one thread"]


@click.command()
@click.option("--shape", nargs=2, type=int, multiple=True, metavar="K N", help="Measure weights of this shape, and write nothing.")
@click.option("--turns", type=click.IntRange(1), default=21, show_default=True, help="Runs of every runtime that are counted.")
@standard
@click.pass_context
def main(ctx: click.Context, shape: tuple[tuple[int, int], ...], turns: int) -> None:
    """Measure products with weights in f32, int8 and int4 beside those of onnxruntime."""
    terminal = ctx.ensure_object(Terminal)
    with terminal.progress("weight only"):
        rows = [r for weights in shape or SHAPES for m in ROWS for r in measure(m, weights, turns)]
    machine = describe_machine()
    data = {"machine": asdict(machine), "rows": [asdict(r) for r in rows]}
    terminal.emit(data, lambda out: show(out, _setting(machine), sections(rows)))
    if not shape:
        lines = ["# Weights of few bits", "", *(f"{line}  " for line in _setting(machine)), *markdown(sections(rows))]
        for suffix, text in {".json": json.dumps(data, indent=1), ".md": "\n".join(lines)}.items():
            with replacing(RESULTS / f"weight_only{suffix}") as temporary:
                temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
