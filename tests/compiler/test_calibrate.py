"""Calibration: the profile holds what the values of the graph are, exactly, however the data is cut; and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.passes.quantize.profile import BINS, Stats, channel_axis, observed, prepared, value_names

RNG = np.random.default_rng(3)
KERNEL = RNG.standard_normal((6, 3, 3, 3)).astype(np.float32)
WEIGHTS = RNG.standard_normal((6, 5)).astype(np.float32)


def network() -> Graph:
    """A convolution, relu, its mean over the image, a matmul and softmax, of any number of images."""
    x = input_value("x", octavo.spec("f32", ("n", 3, 9, 7)))
    h = ops.conv(x, const_value(KERNEL), strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1))
    h = ops.mean(ops.relu(h - 0.5), axes=(2, 3))
    return Graph("network", (x,), (ops.softmax(ops.matmul(h, const_value(WEIGHTS)), axis=1),))


def images(count: int, batch: int = 2, scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"x": (rng.standard_normal((batch, 3, 9, 7)) * scale * 4.0**k).astype(np.float32)} for k in range(count)]


def expected(values: np.ndarray, exponent: int) -> tuple[int, ...]:
    """The histogram as its definition has it: bins hold their end nearer to zero."""
    width = math.ldexp(1, exponent - 10)
    bins = [0] * BINS
    for x in values.ravel().tolist():
        step = int(abs(x) / width)
        bins[1023 - step if x < 0 else 1024 + step] += 1
    return tuple(bins)


def test_the_profile_holds_what_the_values_are() -> None:
    data = images(3)
    profile = octavo.calibrate(network(), data)
    graph = prepared(network())
    names, watched = value_names(graph), observed(graph)
    assert list(profile.values) == [names[v] for v in watched]
    assert [v.node.op for v in watched] == ["input", "conv", "relu", "mul", "matmul", "softmax"]
    runs = [evaluate(Graph("all", graph.inputs, tuple(watched)), sample) for sample in data]
    for v, *arrays in zip(watched, *runs, strict=True):
        stats, seen = profile.values[names[v]], np.concatenate(arrays)
        assert stats.count == seen.size
        # the compiled program computes the same up to rounding, by which single elements may lie in the next bin
        np.testing.assert_allclose((stats.low, stats.high), (seen.min(), seen.max()), rtol=1e-5)
        assert sum(abs(a - b) for a, b in zip(stats.bins, expected(seen, stats.exponent), strict=True)) <= 4
        axis = channel_axis(graph, v)
        if axis is not None:
            others = tuple(k for k in range(seen.ndim) if k != axis)
            np.testing.assert_allclose(stats.channel_max, np.abs(seen).max(others), rtol=1e-5)
            np.testing.assert_allclose(stats.channel_mean, seen.mean(others, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_an_inputs_histogram_is_exact() -> None:
    data = images(3)
    stats = octavo.calibrate(network(), data).values["x"]
    seen = np.concatenate([sample["x"] for sample in data])
    assert (stats.low, stats.high) == (seen.min(), seen.max())
    assert 2.0 ** (stats.exponent - 1) <= np.abs(seen).max() < 2.0**stats.exponent
    assert stats.bins == expected(seen, stats.exponent)
    assert stats.channel_max == tuple(np.abs(seen).max((0, 2, 3)).tolist())


def test_merged_parts_are_the_whole() -> None:
    data = images(4)  # of growing range, so that histograms have to be widened either way
    whole = octavo.calibrate(network(), data)
    first, second = octavo.calibrate(network(), data[:1]), octavo.calibrate(network(), data[1:])
    assert first.merge(second) == whole == second.merge(first)


def test_neither_threads_nor_batches_matter() -> None:
    """But for sums by channel, which are rounded once for each sample."""
    data = images(2)
    whole = octavo.calibrate(network(), data, threads=1)
    assert octavo.calibrate(network(), data, threads=2) == whole
    single = octavo.calibrate(network(), [{"x": row[None]} for sample in data for row in sample["x"]])
    assert single.samples == 4
    for name, stats in whole.values.items():
        other = single.values[name]
        np.testing.assert_allclose(other.channel_mean, stats.channel_mean, rtol=1e-12)
        assert replace(other, channel_sum=stats.channel_sum) == stats


def test_data_is_gone_through_once() -> None:
    def generate() -> Iterator[dict[str, np.ndarray]]:
        yield from images(2)

    once = generate()
    assert octavo.calibrate(network(), once) == octavo.calibrate(network(), images(2))
    with pytest.raises(QuantError, match="there are no samples to calibrate with: data was empty"):
        octavo.calibrate(network(), once)


def test_progress_counts_samples() -> None:
    steps: list[tuple[str, int, int]] = []
    octavo.calibrate(network(), images(2), progress=lambda *step: steps.append(step))
    assert steps[-2:] == [("samples", 1, 2), ("samples", 2, 2)]


def test_infinite_elements_are_left_out() -> None:
    """A mask of minus infinity is no reason for an infinite range."""
    x, m = input_value("x", octavo.spec("f32", (2, 4))), input_value("m", octavo.spec("bool", (2, 4)))
    masked = ops.where(m, x, -math.inf)
    graph = Graph("masked", (x, m), (ops.matmul(ops.softmax(masked, axis=1), const_value(np.ones((4, 2), np.float32))), masked))
    mask = np.array([[True, True, True, False]] * 2)
    profile = octavo.calibrate(graph, [{"x": np.float32([[1, 2, 3, 4]] * 2), "m": mask}])
    (stats,) = (profile.values[name] for v, name in value_names(prepared(graph)).items() if v.node.op == "where")
    assert (stats.count, stats.low, stats.high) == (6, 1.0, 3.0)


def test_zeros_and_huge_numbers_have_histograms() -> None:
    x = input_value("x", octavo.spec("f32", ("n", 2)))
    graph = Graph("wide", (x,), (ops.matmul(x, const_value(np.zeros((2, 1), np.float32))),))
    huge = np.finfo(np.float32).max
    stats = octavo.calibrate(graph, [{"x": np.zeros((3, 2), np.float32)}, {"x": np.float32([[-huge, huge]])}]).values["x"]
    assert (stats.low, stats.high, stats.exponent) == (-huge, huge, 128)
    assert {k: n for k, n in enumerate(stats.bins) if n} == {0: 1, BINS // 2: 6, BINS - 1: 1}


def test_a_value_without_elements_has_empty_statistics() -> None:
    data = images(1)
    profile = octavo.calibrate(network(), [{"x": np.zeros((0, 3, 9, 7), np.float32)}])
    empty = profile.values["x"]
    assert empty == Stats(0, 0.0, 0.0, empty.exponent, (0,) * BINS, (0.0, 0.0, 0.0), (0, 0, 0))
    assert profile.merge(octavo.calibrate(network(), data)).values["x"] == octavo.calibrate(network(), data).values["x"]


X = np.zeros((1, 3, 9, 7), np.float32)
NAN, INFINITE = X.copy(), X.copy()
NAN[0, 1, 2, 3], INFINITE[0, 2, 0, 0] = np.nan, -np.inf


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"y": X}, "sample 2: model 'network' has no input 'y'; it has 'x'"),
        ({}, r"sample 2: model 'network' was called without x: f32\[n,3,9,7\]"),
        ({"x": X.astype(np.int32)}, r"sample 2: input 'x' has dtype int32, accepted is float32"),
        ({"x": X[:, :2]}, r"sample 2: .* given f32\[1,2,9,7\], accepted f32\[n,3,9,7\]"),
        ({"x": X[0]}, r"sample 2: .* it has 3 dimensions and must have 4"),
        ({"x": NAN}, r"sample 2: input 'x' holds nan at \[0, 1, 2, 3\]; give finite numbers"),
        ({"x": INFINITE}, r"sample 2: input 'x' holds -inf at \[0, 2, 0, 0\]"),
        ((X,), "sample 2 is a tuple, not {input name: array}"),
    ],
)
def test_a_wrong_sample_is_named(sample: object, message: str) -> None:
    with pytest.raises(QuantError, match=message):
        octavo.calibrate(network(), [{"x": X}, sample])


def test_one_sample_is_no_iterable_of_samples() -> None:
    with pytest.raises(QuantError, match=r"data must be an iterable of samples {input name: array}, not a dict; for one sample give"):
        octavo.calibrate(network(), {"x": X})


def test_nan_within_the_model_names_the_node() -> None:
    x = input_value("x", octavo.spec("f32", ("n", 2)))
    graph = Graph("roots", (x,), (ops.matmul(ops.sqrt(x), const_value(np.ones((2, 1), np.float32))),))
    with pytest.raises(QuantError, match=r"sample 1: a result of <sqrt .* is NaN; such a model cannot be calibrated on this sample"):
        octavo.calibrate(graph, [{"x": np.float32([[1, -1]])}])


def test_an_infinite_product_names_the_node() -> None:
    x = input_value("x", octavo.spec("f32", ("n", 2)))
    graph = Graph("large", (x,), (ops.matmul(x, const_value(np.full((2, 1), 1e30, np.float32))),))
    with pytest.raises(QuantError, match=r"sample 1: a result of <matmul .* is infinite"):
        octavo.calibrate(graph, [{"x": np.float32([[1e30, 1]])}])


def test_a_model_without_contractions_has_nothing_to_quantize() -> None:
    x = input_value("x", octavo.spec("f32", ("n", 2)))
    with pytest.raises(QuantError, match="model 'act' has no convolution or matmul of f32, so there is nothing to quantize"):
        octavo.calibrate(Graph("act", (x,), (ops.relu(x),)), [{"x": X}])
