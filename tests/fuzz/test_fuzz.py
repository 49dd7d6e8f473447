"""The fuzzer finds what is broken, makes it small, survives crashes, and finds nothing in a short run."""

from __future__ import annotations

import os
import signal

import numpy as np
from octavo.ir.graph import Graph, const_value, input_value, rewrite
from octavo.ir.ops.operators import build
from octavo.ir.ops.registry import OPS
from octavo.ir.text import to_text
from octavo.ir.types import TensorType, f32
from octavo.tests.fuzz import differential
from octavo.tests.fuzz.differential import bounds, check
from octavo.tests.fuzz.generate import generate
from octavo.tests.fuzz.isolate import Crash, each
from octavo.tests.fuzz.numerics import mismatch
from octavo.tests.fuzz.run import findings
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
