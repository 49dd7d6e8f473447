"""Errors of quantized values: where layers end, and what is the error of a layer and what that of those before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import octavo
import pytest
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value
from octavo.ir.text import parse, value_names
from octavo.passes.quantize.errors import layers, measuring
from octavo.passes.quantize.quantize import Quantization, quantization, quantize

from .networks import images, residual_network, rows, separable_network, transformer


def quantized(graph: Graph, data: list[dict[str, np.ndarray]], **options: object) -> Quantization:
    return quantization(graph, octavo.calibrate(graph, data), **options)  # type: ignore[arg-type]


def power(x: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64)).sum())


def measured(q: Quantization, sample: Mapping[str, np.ndarray]) -> list[tuple[float, float, float]]:
    """Signal, total error and the error of the layer alone, for each layer."""
    graph, found, _ = measuring(q)
    sums = [float(x) for x in evaluate(graph, sample)]
    return [(sums[e.signal], sums[e.total], sums[e.alone]) for e in found if e.alone is not None]


def values(graph: Graph, wanted: list[Value], sample: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return evaluate(Graph(graph.name, graph.inputs, tuple(wanted)), sample)


def test_a_layer_goes_on_to_the_value_that_is_stored() -> None:
    q = quantized(residual_network(), images(2))
    assert [[n.op for n in x.nodes] for x in layers(q)] == [
        ["conv", "add", "relu"],
        ["conv", "add", "add", "relu"],
        ["conv", "add", "relu"],
        ["matmul", "add"],
    ]


def test_signal_and_total_error_are_those_of_the_values() -> None:
    data = images(1)
    q = quantized(residual_network(), data)
    results = [x.result for x in layers(q)]
    exact = values(q.before, results, data[0])
    off = values(q.after, [q.images[v] for v in results], data[0])
    for (signal, total, _), a, b in zip(measured(q, data[0]), exact, off, strict=True):
        assert signal == pytest.approx(power(a))
        assert total == pytest.approx(power(b - a))


@pytest.mark.parametrize("smooth", [None, 0.5])
def test_a_layer_alone_is_what_it_is_where_all_others_are_floats(smooth: float | None) -> None:
    graph, data = transformer(), rows(1)
    profile = octavo.calibrate(graph, data)
    q = quantization(graph, profile, smooth=smooth)
    contractions = [x.contraction for x in layers(q)]
    for k, (x, (_, _, alone)) in enumerate(zip(layers(q), measured(q, data[0]), strict=True)):
        others = [q.names[n.outputs[0]] for n in contractions if n is not x.contraction]
        only = quantization(graph, profile, smooth=smooth, exclude=others)
        (a,) = values(q.before, [x.result], data[0])
        (b,) = values(only.after, [only.images[layers(only)[0].result]], data[0])
        assert alone == pytest.approx(power(b - a)), k


def test_errors_of_equalized_channels_are_those_of_what_is_computed() -> None:
    data = images(1)
    q = quantized(separable_network(4), data, equalize=True)
    assert q.divided
    assert all(total < signal / 1000 for signal, total, _ in measured(q, data[0]))
    assert {q.names[n.outputs[0]] for n in q.choice.contractions} < set(value_names(q.source).values())


def test_the_first_layer_inherits_nothing_and_the_next_does() -> None:
    data = rows(1)
    (_, total, alone), (_, total_of_next, alone_of_next), *_ = measured(quantized(transformer(), data), data[0])
    assert alone == total > 0
    assert total_of_next > 1.5 * alone_of_next


def test_infinite_elements_do_not_count() -> None:
    graph = parse("""graph g(%x: f32[n,2]) -> (%y) {
      %p = matmul(%x, const<f32[2,2] [1.27,0.5,-0.5,2.54]>)
      %y = div(%p, %x)
    }""")
    x = np.array([[0.3, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        q = quantized(graph, [{"x": x}])
        ((signal, total, alone),) = measured(q, {"x": x})
    assert signal == pytest.approx(1.27**2)
    assert 0 <= total == alone < 1e-3


def test_quantize_is_what_a_quantization_ends_in() -> None:
    graph, data = residual_network(), images(1)
    profile = octavo.calibrate(graph, data)
    before, after = (evaluate(g, data[0]) for g in (quantize(graph, profile), quantization(graph, profile).after))
    assert before[0].tobytes() == after[0].tobytes()
