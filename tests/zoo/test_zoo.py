"""The zoo's models at reduced size: sound graphs, sane numbers, and the same results by way of text, ONNX and native code."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.benchmarks import zoo
from octavo.benchmarks.zoo.__main__ import largest_error
from octavo.compiler.compare import TOLERANCE, relative_error
from octavo.frontend.onnx import export_model, import_model
from octavo.ir.dims import symbol
from octavo.ir.errors import OctavoError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph
from octavo.ir.parse import parse
from octavo.ir.text import canonical_text, large_constants, to_text
from octavo.ir.verify import verify
from octavo.passes.pipeline import optimize

NAMES = tuple(zoo.MODELS)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def graph(name: str) -> Graph:
    return zoo.build(name, small=True)


@pytest.fixture(scope="module")
def expected(name: str, graph: Graph) -> list[np.ndarray]:
    return evaluate(graph, zoo.feeds(name, 2, small=True))


def test_the_graph_verifies_and_is_named(name: str, graph: Graph):
    verify(graph)
    assert graph.name == name
    assert all(node.loc.startswith("zoo/") for node in graph.nodes if node.inputs)


def test_the_batch_is_symbolic(name: str, graph: Graph):
    if name == "matmul":
        return
    assert graph.symbols == ("batch",)
    assert all(symbol("batch") in v.shape for v in (*graph.inputs, *graph.outputs))


def test_weights_are_the_same_every_time(name: str, graph: Graph):
    assert canonical_text(zoo.build(name, small=True)) == canonical_text(graph)


def test_outputs_neither_vanish_nor_explode(expected: list[np.ndarray]):
    for array in expected:
        assert np.isfinite(array).all()
        assert 1e-2 < array.std() < 1e2


def test_results_of_a_row_do_not_depend_on_the_batch(name: str, graph: Graph, expected: list[np.ndarray]):
    if name == "matmul":
        return
    axis = 1 if name == "lstm" else 0
    feeds = {key: a.take([1], axis) for key, a in zoo.feeds(name, 2, small=True).items()}
    for alone, together in zip(evaluate(graph, feeds), expected, strict=True):
        assert relative_error(alone, together.take([1], axis)) < 1e-5


def test_the_graph_comes_back_from_its_text(graph: Graph):
    again = parse(to_text(graph), large_constants(graph))
    assert canonical_text(again) == canonical_text(graph)


def test_passes_keep_the_results_and_fold_batch_norm(name: str, graph: Graph, expected: list[np.ndarray]):
    optimized = optimize(graph)
    assert "batch_norm" not in {n.op for n in optimized.nodes}
    for actual, e in zip(evaluate(optimized, zoo.feeds(name, 2, small=True)), expected, strict=True):
        assert relative_error(actual, e) < 1e-5


def test_the_graph_comes_back_from_onnx(name: str, graph: Graph, expected: list[np.ndarray]):
    again = import_model(export_model(graph))
    assert (again.input_names, again.output_names) == (graph.input_names, graph.output_names)
    assert [v.type for v in again.inputs] == [v.type for v in graph.inputs]
    for actual, e in zip(evaluate(again, zoo.feeds(name, 2, small=True)), expected, strict=True):
        assert relative_error(actual, e) < 1e-5


def test_native_code_matches_onnxruntime(name: str):
    assert largest_error(name, small=True) <= TOLERANCE


def test_an_unknown_name_lists_the_known():
    with pytest.raises(OctavoError, match="no model 'resnet'; it has resnet50, mobilenet_v2"):
        zoo.build("resnet")
