"""Post-training quantization: a prepared graph and its profile become a graph that computes with 8-bit values.

    %y = conv(%x, w) + b   ->   conv(dq(%x), dequantize(i8 weights, sw, 0)) + dequantize(i32 bias, sx * sw, 0)
                                dq(v) = dequantize(quantize(v, s, z), s, z)

Activations are u8 with one scale and zero point, so that 0 is exact; weights i8 with a scale for each output channel.  The result is an
ordinary graph: `passes/integer.py` makes integer arithmetic of it, and it exports as QDQ ONNX.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ...ir.errors import QuantError
from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.ops.registry import apply
from ...ir.text import value_names
from ...ir.types import f32, i32, u8
from ..values import scalar, swapped, use_counts
from .bias import expected_shift
from .choose import EXACT, Choice, choose
from .equalize import equalized, equalizing
from .profile import Profile, prepared
from .ranges import DEFAULT
from .smooth import NORMS, smoothed, smoothing
from .weights import dequantized, quantized_weights, weights_of

LARGEST_BIAS = 1 << 24  # of a quantized bias: f32 holds every whole number up to it


@dataclass(frozen=True)
class Quantization:
    """A prepared graph beside what quantization made of it.

    source: as it was given; before: the same, its channels equalized if that was wanted; names: of the values of `before`, as profiles
    have them.  grids: values that are stored as bytes -> scale and zero point; factors: results of norms -> what `smooth.py` divides
    each channel by; divided: values of which `before` has parts (`equalize.py`); images: values of `before` that anything reads -> what
    they are in `after`, ahead of being quantized themselves.
    """

    source: Graph
    before: Graph
    after: Graph
    names: Mapping[Value, str]
    choice: Choice
    grids: Mapping[Value, tuple[float, int]]
    factors: Mapping[Value, np.ndarray]
    divided: Collection[Value]
    images: Mapping[Value, Value]


def quantize(graph: Graph, profile: Profile, **options: Any) -> Graph:
    """The prepared graph with 8-bit activations, weights and biases; options and errors as of `quantization`."""
    return quantization(graph, profile, **options).after


def quantization(
    graph: Graph,
    profile: Profile,
    *,
    method: str = DEFAULT,
    weights: str = "max",
    correct_bias: bool = True,
    equalize: bool = True,
    smooth: float | None = None,
    exclude: Sequence[str] = (),
    **options: Any,
) -> Quantization:
    """The prepared graph, and the same with 8-bit activations, weights and biases.

    method: how ranges follow from the profile ("percentile", "minmax", "entropy", "mse"; `ranges.py`), with its options;
    weights: "max" or "mse"; correct_bias: whether biases make up for what the rounding of weights shifts means by (`bias.py`);
    equalize: whether factors in the weights around a value even out its channels, where that is worth it (`equalize.py`); smooth: the
    strength of `smooth.py`, from 0 to 1, or None for none of it; exclude: ops, places or values whose contraction stays in floats
    (`choose.choose`).  Raises QuantError for a profile of another graph, for weights and ranges that cannot be used, and where nothing
    can be quantized.
    """
    source = graph = prepared(graph)
    profile.check(graph)
    names = value_names(graph)
    known = {v: name for v, name in names.items() if name in profile.values}
    choice = choose(graph, known, exclude)
    if not choice.contractions:
        raise QuantError("nothing can be quantized: no conv or matmul by constant f32 weights is left that the profile knows")
    ranges = {v: profile.range(known[v], method, **options) for v in (*choice.shared, *choice.own)}
    means = {v: np.array(mean) for v, name in known.items() if correct_bias and (mean := profile.values[name].channel_mean)}
    divided = equalizing(graph, choice.contractions, ranges, lambda v: profile.values.get(known.get(v, ""))) if equalize else {}
    if divided:
        graph, moved = equalized(graph, divided)
        for v in divided.keys() & ranges.keys():  # of these the profile has the same channels
            ranges[v] = divided[v].range(ranges[v], np.array(profile.values[known[v]].channel_max))
            if v in means:
                means[v] = means[v] / divided[v].factors
        choice, names, known = choice.among(moved), _of(moved, names), _of(moved, known)
        ranges, means, divided = _of(moved, ranges), _of(moved, means), _of(moved, divided)
    factors: dict[Value, np.ndarray] = {}
    if smooth is not None:
        if not isinstance(smooth, Real) or not 0 <= smooth <= 1:
            raise QuantError(f"smooth is a strength from 0 to 1, not {smooth!r}")
        factors = smoothing(graph, choice.contractions, lambda v: profile.values[known[v]].channel_max if v in known else (), smooth)
        for v, s in factors.items():
            most = float((np.array(profile.values[known[v]].channel_max) / s).max())
            ranges[v] = (-most, most)
    grids = {v: grid(*r) for v, r in _joined(choice, ranges).items()}
    images: dict[Value, Value] = {}
    after = _rewritten(graph, choice, grids, factors, means, weights, images)
    return Quantization(source, graph, after, names, choice, grids, factors, divided, images)


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale (exactly an f32) and zero point of u8 values for a range that contains 0."""
    scale = float(np.float32((high - low) / u8.max))
    if scale < 2.0**-60:  # nothing but zeros, or as good as
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, u8.max))


def _of(images: Mapping[Value, Value], facts: Mapping[Value, Any]) -> dict[Value, Any]:
    """Facts of values as those of what these became."""
    return {images[v]: fact for v, fact in facts.items() if v in images}


def _joined(choice: Choice, ranges: Mapping[Value, tuple[float, float]]) -> dict[Value, tuple[float, float]]:
    """Ranges of which those are one that only an op stands between which moves elements: it then moves bytes."""
    result = dict(ranges)
    group = {v: [v] for v in choice.shared}
    for v in choice.shared:
        for source in _sources(v):
            if source in group and group[source] is not group[v]:
                group[source].extend(group[v])
                for member in group[v]:
                    group[member] = group[source]
    for members in group.values():
        low, high = min(ranges[v][0] for v in members), max(ranges[v][1] for v in members)
        result.update(dict.fromkeys(members, (low, high)))
    return result


def _sources(v: Value) -> list[Value]:
    """The values whose elements v holds, and others that are on the way."""
    found: list[Value] = []
    pending = [v]
    while pending:
        node = pending.pop().node
        if node.op in EXACT:
            found += node.inputs
            pending += node.inputs
    return found


def _rewritten(
    graph: Graph,
    choice: Choice,
    grids: Mapping[Value, tuple[float, int]],
    factors: Mapping[Value, np.ndarray],
    means: Mapping[Value, np.ndarray],
    method: str,
    images: dict[Value, Value],
) -> Graph:
    """images: gets what `Quantization` says."""
    uses = use_counts(graph)
    shared = frozenset(choice.shared)
    real: dict[Value, Value] = {}  # value of the graph -> its dequantized form
    products: dict[Node, tuple[Node, np.ndarray, np.ndarray | float]] = {}  # new contraction -> the old one, its scales, its shift

    def as_bytes(old: Value, new: Value) -> Value:
        if old not in real:
            scale, zero = (scalar(grids[old][0], f32), scalar(grids[old][1], u8))
            q = apply("quantize", new, scale, zero, to=u8, loc=old.node.loc)
            real[old] = apply("dequantize", q, scale, zero, loc=old.node.loc)
        return real[old]

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | tuple[Value, ...] | None:
        images.update(zip(node.inputs, inputs, strict=True))
        if node.op in NORMS and node.outputs[0] in factors:
            return smoothed(node, inputs, factors[node.outputs[0]])
        own = node.inputs[0] if node in choice.contractions else None
        read = tuple(as_bytes(old, new) if old in shared or old is own else new for old, new in zip(node.inputs, inputs, strict=True))
        if own is not None:
            return contraction(node, read)
        if node.op == "add":
            for (a, b), (old, _) in zip(swapped(read), swapped(node.inputs), strict=True):
                if a.node in products and b.is_const and uses[old.node] == 1:
                    biased = with_bias(node, a, b)
                    if biased is not None:
                        return biased
        return node.with_inputs(read).outputs if read != node.inputs else None

    def contraction(node: Node, read: tuple[Value, ...]) -> Value:
        x, w = read
        channel = 0 if node.op == "conv" else w.type.rank - 1
        step = grids[node.inputs[0]][0]
        bias = _bias_after(graph, node, uses)
        least = None if bias is None else np.abs(bias) / (step * LARGEST_BIAS)
        array = weights_of(w)
        assert array is not None
        if node.inputs[0] in factors:
            array = array * factors[node.inputs[0]][:, None]
        try:
            quantized = quantized_weights(array, channel, method, least)
        except QuantError as e:
            raise QuantError(f"{node.op}{' at ' + node.loc if node.loc else ''}: {e}") from None
        narrow = dequantized(quantized, channel, w)
        result = Node(node.op, (x, narrow), node.attrs, node.types, node.loc)
        mean = means.get(node.inputs[0], np.zeros(0))
        shift = expected_shift(node, array, quantized, mean / factors.get(node.inputs[0], 1.0)) if mean.size else 0.0
        products[result] = (node, step * quantized.scales, shift)
        return result.outputs[0]

    def with_bias(node: Node, product: Value, b: Value) -> Value | None:
        old, scales, shift = products[product.node]
        bias = _by_channel(old, b)
        if bias is None or np.abs((bias - shift) / scales).max(initial=0) > 2 * LARGEST_BIAS:  # of weights whose scale was given
            return None
        shape = [1] * (product.type.rank - _channel_axis(old))
        shape[0] = -1
        integers = np.rint((bias - shift) / scales).astype(np.int32).reshape(shape)
        steps = const_value(scales.astype(np.float32).reshape(shape))
        return apply("add", product, apply("dequantize", const_value(integers, b.node.loc), steps, scalar(0, i32)), loc=node.loc)

    result = rewrite(graph, rule)
    images.update(zip(graph.roots, result.roots, strict=True))
    return result


def _channel_axis(contraction: Node) -> int:
    first = contraction.op == "conv" and contraction.attrs.get("layout", "channels_first") == "channels_first"
    return 1 if first else contraction.types[0].rank - 1


def _bias_after(graph: Graph, contraction: Node, uses: Mapping[Node, int]) -> np.ndarray | None:
    """The constant bias that is all that reads a contraction, one number for each channel."""
    if uses[contraction] != 1 or not graph.users[contraction]:
        return None
    (reader,) = graph.users[contraction]
    constants = [v for v in reader.inputs if v.is_const]
    return _by_channel(contraction, constants[0]) if reader.op == "add" and constants else None


def _by_channel(contraction: Node, b: Value) -> np.ndarray | None:
    """A constant as one finite number for each channel of a contraction's result (f64), or None where it is none."""
    rank, axis = contraction.types[0].rank, _channel_axis(contraction)
    channels = contraction.types[0].shape[axis]
    if b.type.rank > rank or not isinstance(channels, int) or not np.isfinite(b.array).all():
        return None
    shape = (1,) * (rank - b.type.rank) + b.array.shape
    if any(d != 1 for k, d in enumerate(shape) if k != axis):
        return None
    return np.broadcast_to(b.array.astype(np.float64).reshape(-1), (channels,))
