"""Cross-layer equalization: what it divides, that the model in floats stays the same to the bit, and what it is good for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import octavo
import pytest
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import to_text
from octavo.ir.types import parse_type
from octavo.ir.verify import verify
from octavo.passes.pipeline import optimize
from octavo.passes.quantize.equalize import Divided, equalizing
from octavo.passes.quantize.profile import Profile, Stats, prepared
from octavo.passes.quantize.quantize import Quantization, quantization, quantize

from .networks import Builder, images, rows, separable_network

Between = Callable[[Value], Value]
Last = Callable[[Builder, Value], Value]

SPREAD = np.exp2(np.resize([0, -5, 3, -1, 5, -4, 1, 4], 8))  # between the channels of a value
POOL = {"axes": (2, 3), "kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1), "low": (0, 0), "high": (0, 0), "fill": -np.inf}


def numbers(*shape: int, seed: int = 7) -> Value:
    return const_value(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def scalar(x: float) -> Value:
    return const_value(np.float32(x))


def pooled(x: Value) -> Value:
    return apply("reduce_max", apply("window", x, **POOL), axes=(4, 5), keepdims=False)


def two_layers(between: Between, groups: int = 1, last: Last | None = None, also: Between | None = None) -> Graph:
    """A convolution whose 8 channels are far from alike, something, and a layer; and maybe another reader of that something.

    If that layer is a convolution of the 8 channels, its weights undo that.
    """
    b = Builder()
    x = input_value("x", parse_type("f32[n,3,16,16]"))
    y = b.conv(x, 8)
    (product, offset) = y.node.inputs
    w, spread = product.node.inputs[1].array, SPREAD.astype(np.float32)
    product = apply("conv", x, const_value(w * spread.reshape(-1, 1, 1, 1)), **product.node.attrs)
    y = between(apply("add", product, const_value(offset.array * spread.reshape(-1, 1, 1))))
    end = last(b, y) if last else b.conv(y, 8, groups=groups)
    if last is None and y.shape[1] == 8:
        conv = end.node.inputs[0].node
        undone = np.repeat(SPREAD.reshape(groups, 1, -1), 8 // groups, axis=1).reshape(8, -1, 1, 1)
        end = apply("conv", y, const_value((conv.inputs[1].array / undone).astype(np.float32)), **conv.attrs)
    return Graph("two", (x,), (end, also(y)) if also else (end,))


def equal_channels(graph: Graph, **options: object) -> Quantization:
    q = quantization(graph, octavo.calibrate(graph, images(2)), equalize=True, **options)  # type: ignore[arg-type]
    verify(q.before)
    verify(q.after)
    return q


def decibels(graph: Graph, quantized: Graph, feed: dict[str, np.ndarray]) -> float:
    """Signal over error of the compiled form of a quantized graph."""
    exact, found = evaluate(graph, feed)[0].astype(np.float64), evaluate(optimize(quantized), feed)[0]
    return float(10 * np.log10(np.square(exact).sum() / np.square(found - exact).sum()))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be divided is, however little is gained."""
    monkeypatch.setattr("octavo.passes.quantize.equalize.WORTH", 1.0)


def same_bits(q: Quantization, feed: dict[str, np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(evaluate(q.source, feed), evaluate(q.before, feed), strict=True))


BETWEEN = {
    "relu": lambda v: apply("relu", v),
    "leaky relu that is not monotone": lambda v: apply("leaky_relu", v, alpha=-0.5),
    "prelu": lambda v: apply("prelu", v, numbers(8, 1, 1)),
    "clip": lambda v: apply("clip", v, scalar(0), scalar(24)),
    "a limit and an offset": lambda v: apply("sub", scalar(0.25), apply("min", v, scalar(0.75))),
    "a factor": lambda v: apply("relu", apply("mul", v, numbers(8, 1, 1))),
    "nothing": lambda v: v,
    "max pool": lambda v: pooled(apply("relu", v)),
    "average pool": lambda v: apply(
        "reduce_sum", apply("window", apply("abs", v), **{**POOL, "fill": 0.0}), axes=(4, 5), keepdims=False
    ),
    "average": lambda v: apply("reduce_sum", apply("relu", v), axes=(2, 3), keepdims=True),
    "zeros around": lambda v: apply("pad", apply("relu", v), low=(0, 0, 1, 1), high=(0, 0, 1, 1), mode="constant", value=0.0),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("name", BETWEEN)
def test_what_commutes_with_factors_is_divided_and_the_floats_stay_the_same_to_the_bit(name: str, groups: int) -> None:
    q = equal_channels(two_layers(BETWEEN[name], groups))
    assert q.divided
    assert to_text(q.before) != to_text(q.source)
    assert same_bits(q, images(1, seed=9)[0])


TO_ROWS = {
    "mean": lambda v: apply("reduce_sum", apply("relu", v), axes=(2, 3), keepdims=False),
    "reshape": lambda v: apply("reshape", apply("reduce_sum", apply("relu", v), axes=(2, 3), keepdims=True), shape=(v.shape[0], 8)),
    "transpose": lambda v: apply("transpose", apply("relu", v), perm=(0, 2, 3, 1)),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", TO_ROWS)
def test_channels_are_followed_to_a_matmul(name: str) -> None:
    q = equal_channels(two_layers(TO_ROWS[name], last=lambda b, y: b.linear(y, 5)))
    assert any(n.op == "matmul" and n.inputs[0] in q.divided for n in q.before.nodes)
    assert same_bits(q, images(1, seed=9)[0])


OTHERWISE = {
    "a sigmoid": lambda v: apply("sigmoid", v),
    "silu": lambda v: apply("silu", v),
    "a power": lambda v: apply("mul", v, v),
    "two values": lambda v: apply("add", apply("relu", v), apply("neg", v)),
    "a reshape through channels": lambda v: apply("reshape", v, shape=(v.shape[0], 16, 8, 16)),
    "a maximum over channels": lambda v: apply("mul", apply("reduce_max", v, axes=(1,), keepdims=True), numbers(8, 1, 1)),
    "ones around": lambda v: apply("pad", v, low=(0, 0, 1, 1), high=(0, 0, 1, 1), mode="constant", value=1.0),
    "a constant over it": lambda v: apply("div", scalar(1), apply("max", v, scalar(0.5))),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", OTHERWISE)
def test_what_does_not_commute_is_left_alone(name: str) -> None:
    q = equal_channels(two_layers(OTHERWISE[name]))
    assert not q.divided
    assert q.before is q.source


READERS = {
    "an output of the model": lambda y: y,
    "an op that is no layer": lambda y: apply("sigmoid", y),
    "a product with another value": lambda y: apply("mul", y, apply("reduce_sum", y, axes=(2, 3), keepdims=True)),
    "weights that are computed": lambda y: apply("matmul", y, apply("transpose", y, perm=(0, 1, 3, 2))),
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", READERS)
def test_a_value_that_something_else_reads_is_left_alone(name: str) -> None:
    assert equal_channels(two_layers(lambda v: apply("relu", v))).divided
    assert not equal_channels(two_layers(lambda v: apply("relu", v), also=READERS[name])).divided


@pytest.mark.usefixtures("eager")
def test_a_value_that_two_layers_read_has_factors_for_both() -> None:
    q = equal_channels(two_layers(lambda v: apply("relu", v), also=lambda y: Builder(5).conv(y, 4, 1)))
    assert len({n for n in q.before.nodes if n.op == "conv" and n.inputs[0] in q.divided}) == 2
    assert same_bits(q, images(1, seed=9)[0])


@pytest.mark.usefixtures("eager")
def test_nothing_is_divided_for_a_layer_that_stays_in_floats() -> None:
    graph = two_layers(lambda v: apply("relu", v), last=lambda b, y: b.conv(y, 8, loc="last"))
    assert equal_channels(graph).divided
    assert not equal_channels(graph, exclude=["last"]).divided


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("perm", "axes"), [((0, 1, 2, 3), (2, 3)), ((0, 2, 3, 1), (1, 2))])
def test_maxima_of_another_axis_are_not_taken_for_those_of_channels(perm: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """What a pool reads has maxima for axis 1, which may have as many indices as there are channels."""
    b, x = Builder(), input_value("x", parse_type("f32[n,3,8,8]"))
    stored = apply("relu", apply("transpose", b.conv(x, 8), perm=perm))
    pooled = apply("reduce_max", stored, axes=axes, keepdims=False)
    graph = Graph("g", (x,), (b.linear(pooled, 5),))
    (last,) = (n for n in graph.nodes if n.op == "matmul")
    seen = Stats(1, 0.0, 1.0, 1, (*[0] * 1999, 1, *[0] * 48), tuple(SPREAD / 64))
    divided = equalizing(graph, {last}, dict.fromkeys((stored, pooled), (0.0, 1.0)), lambda v: seen)
    assert bool(divided) == (axes == (2, 3))


@pytest.mark.usefixtures("eager")
def test_a_profile_without_channels_leaves_a_value_alone() -> None:
    graph = two_layers(lambda v: apply("relu", v))
    profile = octavo.calibrate(graph, images(2))
    plain = {name: replace(s, channel_max=(), channel_sum=()) for name, s in profile.values.items()}
    assert not quantization(graph, Profile(profile.graph, profile.samples, plain), equalize=True).divided


def test_channels_alike_are_left_alone() -> None:
    alike = const_value(SPREAD.astype(np.float32).reshape(-1, 1, 1))
    graph = two_layers(lambda v: apply("div", apply("relu", v), alike), last=lambda b, y: b.conv(y, 8))
    profile = octavo.calibrate(graph, images(2))
    assert to_text(quantize(graph, profile, equalize=True)) == to_text(quantize(graph, profile, equalize=False))


@pytest.mark.parametrize(("spread", "gain"), [(0, -0.5), (2, 10), (5, 25)])
def test_channels_that_differ_no_longer_cost_each_other_their_steps(spread: int, gain: float) -> None:
    graph = separable_network(spread)
    profile, feed = octavo.calibrate(graph, images(8)), images(1, seed=9)[0]
    without, with_ = (decibels(graph, quantize(graph, profile, equalize=e), feed) for e in (False, True))
    assert with_ > without + gain
    assert with_ > 40


def test_means_are_those_of_divided_values() -> None:
    """Or bias correction would take off what is not there."""
    graph = separable_network(4)
    profile, feed = octavo.calibrate(graph, images(8)), images(1, seed=9)[0]
    corrected, not_ = (decibels(graph, quantize(graph, profile, equalize=True, correct_bias=c), feed) for c in (True, False))
    assert corrected > not_ - 1


def test_a_range_cuts_off_nothing_that_it_did_not_before() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 8)) * SPREAD
    largest = np.abs(x).max(axis=0)
    divided = Divided(1, np.exp2(rng.integers(-4, 5, 8)))
    for whole in ((-9.0, 17.0), (0.0, 3.0), (-100.0, 100.0)):
        low, high = divided.range(whole, largest)
        parts = x / divided.factors
        cut = (parts < low) | (parts > high)
        assert not (cut & (x >= whole[0]) & (x <= whole[1])).any()
        assert (low, high) == pytest.approx((max(low, parts.min()), min(high, np.abs(parts).max())))


def test_the_result_depends_on_nothing_else() -> None:
    graph = separable_network(3)
    profile = octavo.calibrate(graph, images(2))
    assert to_text(quantize(graph, profile, equalize=True)) == to_text(quantize(graph, profile, equalize=True))


def test_smoothing_and_equalization_go_together() -> None:
    graph = prepared(mixed())
    profile, feed = octavo.calibrate(graph, rows(4)), rows(1, seed=9)[0]
    plain, smooth, equal, both = (
        decibels(graph, quantize(graph, profile, smooth=s, equalize=e), feed) for e in (False, True) for s in (None, 0.5)
    )
    assert both > max(plain, smooth, equal) + 3
    assert same_bits(quantization(graph, profile, smooth=0.5, equalize=True), feed)


def mixed() -> Graph:
    """A norm with a large channel, and two matmuls with channels between them that are far from alike."""
    b = Builder(2)
    x = input_value("x", parse_type("f32[n,7,16]"))
    gain = np.where(np.arange(16) == 3, 30, 1).astype(np.float32)
    normal = apply("layer_norm", x, const_value(gain), const_value(np.zeros(16, np.float32)), axis=2)
    spread = np.resize(SPREAD, 32).astype(np.float32)
    up = b.rng.standard_normal((16, 32)).astype(np.float32) / gain[:, None] * spread
    down = b.rng.standard_normal((32, 8)).astype(np.float32) / spread[:, None]
    inner = apply("relu", apply("matmul", normal, const_value(up)))
    return Graph("mixed", (x,), (apply("matmul", inner, const_value(down)),))
