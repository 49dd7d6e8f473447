"""The fuzzer finds what is broken, makes it small, survives crashes, and finds nothing in a short run."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from octavo.ir.graph import Graph, Node, Value, const_value, input_value, rewrite
from octavo.ir.ops.operators import build
from octavo.ir.ops.registry import OPS
from octavo.ir.text import to_text
from octavo.ir.types import TensorType, f32, i32, u8
from octavo.passes.pipeline import optimize
from octavo.tests.fuzz import differential
from octavo.tests.fuzz.differential import bounds, check, check_quantized
from octavo.tests.fuzz.generate import generate
from octavo.tests.fuzz.intervals import intervals, outside
from octavo.tests.fuzz.isolate import Crash, each
from octavo.tests.fuzz.numerics import mismatch
from octavo.tests.fuzz.quantized import generate_quantized
from octavo.tests.fuzz.run import QUANTIZED, findings
from octavo.tests.fuzz.shrink import shrink


def test_the_same_seed_gives_the_same_case():
    first, second = generate(7), generate(7)
    assert to_text(first.graph) == to_text(second.graph)
    assert all((a[name] == b[name]).all() for a, b in zip(first.feeds, second.feeds) for name in a)


def test_graphs_hold_every_kind_of_op_and_symbolic_sizes():
    graphs = [generate(seed).graph for seed in range(40)]
    kinds = {OPS[node.op].kind for g in graphs for node in g.nodes}
    assert kinds >= {"pointwise", "index", "reduction", "contraction", "composite", "opaque", "control"}
    assert any(g.symbols == ("m", "n") for g in graphs)


def test_the_tolerance_follows_the_conditioning():
    x = input_value("x", TensorType(f32, (2,)))
    graph = Graph("g", (x,), (build("log", build("sub", build("exp", x), 1.0)),))  # cancels near 0
    result = bounds(graph, {"x": np.array([1e-3, 3], np.float32)})
    assert result is not None
    (error,) = (r.error for r in result)
    assert error is not None
    assert error[0] > 20 * error[1]


def test_a_comparison_that_may_flip_has_no_expected_result():
    x = input_value("x", TensorType(f32, (1,)))
    flips = Graph("g", (x,), (build("gt", build("exp", x), float(np.exp(np.float32(0.5)))),))
    assert bounds(flips, {"x": np.array([0.5], np.float32)}) is None
    assert bounds(flips, {"x": np.array([0.6], np.float32)}) is not None


def test_a_wrong_element_is_reported_with_its_place():
    x = input_value("x", TensorType(f32, (2, 3)))
    graph = Graph("g", (x,), (build("exp", x),))
    (expected,) = bounds(graph, {"x": np.zeros((2, 3), np.float32)}) or []
    wrong = np.ones((2, 3), np.float32)
    assert mismatch(wrong, expected) == ""
    wrong[1, 2] = 1.001
    assert mismatch(wrong, expected).startswith("1 of 6 elements differ, first at (1, 2)")
    assert mismatch(wrong.astype(np.float64), expected) == "float64[2, 3] instead of float32[2, 3]"


def test_a_pass_that_is_wrong_is_found_and_shrunk(monkeypatch):
    def forgets_relu(graph: Graph) -> Graph:
        return rewrite(graph, lambda node, inputs: inputs[0] if node.op == "relu" else None)

    monkeypatch.setattr(differential, "PIPELINE", (forgets_relu,))
    case = next(c for c in map(generate, range(200)) if check(c.graph, c.feeds, ("pass",)))
    failure = check(case.graph, case.feeds, ("pass",))
    assert failure is not None
    assert failure.stage == "pass forgets_relu"
    small = shrink(case, lambda c: check(c.graph, c.feeds, ("pass",)) is not None)
    assert [n.op for n in small.graph.nodes if n.inputs] == ["relu"]
    assert len(small.feeds) == 1
    assert not small.graph.symbols


def test_shrinking_keeps_constants_and_inputs_that_matter():
    x = input_value("x", TensorType(f32, (2,)))
    graph = Graph("g", (x,), (build("add", build("neg", x), const_value(np.ones(2, np.float32))),))
    case = generate(0)
    case = type(case)(0, graph, ({"x": np.ones(2, np.float32)},))
    small = shrink(case, lambda c: any(n.op == "add" for n in c.graph.nodes))
    assert [n.op for n in small.graph.nodes if n.inputs] == ["add"]


def test_a_crash_is_a_result_and_the_rest_goes_on():
    def work(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if item == 2:
            raise ValueError("two")
        return item

    results = [done.result for done in each(work, [0, 1, 2, 3])]
    assert results[0] == 0
    assert results[1] == Crash("the process died of SIGSEGV")
    assert isinstance(results[2], Crash)
    assert "ValueError: two" in results[2].reason
    assert results[3] == 3


def test_a_short_run_finds_nothing():
    stages = (*differential.STAGES, *differential.LEVELS[:1])  # the least of what runs here too
    found = [finding for finding in findings(range(40), stages=stages) if finding is not None]
    assert not found, "\n".join(map(str, found))


# --- networks of 8-bit values ---


@pytest.mark.filterwarnings("ignore::octavo.ir.errors.QuantWarning")
def test_quantized_networks_multiply_bytes_in_every_way():
    graphs = [generate_quantized(seed, 8).graph for seed in range(40)]
    nodes = [n for g in graphs for n in optimize(g).nodes]
    integer = [n for n in nodes if n.op in ("conv", "matmul") and n.types[0].dtype is i32]
    convolutions = [n for n in integer if n.op == "conv"]
    assert len(integer) > 40
    assert {n.types[0].rank for n in convolutions} == {3, 4, 5}
    assert {n.attrs["groups"] > 1 for n in convolutions} == {True, False}
    assert any(n.op == "matmul" for n in integer)
    assert any(g.symbols for g in graphs)


def number(x: float, dtype: type = np.float32) -> Value:
    return const_value(np.array(x, dtype))


def byte_layer() -> tuple[Graph, dict[str, np.ndarray]]:
    """A matmul of bytes, requantized."""
    x = input_value("x", TensorType(u8, (16, 8)))
    real = build("dequantize", x, number(0.02), number(7, np.uint8))
    w = np.random.default_rng(0).integers(-99, 99, (8, 8)).astype(np.int8)
    product = build("matmul", real, build("dequantize", const_value(w), number(0.01), number(0, np.int8)))
    q = build("quantize", product, number(0.1), number(128, np.uint8), to=u8)
    return Graph("bytes", (x,), (q,)), {"x": np.random.default_rng(1).integers(0, 255, (16, 8)).astype(np.uint8)}


def test_one_form_of_a_quantized_graph_has_one_result():
    graph, feeds = byte_layer()
    (exact,) = intervals(optimize(graph), feeds, forms=False)
    assert exact.is_exact
    (allowed,) = intervals(graph, feeds, forms=True)
    assert outside(exact.low, allowed) == ""
    assert "instead of" in outside(exact.low + np.uint8(1), allowed)


def test_a_value_at_a_step_may_be_either_byte_and_no_other():
    x = input_value("x", TensorType(f32, (2,)))
    graph = Graph("g", (x,), (build("quantize", build("exp", x), number(1), number(0, np.uint8), to=u8),))
    (allowed,) = intervals(graph, {"x": np.log(np.array([2.5, 2.6], np.float32))}, forms=False)
    assert allowed.low.tolist() == [2, 3]
    assert allowed.high.tolist() == [3, 3]


@pytest.mark.filterwarnings("ignore::octavo.ir.errors.QuantWarning")
def test_a_pass_that_moves_zero_points_is_found_and_shrunk(monkeypatch):
    def moves_zero_points(graph: Graph) -> Graph:
        def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
            if node.op == "dequantize" and node.inputs[0].dtype is i32 and not node.inputs[0].is_const:
                return build("dequantize", inputs[0], inputs[1], number(40, np.int32))
            return None

        return rewrite(graph, rule)

    pipeline = (*differential.PIPELINE, moves_zero_points)
    monkeypatch.setattr(differential, "PIPELINE", pipeline)
    case = next(c for c in (generate_quantized(s, 4) for s in range(50)) if check_quantized(c.graph, c.feeds, ("pass",)))
    small = shrink(case, lambda c: check_quantized(c.graph, c.feeds, ("pass",)) is not None)
    failure = check_quantized(small.graph, small.feeds, ("pass",))
    assert failure is not None
    assert failure.stage == "pass moves_zero_points"
    assert sum(n.op in ("conv", "matmul") for n in small.graph.nodes) == 1


def test_a_short_run_of_quantized_networks_finds_nothing():
    found = [finding for finding in findings(range(20), nodes=3, kind=QUANTIZED) if finding is not None]
    assert not found, "\n".join(map(str, found))
