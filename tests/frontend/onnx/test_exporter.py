"""Export: every op's samples come back from ONNX as they were, names and symbols are kept, onnxruntime agrees."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from octavo.frontend.onnx import export_model, import_model
from octavo.ir.dims import symbol
from octavo.ir.errors import UnsupportedOp
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value, variable_value
from octavo.ir.ops.registry import OPS, apply, apply_node
from octavo.ir.types import TensorType, dtype_of, f32
from octavo.passes.expand import expand

from .models import imported, onnxruntime_run, run

UNSAYABLE = {  # ops that ONNX at opset 21 has no way to write
    "bitcast": "BitCast comes with opset 26",
    "cumprod": "CumProd comes with opset 26",
    "histogram": "what calibration computes",
    "nms": "a padded result with a count",
    "unique": "a padded result with a count",
    "pack_panels": "a layout of the CPU backend",
    "unpack_panels": "a layout of the CPU backend",
    "pack_dots": "a layout of the CPU backend",
    "unpack_dots": "a layout of the CPU backend",
    "pack_nibbles": "a layout of the CPU backend",
    "unpack_nibbles": "a layout of the CPU backend",
    "pack_taps": "a layout of the CPU backend",
    "unpack_taps": "a layout of the CPU backend",
    "pack_windows": "a layout of the CPU backend",
    "unpack_windows": "a layout of the CPU backend",
    "unpack_winograd": "a layout of the CPU backend",
}
PADDED = {"nonzero", "compress", "bind_size"}  # equal only up to the count, which bind_size cuts by
SAMPLED = [name for name, op in OPS.items() if op.samples is not None and name not in UNSAYABLE and name not in PADDED]


@pytest.mark.parametrize("name", sorted(SAMPLED))
def test_samples_survive_a_round_trip(name: str) -> None:
    samples = OPS[name].samples
    assert samples is not None
    for k, sample in enumerate(samples(np.random.default_rng(0))):
        if k % 3:  # a third of the samples covers all attributes of most ops
            continue
        inputs = tuple(input_value(f"x{j}", TensorType(dtype_of(a.dtype), a.shape)) for j, a in enumerate(sample.inputs))
        graph = Graph("g", inputs, apply_node(name, inputs, sample.attrs).outputs)
        feeds = {f"x{j}": a for j, a in enumerate(sample.inputs)}
        proto = export_model(graph)
        onnx.checker.check_model(proto)
        for ours, theirs in zip(run(proto, **feeds), evaluate(graph, feeds), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["bitcast", "cumprod"])
def test_what_onnx_cannot_say_is_refused(name: str) -> None:
    samples = OPS[name].samples
    assert samples is not None
    sample = next(iter(samples(np.random.default_rng(0))))
    inputs = tuple(input_value(f"x{j}", TensorType(dtype_of(a.dtype), a.shape)) for j, a in enumerate(sample.inputs))
    with pytest.raises(UnsupportedOp, match=name):
        export_model(Graph("g", inputs, apply_node(name, inputs, sample.attrs).outputs))


def symbolic() -> Graph:
    n, s = symbol("batch"), symbol("seq")
    x = input_value("tokens", TensorType(f32, (n, s * 2, 4)))
    halves = apply("reshape", x, shape=(n, s, 8), loc="onnx:/split/Reshape")
    last = apply("slice", halves, starts=(0, s - 1, 0), stops=(n, s, 8), steps=(1, 1, 1))
    filled = apply("broadcast_to", last, shape=(n, s + 3, 8))
    odd = apply("pad", filled, low=(0, 0, 0), high=(0, (s + 1) // 2 * 2 - s, 0))
    return Graph("net", (x,), (apply("softmax", odd, axis=2), apply("sizes", dims=(n * s, s))), ("probabilities", "counts"))


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 4), (3, 5)])
def test_symbolic_sizes_are_computed_from_the_inputs(batch: int, seq: int) -> None:
    graph, x = symbolic(), np.random.default_rng(0).standard_normal((batch, 2 * seq, 4)).astype(np.float32)
    proto = export_model(graph)
    expected = evaluate(graph, {"tokens": x})
    for results in (run(proto, tokens=x), onnxruntime_run(proto, {"tokens": x})):
        for ours, theirs in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(("op", "gates", "states"), [("lstm", 4, 2), ("gru", 3, 1), ("rnn", 1, 1)])
def test_a_plain_recurrent_layer_is_one_node(op: str, gates: int, states: int) -> None:
    shapes = [(5, 2, 3), (2, 4 * gates, 3), (2, 4 * gates, 4), (2, 8 * gates), *[(2, 2, 4)] * states]
    inputs = tuple(input_value(f"x{k}", TensorType(f32, shape)) for k, shape in enumerate(shapes))
    proto = export_model(Graph("g", inputs, apply_node(op, inputs, {"direction": "bidirectional"}).outputs))
    assert [n.op_type for n in proto.graph.node if n.op_type != "Identity"] == [op.upper()]


def test_names_and_symbols_are_kept() -> None:
    proto = export_model(symbolic())
    assert [v.name for v in proto.graph.input] == ["tokens"]
    assert [v.name for v in proto.graph.output] == ["probabilities", "counts"]
    assert any(node.name.startswith("/split/Reshape") for node in proto.graph.node)
    back = import_model(proto)
    assert str(back.inputs[0].type) == "f32[batch,2*seq,4]"


def test_an_input_and_a_constant_can_be_outputs() -> None:
    x = input_value("x", TensorType(f32, (2,)))
    graph = Graph("g", (x,), (x, const_value(np.float32([1, 2])), x), ("a", "b", "c"))
    results = run(export_model(graph), x=np.float32([3, 4]))
    np.testing.assert_array_equal(results, [[3, 4], [1, 2], [3, 4]])


def test_a_graph_that_updates_variables_is_refused() -> None:
    v = variable_value("w", np.zeros(2, np.float32))
    with pytest.raises(UnsupportedOp, match="updates variables"):
        export_model(Graph("g", (), (v,), (), {v: apply("neg", v)}))


def test_non_zero_round_trips_with_its_run_time_size() -> None:
    graph = imported("(float[n,3] x) => (int64[2,m] y) { y = NonZero(x) }")
    x = np.float32([[0, 1, 0], [2, 0, 3]])
    np.testing.assert_array_equal(run(export_model(graph), x=x)[0], np.array(np.nonzero(x)))


POOL = {"kernel": (3, 2), "strides": (2, 1), "pads": ((1, 0), (0, 1)), "dilations": (1, 2)}


@pytest.mark.parametrize("dtype", ["f32", "u8"])
def test_a_max_pool_that_was_expanded_is_one_again(dtype: str) -> None:
    x = input_value("x", TensorType(dtype_of(dtype), (1, 2, 7, symbol("w"))))
    graph = Graph("net", (x,), (apply("max_pool", x, **POOL),))
    proto = export_model(expand(graph))
    assert [n.op_type for n in proto.graph.node if n.op_type != "Identity"] == ["MaxPool"]
    pixels = np.random.default_rng(0).integers(0, 99, (1, 2, 7, 9)).astype(x.dtype.np)
    np.testing.assert_array_equal(run(proto, x=pixels)[0], evaluate(graph, {"x": pixels})[0])


@pytest.mark.parametrize("change", [{"fill": 0.0}, {"axes": (1, 2)}, {"low": (4, 0)}])
def test_what_max_pool_does_not_mean_stays_windows(change: dict[str, object]) -> None:
    x = input_value("x", TensorType(f32, (1, 4, 7, 9)))
    plain = {"axes": (2, 3), "kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "low": (1, 0), "high": (0, 1), "fill": -math.inf}
    windows = apply("window", x, **plain | change)
    graph = Graph("net", (x,), (apply("reduce_max", windows, axes=(4, 5), keepdims=False),))
    proto = export_model(graph)
    assert "MaxPool" not in {n.op_type for n in proto.graph.node}
    pixels = np.random.default_rng(0).standard_normal((1, 4, 7, 9), np.float32) - 3
    np.testing.assert_array_equal(run(proto, x=pixels)[0], evaluate(graph, {"x": pixels})[0])
