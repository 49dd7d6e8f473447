"""What grids of threads compute, on the emulator: the reference's values, the CPU's bits."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo.benchmarks.zoo.registry import MODELS
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph
from octavo.ir.ops.registry import OPS
from octavo.tests.fuzz.numerics import mismatch

from ..test_conformance import NAMES, expected_of, node_of
from . import models
from .emulated import executable

SIZES = {
    "softmax of 1": lambda: models.softmax(1),
    "softmax of 15": lambda: models.softmax(15),
    "softmax of 64": lambda: models.softmax(64),
    "softmax of 65": lambda: models.softmax(65),
    "softmax of 200": lambda: models.softmax(200),
    "softmax of any length": lambda: models.softmax("length"),
    "argmax": models.largest,
    "matmul 1x1x1": lambda: models.matmul(1, 1, 1),
    "matmul 65x16x64": lambda: models.matmul(65, 16, 64),
    "matmul 3x33x17": lambda: models.matmul(3, 33, 17),
    "matmul nx50x129": lambda: models.matmul("n", 50, 129),
    "matmul of any depth": lambda: models.matmul("n", "length", 20),
    "matmul f64": lambda: models.matmul("n", 20, 20, "f64"),
    "matmul f16": lambda: models.matmul("n", 20, 20, "f16"),
    "batched matmul": models.batched,
    "conv of groups": lambda: models.convolution(groups=3),
    "conv dilated": lambda: models.convolution(steps=1, dilation=2),
    "conv 1x1 steps": lambda: models.convolution(pad=0),
}
GRAPHS = {**models.KINDS, **SIZES}


def feeds_for(graph: Graph, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {n: tuple(sizes.get(str(d), d) for d in v.shape) for n, v in zip(graph.input_names, graph.inputs, strict=True)}
    dtypes = {n: v.dtype.np for n, v in zip(graph.input_names, graph.inputs, strict=True)}
    return {n: rng.standard_normal(shape).astype(dtypes[n]) for n, shape in shapes.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_grid_computes_the_bits_of_the_cpu(name: str):
    graph = GRAPHS[name]()
    (on_grid, _), native = executable(graph), octavo.compile(graph)
    for n in (1, 5):
        feeds = feeds_for(graph, {"n": n, "length": 100 * n + 3})
        actual, expected = on_grid.run(list(feeds.values())), native.run(None, feeds)
        for a, b, r in zip(actual, expected, evaluate(graph, feeds), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, r, rtol=1e-2 if a.dtype == np.float16 else 1e-5, atol=1e-5)


def test_a_row_has_the_same_bits_in_any_batch():
    on_grid, _ = executable(models.biased())
    x = np.random.default_rng(0).standard_normal((70, 20)).astype(np.float32)
    (alone,), (among,) = on_grid.run([x[65:66]]), on_grid.run([x])
    np.testing.assert_array_equal(alone[0], among[65])


def test_nothing_is_launched_for_an_empty_result():
    on_grid, device = executable(models.pointwise())
    (result,) = on_grid.run([np.zeros((0, 300), np.float32), np.zeros(300, np.float32)])
    assert result.shape == (0, 300)
    assert device.launched == []


@pytest.mark.parametrize("name", ["mlp", "conv3x3", "matmul", "bert_small", "lstm"])
def test_a_model_of_the_zoo_has_the_bits_of_the_cpu(name: str):
    model = MODELS[name]
    graph = model.make(**model.small)
    feeds = model.feed(np.random.default_rng(0), 2, **model.small)
    actual = executable(graph)[0].run([feeds[name] for name in graph.input_names])
    for a, b in zip(actual, octavo.compile(graph).run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_computes_what_an_op_means(name: str):
    make = OPS[name].samples
    assert make
    samples = list(make(np.random.default_rng(5)))
    nodes = [node_of(name, sample, k) for k, sample in enumerate(samples)]
    graph = Graph(name, tuple(v for n in nodes for v in n.inputs), tuple(v for n in nodes for v in n.outputs))
    arrays = [a for sample in samples for a in sample.inputs]
    actual = iter(executable(graph)[0].run(arrays))
    for node, sample in zip(nodes, samples, strict=True):
        for expected in expected_of(node, sample):
            problem = mismatch(next(actual), expected)
            assert not problem, f"{node!r} {dict(node.attrs)}: {problem}"
