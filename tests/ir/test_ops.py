"""Conformance of op definitions: every op has samples, infers the types it computes, and agrees with independent formulas."""

import inspect
import math

import numpy as np
import pytest
from octavo.ir import ops
from octavo.ir.dims import evaluate_dim, symbol
from octavo.ir.errors import ShapeError, UnsupportedOp
from octavo.ir.evaluate import evaluate, run_meaning, run_op
from octavo.ir.graph import Graph, Value, input_value
from octavo.ir.ops.operators import build
from octavo.ir.ops.registry import OPS, apply, apply_node, expand
from octavo.ir.types import TensorType, bf16, dtype_of, f16, f32, i32, i64, parse_type

MADE_BY_HAND = ("input", "const", "variable", "kernel")


def types_of(arrays):
    return tuple(TensorType(dtype_of(a.dtype), a.shape) for a in arrays)


def samples_of(definition):
    return list(definition.samples(np.random.default_rng(11)))


def every_sample():
    for name, definition in sorted(OPS.items()):
        if definition.samples is not None:
            for k, sample in enumerate(samples_of(definition)):
                yield pytest.param(definition, sample, id=f"{name}-{k}")


def graph_of(name, arrays, attrs):
    inputs = tuple(input_value(f"x{k}", t) for k, t in enumerate(types_of(arrays)))
    return Graph(name, inputs, apply_node(name, inputs, attrs).outputs)


def test_every_op_has_samples_and_a_docstring():
    for name, definition in OPS.items():
        assert definition.doc.strip(), f"{name} has no docstring"
        if name not in MADE_BY_HAND:
            assert definition.samples is not None, f"{name} has no samples"
            assert len(samples_of(definition)) >= 2, f"{name} needs more samples"


def test_every_op_can_be_computed():
    for name, definition in OPS.items():
        if definition.kind == "opaque":
            assert None not in (definition.loops, definition.reference), name
        elif definition.kind == "reduction":
            assert None not in (definition.reduction, definition.reference), name


@pytest.mark.parametrize(("definition", "sample"), every_sample())
def test_results_are_of_the_inferred_types(definition, sample):
    graph = graph_of(definition.name, sample.inputs, sample.attrs)
    results = evaluate(graph, dict(zip(graph.input_names, sample.inputs, strict=True)))
    for value, result in zip(graph.outputs, results, strict=True):
        assert result.dtype == value.dtype.np
        assert len(value.shape) == result.ndim
        assert all(d == n for d, n in zip(value.shape, result.shape, strict=True) if isinstance(d, int))


# axes whose size an op must know: features that define its scale, the depth of indices, corners of boxes, panels, points
KNOWN_AXES = {
    "attention": (-1,),
    "gather_nd": (-1,),
    "scatter_nd": (-1,),
    "nms": (-1,),
    "unpack_panels": (-3, -1),
    "unpack_dots": (-3, -2, -1),
    "unpack_nibbles": (-3, -2, -1),
    "unpack_winograd": (-3,),
}


def symbolic(name, types):
    """The types with symbols for sizes, but for 1, which broadcasts, and what the op must know; and the symbols' values."""
    env = {}

    def shape(t):
        for k, d in enumerate(t.shape):
            env[f"n{d}"] = d
            yield d if d <= 1 or k - t.rank in KNOWN_AXES.get(name, ()) else symbol(f"n{d}")

    return tuple(t.with_shape(tuple(shape(t))) for t in types), env


def samples_with_symbols(*kinds):
    return [p for p in every_sample() if p.values[0].kind in kinds]


@pytest.mark.parametrize(
    ("definition", "sample"), samples_with_symbols("pointwise", "index", "reduction", "contraction", "composite", "opaque")
)
def test_symbolic_shapes_agree_with_static_ones(definition, sample):
    static = definition.infer(types_of(sample.inputs), **sample.attrs)
    types, env = symbolic(definition.name, types_of(sample.inputs))
    inferred = definition.infer(types, **sample.attrs)
    for t, expected in zip(inferred, static, strict=True):
        assert t.dtype is expected.dtype
        assert tuple(evaluate_dim(d, env) for d in t.shape) == expected.shape


@pytest.mark.parametrize(("definition", "sample"), [p for p in samples_with_symbols("composite") if p.id.endswith(("-0", "-1", "-2"))])
def test_expansions_evaluate_with_symbolic_sizes(definition, sample):
    types, env = symbolic(definition.name, types_of(sample.inputs))
    graph = expand(definition.name, types, sample.attrs)
    results = evaluate(graph, dict(zip(graph.input_names, sample.inputs, strict=True)), env)
    expected = run_op(definition, sample.inputs, sample.attrs)
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if a.dtype.itemsize > 2 else 5e-3, atol=1e-6 if a.dtype.itemsize > 2 else 5e-3)


@pytest.mark.parametrize(
    ("definition", "sample"), [p for p in every_sample() if p.values[0].kind == "index" and p.values[0].reference is not None]
)
def test_index_definitions_agree_with_their_numpy_references(definition, sample):
    (meaning,) = run_meaning(definition, sample.inputs, sample.attrs)
    (expected,) = run_op(definition, sample.inputs, sample.attrs)
    np.testing.assert_array_equal(meaning, expected)


# --- independent formulas ---------------------------------------------------------------------------------------------------

_x = np.linspace(-6, 6, 101, dtype=np.float32)
_erf = np.vectorize(math.erf)

FORMULAS = {
    "relu": (_x, {}, np.maximum(_x, 0)),
    "sigmoid": (_x, {}, 0.5 * (1 + np.tanh(_x / 2))),
    "silu": (_x, {}, _x * 0.5 * (1 + np.tanh(_x / 2))),
    "softplus": (_x, {}, np.logaddexp(_x, 0)),
    "mish": (_x, {}, _x * np.tanh(np.logaddexp(_x, 0))),
    "softsign": (_x, {}, _x / (1 + abs(_x))),
    "gelu": (_x, {}, _x * 0.5 * (1 + _erf(_x / math.sqrt(2)))),
    "elu": (_x, {"alpha": 2.0}, np.where(_x > 0, _x, 2 * np.expm1(_x))),
    "selu": (_x, {"alpha": 2.0, "gamma": 3.0}, 3 * np.where(_x > 0, _x, 2 * np.expm1(_x))),
    "celu": (_x, {"alpha": 2.0}, np.where(_x > 0, _x, 2 * np.expm1(_x / 2))),
    "leaky_relu": (_x, {"alpha": 0.1}, np.where(_x > 0, _x, 0.1 * _x)),
    "thresholded_relu": (_x, {"alpha": 1.5}, np.where(_x > 1.5, _x, 0)),
    "hard_sigmoid": (_x, {"alpha": 0.2, "beta": 0.5}, np.clip(0.2 * _x + 0.5, 0, 1)),
    "hard_swish": (_x, {}, _x * np.clip(_x / 6 + 0.5, 0, 1)),
    "sign": (_x, {}, np.sign(_x)),
    "round": (_x * 2, {}, np.rint(_x * 2)),
    "log_sum_exp": (_x + 500, {"axes": (0,)}, np.logaddexp.reduce(_x.astype(np.float64)) + 500),
    "softmax": (_x + 500, {"axis": 0}, np.exp(_x) / np.exp(_x).sum()),
    "log_softmax": (_x + 500, {"axis": 0}, _x - np.logaddexp.reduce(_x)),
    "hardmax": (_x, {"axis": 0}, np.eye(101, dtype=np.float32)[100]),
    "mean": (_x + 3, {"axes": (0,)}, np.float32(3)),
    "lp_norm": (_x, {"axis": 0, "p": 1}, _x / np.abs(_x).sum()),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    x, attrs, expected = FORMULAS[name]
    (result,) = run_op(OPS[name], [x], attrs)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_softplus_keeps_the_digits_of_small_results():
    (result,) = run_op(OPS["softplus"], [np.array([-20, -40], np.float32)], {})
    np.testing.assert_allclose(result, np.exp([-20.0, -40.0]), rtol=1e-6)


def test_integer_division_truncates_and_remainders_keep_their_signs():
    x, y = np.array([7, -7, 7, -7, 6]), np.array([2, 2, -2, -2, -2])
    assert run_op(OPS["div"], [x, y], {})[0].tolist() == [3, -3, -3, 3, -3]
    assert run_op(OPS["rem"], [x, y], {})[0].tolist() == [1, -1, 1, -1, 0]
    assert run_op(OPS["mod"], [x, y], {})[0].tolist() == np.mod(x, y).tolist()


def test_integer_powers_are_exact():
    x, y = np.array([3, -3, 2, 0, -1, 5]), np.array([33, 3, 62, 0, -3, -1])
    assert run_op(OPS["pow"], [x, y], {})[0].tolist() == [3**33, -27, 2**62, 1, -1, 0]


def test_casts_saturate():
    x = np.array([np.nan, np.inf, -np.inf, 300.7, -1.9], np.float32)
    assert run_op(OPS["cast"], [x], {"to": dtype_of("i8")})[0].tolist() == [0, 127, -128, 127, -1]
    assert run_op(OPS["cast"], [x], {"to": dtype_of("u8")})[0].tolist() == [0, 255, 0, 255, 0]


def test_quantize_rounds_half_to_even_and_saturates():
    x = np.array([0.5, 1.5, 2.5, 1e9, -1e9], np.float32)
    (q,) = run_op(OPS["quantize"], [x, np.float32(1), np.int8(3)], {"to": dtype_of("i8")})
    assert q.tolist() == [3, 5, 5, 127, -128]


def test_gather_wraps_negative_indices_and_clamps_the_rest():
    (result,) = run_op(OPS["gather"], [np.arange(5), np.array([-1, -5, 7, -9])], {"axis": 0})
    assert result.tolist() == [4, 0, 4, 0]


@pytest.mark.parametrize("k", range(len(samples_of(OPS["layer_norm"]))))
def test_layer_norm(k):
    sample = samples_of(OPS["layer_norm"])[k]
    x, scale, *bias = (a.astype(np.float64) for a in sample.inputs)
    axes = tuple(range(sample.attrs["axis"], x.ndim))
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + sample.attrs.get("epsilon", 1e-5))
    expected = expected * scale + (bias[0] if bias else 0)
    (result,) = run_op(OPS["layer_norm"], sample.inputs, sample.attrs)
    half = sample.inputs[0].dtype == np.float16
    np.testing.assert_allclose(result, expected, rtol=2e-3 if half else 1e-5, atol=2e-3 if half else 1e-5)


@pytest.mark.parametrize("k", range(len(samples_of(OPS["einsum"]))))
def test_einsum_is_that_of_numpy(k):
    sample = samples_of(OPS["einsum"])[k]
    (result,) = run_op(OPS["einsum"], sample.inputs, sample.attrs)
    np.testing.assert_allclose(result, np.einsum(sample.attrs["equation"], *sample.inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_matmul_of_bytes_is_exact(dtype):
    limits = np.iinfo(dtype)
    a, b = np.full((2, 700), limits.max, dtype), np.full((700, 2), limits.min or limits.max, dtype)
    (result,) = run_op(OPS["matmul"], [a, b], {})
    assert result.dtype == np.int32
    assert (result == int(a[0, 0]) * int(b[0, 0]) * 700).all()


def test_conv_transpose_is_the_adjoint_of_conv():
    rng = np.random.default_rng(0)
    attrs = {"strides": (2, 3), "pads": ((1, 0), (2, 1)), "dilations": (1, 2), "groups": 2}
    x, w = rng.standard_normal((2, 4, 9, 12)), rng.standard_normal((6, 2, 3, 2))
    (y,) = run_op(OPS["conv"], [x, w], attrs)
    z = rng.standard_normal(y.shape)
    full = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip((2, 3), y.shape[2:], (1, 2), (3, 2), strict=True)]
    extra = tuple(n + sum(p) - f for n, p, f in zip((9, 12), attrs["pads"], full, strict=True))
    (back,) = run_op(OPS["conv_transpose"], [z, w], attrs | {"output_padding": extra})
    assert back.shape == x.shape
    np.testing.assert_allclose((y * z).sum(), (x * back).sum(), rtol=1e-10)


def test_pools_agree_with_windows_taken_by_numpy():
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    attrs = {"kernel": (3, 2), "strides": (2, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)}
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), (2, 3))[:, :, ::2]
    np.testing.assert_array_equal(run_op(OPS["max_pool"], [x], attrs)[0], windows.max((-2, -1)))
    np.testing.assert_allclose(run_op(OPS["avg_pool"], [x], attrs)[0], windows.mean((-2, -1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(x.reshape(-1)[run_op(OPS["max_pool_indices"], [x], attrs)[0]], windows.max((-2, -1)))


def test_attention_of_grouped_heads_repeats_the_keys():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 3)))
    (grouped,) = run_op(OPS["attention"], [q, k, v], {"causal": True, "offset": 2})
    (repeated,) = run_op(OPS["attention"], [q, np.repeat(k, 3, 1), np.repeat(v, 3, 1)], {"causal": True, "offset": 2})
    scores = np.einsum("bhsd,bhtd->bhst", q, np.repeat(k, 3, 1)) / math.sqrt(8)
    scores = np.where(np.arange(7) <= np.arange(5)[:, None] + 2, scores, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(grouped, weights @ np.repeat(v, 3, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grouped, repeated, rtol=1e-5, atol=1e-6)


def test_whole_factors_of_the_nearest_resize_need_no_lookup():
    (x,) = samples_of(OPS["resize_nearest"])[0].inputs
    graph = expand("resize_nearest", types_of([x]), {"shape": (2, 3, 10, 18)})
    assert [n.op for n in graph.nodes if n.op != "input"] == ["repeat"]
    (result,) = run_op(OPS["resize_nearest"], [x], {"shape": (2, 3, 10, 18)})
    np.testing.assert_array_equal(result, x.repeat(2, 2).repeat(3, 3))


def test_linear_resize_interpolates_between_pixel_centres_and_keeps_the_edges():
    x = np.array([[10, 20, 40]], np.float32)
    (result,) = run_op(OPS["resize_linear"], [x], {"shape": (1, 6)})
    np.testing.assert_allclose(result, [[10, 12.5, 17.5, 25, 35, 40]], rtol=1e-6)
    (corners,) = run_op(OPS["resize_linear"], [x], {"shape": (1, 5), "coordinates": "align_corners"})
    np.testing.assert_allclose(corners, [[10, 15, 20, 30, 40]], rtol=1e-6)


def test_cubic_resize_reproduces_straight_lines_inside():
    x = np.arange(9, dtype=np.float64)[None]
    (result,) = run_op(OPS["resize_cubic"], [x], {"shape": (1, 18), "coefficient": -0.5})
    np.testing.assert_allclose(result[0, 4:-4], (np.arange(18) / 2 - 0.25)[4:-4], rtol=1e-6)


def test_antialias_averages_what_a_smaller_image_cannot_show():
    x = np.arange(8, dtype=np.float32)[None] ** 2
    (result,) = run_op(OPS["resize_linear"], [x], {"shape": (1, 4), "antialias": True})
    np.testing.assert_allclose(result[0, 1:3], [np.dot(x[0, k : k + 4], [1, 3, 3, 1]) / 8 for k in (1, 3)], rtol=1e-6)
    (larger,) = run_op(OPS["resize_cubic"], [x], {"shape": (1, 12), "antialias": True})
    np.testing.assert_array_equal(larger, run_op(OPS["resize_cubic"], [x], {"shape": (1, 12)})[0])


def test_antialias_needs_a_scale_that_is_known():
    x, n = input_value("x", TensorType(f32, (4, symbol("n")))), symbol("n")
    with pytest.raises(UnsupportedOp, match="antialias needs static sizes or scales, not an axis of n resized to 3"):
        apply("resize_linear", x, shape=(4, 3), antialias=True)
    assert apply("resize_linear", x, shape=(4, n // 2), scales=(1.0, 0.5), antialias=True).shape == (4, n // 2)


def test_what_lies_outside_can_be_left_out_of_the_sum():
    x = np.array([[8, 16, 24, 32]], np.float32)
    (result,) = run_op(OPS["resize_cubic"], [x], {"shape": (1, 8), "exclude_outside": True})
    (weights,) = run_op(OPS["cubic_kernel"], [np.array([0.25, 1.25], np.float32)], {})  # the first result lies at -0.25
    np.testing.assert_allclose(weights, [0.87890625, -0.10546875], rtol=1e-6)
    np.testing.assert_allclose(result[0, 0], np.dot(x[0, :2], weights) / weights.sum(), rtol=1e-5)


def test_a_crop_is_resized_and_surrounded_by_the_extrapolation_value():
    x = np.array([[0, 10, 20, 30, 40]], np.float32)
    attrs = {"shape": (1, 4), "coordinates": "tf_crop_and_resize", "extrapolation_value": -1.0}
    for name, expected in {"resize_linear": [-1, 5, 20, 35], "resize_nearest": [-1, 0, 20, 30]}.items():
        (result,) = run_op(OPS[name], [x], attrs | {"roi": (0.0, -0.25, 1.0, 0.875)})
        np.testing.assert_allclose(result, [expected], rtol=1e-6)
    (middle,) = run_op(OPS["resize_linear"], [x], attrs | {"shape": (1, 1), "roi": (0.0, 0.25, 1.0, 1.0)})
    np.testing.assert_allclose(middle, [[25]], rtol=1e-6)


def test_a_symmetric_resize_keeps_the_centre_where_the_size_was_rounded_down():
    x = np.arange(5, dtype=np.float32)[None]
    (result,) = run_op(OPS["resize_linear"], [x], {"shape": (1, 3), "scales": (1.0, 0.7), "coordinates": "half_pixel_symmetric"})
    np.testing.assert_allclose(result, [[2 - 1 / 0.7, 2, 2 + 1 / 0.7]], rtol=1e-5)


def test_a_scale_can_be_a_quotient_of_sizes():
    x, n = np.arange(8, dtype=np.float32), symbol("n")
    graph = Graph(
        "g", (v := input_value("x", TensorType(f32, (n,))),), (apply("resize_linear", v, shape=(3 * n // 5,), scales=((3, 5),)),)
    )
    (expected,) = run_op(OPS["resize_linear"], [x], {"shape": (4,), "scales": (0.6,)})
    np.testing.assert_allclose(evaluate(graph, {"x": x})[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"scales": (1.0, 0.0)}, r"the scales must be positive numbers, not \(1.0, 0.0\)"),
        ({"scales": (2.0,)}, "needs a size, and a scale or no scales, for each axis"),
        ({"coordinates": "centre"}, "the coordinates are one of half_pixel, .* not 'centre'"),
        ({"coordinates": "tf_crop_and_resize"}, "needs a roi with a start and an end for each axis"),
        ({"roi": (0.0, 0.0, 1.0, 1.0)}, "tf_crop_and_resize, and nothing else, needs a roi"),
    ],
)
def test_resizes_that_make_no_sense_are_refused(attrs, message):
    x = input_value("x", TensorType(f32, (4, 5)))
    with pytest.raises(ShapeError, match=message):
        apply("resize_nearest", x, shape=(4, 10), **attrs)
    with pytest.raises(ShapeError, match="axis 1 is empty and cannot be resized to 3"):
        apply("resize_linear", input_value("x", TensorType(f32, (4, 0))), shape=(4, 3))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_lstm_step_by_step():
    x, w, r, bias, h, c = samples_of(OPS["lstm"])[0].inputs
    y, last_h, last_c = run_op(OPS["lstm"], [x, w, r, bias, h, c], {})
    h, c, steps = h[0], c[0], []
    for t in range(x.shape[0]):
        i, o, f, g = np.split(x[t] @ w[0].T + h @ r[0].T + bias[0, :28] + bias[0, 28:], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    np.testing.assert_allclose(y[:, 0], np.stack(steps), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last_h[0], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last_c[0], c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_recurrent_networks_stop_at_the_lengths_in_both_directions(name):
    (sample,) = [s for s in samples_of(OPS[name]) if s.attrs.get("direction") == "bidirectional" and s.inputs[0].dtype == np.float64]
    y = run_op(OPS[name], sample.inputs, sample.attrs)[0]
    state = [a for a in sample.inputs[4:] if a.ndim == 3]
    assert not y[1:, :, 1].any()
    short = [sample.inputs[0][:1, 1:], *sample.inputs[1:4], *(a[:, 1:] for a in state)]
    np.testing.assert_allclose(run_op(OPS[name], short, sample.attrs)[0][0, :, 0], y[0, :, 1], rtol=1e-10)


def test_scan_without_steps_gives_the_initial_state_and_nothing():
    sample = samples_of(OPS["scan"])[0]
    graph = graph_of("scan", (sample.inputs[0], sample.inputs[1][:0], sample.inputs[2]), sample.attrs | {"length": 0})
    feeds = dict(zip(graph.input_names, (sample.inputs[0], sample.inputs[1][:0], sample.inputs[2]), strict=True))
    state, stacked = evaluate(graph, feeds)
    np.testing.assert_array_equal(state, sample.inputs[0])
    assert stacked.shape == (0, 5)


# --- symbols, operators and errors --------------------------------------------------------------------------------------------


def value(text: str, name: str = "x") -> Value:
    return input_value(name, parse_type(text))


def test_a_size_that_the_run_defines():
    x = value("f32[n,3]")
    places, count = apply_node("nonzero", (x,), {}).outputs
    found = apply("bind_size", places, count, axis=1, symbol="found")
    total = apply("reduce_sum", apply("gather_nd", x, apply("transpose", found, perm=(1, 0))), axes=(0,))
    assert found.shape == (2, symbol("found"))
    array = np.array([[0, 2, 0], [3, 0, 5]], np.float32)
    result, places = evaluate(Graph("g", (x,), (total, found), ("total", "found")), {"x": array})
    assert result == 10
    np.testing.assert_array_equal(places, np.nonzero(array))


def test_operators_make_constants_of_numbers_and_keep_the_line():
    x = value("f16[n,4]")
    y = 1 - x * 2 + x / 4
    assert str(y.type) == "f16[n,4]"
    assert y.node.loc == f"ir/test_ops.py:{inspect.currentframe().f_lineno - 2}"
    (result,) = evaluate(Graph("g", (x,), (-y @ np.ones((4, 1), np.float16),)), {"x": np.ones((2, 4), np.float16)})
    assert result.tolist() == [[3], [3]]


@pytest.mark.parametrize(
    "key",
    [0, -1, slice(1, 3), slice(None, None, -1), slice(-3, None), slice(4, 0, -2), (slice(None), 1), (..., -1), (None, 2), 99],
)
def test_indexing_is_that_of_numpy(key):
    array = np.arange(30).reshape(5, 6)
    x = value("i64[5,6]")
    if key == 99:
        with pytest.raises(ShapeError, match="index 99 is out of range for an axis of size 5"):
            x[key]  # type: ignore[index]
        return
    (result,) = evaluate(Graph("g", (x,), (x[key],)), {"x": array})  # type: ignore[index]
    np.testing.assert_array_equal(result, array[key])


def test_ops_with_several_results_give_a_tuple():
    values, indices = ops.topk(value("f32[n,9]"), k=2, axis=1)
    assert (str(values.type), str(indices.type)) == ("f32[n,2]", "i64[n,2]")


def test_slices_of_symbolic_sizes():
    x = value("f32[n,9]")
    assert [evaluate_dim(d, {"n": 4}) for d in x[1:].shape] == [3, 9]
    assert [evaluate_dim(d, {"n": 0}) for d in x[1:].shape] == [0, 9]
    (result,) = evaluate(Graph("g", (x,), (x[::-1, 2:5],)), {"x": np.arange(18, dtype=np.float32).reshape(2, 9)})
    np.testing.assert_array_equal(result, np.arange(18).reshape(2, 9)[::-1, 2:5])


@pytest.mark.parametrize(
    ("name", "types", "attrs", "message"),
    [
        ("add", ("f32[3]", "f32[4]"), {}, r"shapes \[3\] and \[4\] do not broadcast"),
        ("add", ("f32[3]", "i32[3]"), {}, "different dtypes"),
        ("exp", ("i32[3]",), {}, "needs floating-point operands, got i32"),
        ("relu", ("f32[3]",), {"alpha": 1}, r"takes the attributes \[\], got \['alpha'\]"),
        ("matmul", ("f32[3,4]", "f32[5,6]"), {}, "columns of the first and rows of the second operand differ: 4 and 5"),
        ("reshape", ("f32[3,4]",), {"shape": (5, 2)}, "has 12 elements"),
        ("concat", ("f32[3,4]", "f32[3,5]"), {"axis": 0}, "sizes 4 and 5 of axis 1 differ"),
        ("slice", ("f32[3]",), {"starts": (0,), "stops": (5,), "steps": (1,)}, "leaves an axis of size 3"),
        ("gather", ("f32[3]", "f32[2]"), {"axis": 0}, "indices must be integers"),
        ("where", ("f32[3]", "f32[3]", "f32[3]"), {}, "condition must be bool"),
        ("reduce_sum", ("f32[3]",), {"axes": (1,)}, "below the rank 1"),
        ("argmax", ("f32[3,4]",), {"axes": (0, 1)}, "exactly one axis"),
        ("topk", ("f32[3]",), {"k": 4, "axis": 0}, "k is 4, but axis 0"),
        ("conv", ("f32[1,3,8,8]", "f32[4,2,3,3]"), {"strides": (1, 1), "pads": ((0, 0),) * 2, "dilations": (1, 1)}, "channels"),
        ("einsum", ("f32[3]",), {"equation": "ij->i"}, "does not label 1 axes"),
    ],
)
def test_operands_that_do_not_fit_are_named(name, types, attrs, message):
    operands = [value(t, f"x{k}") for k, t in enumerate(types)]
    with pytest.raises(ShapeError, match=message) as caught:
        apply(name, *operands, loc="model.py:7", **attrs)
    assert f"{name}(" in str(caught.value)
    assert "model.py:7" in str(caught.value)


def test_feeds_that_do_not_fit_are_named():
    x = value("f32[2*n,3]")
    graph = Graph("g", (x,), (build("mul", x, 2.0),))
    with pytest.raises(ShapeError, match="axis 0 of the input 'x' is 3, which does not fit"):
        evaluate(graph, {"x": np.zeros((3, 3), np.float32)})
    with pytest.raises(ShapeError, match="the input 'x' is f32"):
        evaluate(graph, {"x": np.zeros((4, 3))})
    with pytest.raises(ShapeError, match="is missing"):
        evaluate(graph, {})


def test_narrow_floats_are_rounded_after_each_op():
    x = np.array([1.0, 3e-3], dtype_of("bf16").np)
    y = run_op(OPS["add"], [x, x[::-1]], {})[0]
    assert y.dtype == bf16.np
    np.testing.assert_array_equal(y, (x.astype(np.float32) + x[::-1].astype(np.float32)).astype(bf16.np))


def test_composites_of_half_precision_are_computed_in_single():
    graph = expand("layer_norm", tuple(parse_type(t) for t in ("f16[n,64]", "f16[64]", "f16[64]")), {"axis": 1})
    assert {n.types[0].dtype for n in graph.nodes if n.op.startswith("reduce")} == {f32}
    assert graph.outputs[0].dtype is f16


def test_integer_contractions_give_i32():
    assert apply("matmul", value("u8[2,3]"), value("i8[3,4]", "y")).dtype is i32
    assert apply("argmax", value("f32[2,3]"), axes=(1,)).dtype is i64
