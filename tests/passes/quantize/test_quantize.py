"""Which values become bytes, and what the quantized graph computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import octavo
import pytest
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Node, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import digest, parse, to_text
from octavo.ir.types import f32, parse_type
from octavo.ir.verify import verify
from octavo.passes.fuse import fuse
from octavo.passes.pipeline import optimize
from octavo.passes.quantize.profile import Profile, prepared
from octavo.passes.quantize.quantize import grid, quantize

from .networks import images, residual_network, rows, transformer

DENSE = (
    "graph g(%x: f32[n,2]) -> (%y) {\n%p = matmul(%x, const<f32[2,2] [1.27,0.5,-0.5,2.54]>)\n%y = add(%p, const<f32[2] [1.0,2.0]>)\n}"
)


def profiled(graph: Graph, samples: Sequence[dict[str, np.ndarray]]) -> Profile:
    return octavo.calibrate(graph, samples)


@pytest.fixture(scope="module")
def residual() -> tuple[Graph, Profile]:
    graph = residual_network()
    return graph, profiled(graph, images(4))


@pytest.fixture(scope="module")
def blocks() -> tuple[Graph, Profile]:
    graph = transformer()
    return graph, profiled(graph, rows(4))


def places(graph: Graph, op: str) -> list[str]:
    return [n.loc for n in graph.nodes if n.op == op]


def contractions(graph: Graph) -> dict[str, bool]:
    """Whether each contraction reads bytes."""
    return {n.loc: all(v.node.op == "dequantize" for v in n.inputs) for n in graph.nodes if n.op in ("conv", "matmul")}


def bodies(graph: Graph) -> list[tuple[Node, list[str]]]:
    """The kernels of the compiled graph, and what each computes."""
    kernels = [n for n in fuse(optimize(graph)).nodes if n.op == "kernel"]
    return [(n, [m.op for m in n.attrs["body"].nodes if m.op not in ("input", "const")]) for n in kernels]


def test_a_dense_layer_as_text() -> None:
    graph = parse(DENSE)
    quantized = quantize(graph, profiled(graph, [{"x": np.array([[-1.0, 0.5], [0.0, 1.55]], np.float32)}]))
    verify(quantized)
    expected = parse("""graph g(%x: f32[n,2]) -> (%y) {
      %s = const(value=const<f32[] 0.01>)
      %z = const(value=const<u8[] 100>)
      %q = quantize(%x, %s, %z, to=u8)
      %d = dequantize(%q, %s, %z)
      %w = dequantize(const<i8[2,2] [127,25,-50,127]>, const<f32[1,2] [0.01,0.02]>, const<i8[] 0>)
      %p = matmul(%d, %w)
      %b = dequantize(const<i32[2] [10000,10000]>, const<f32[2] [0.0001,0.0002]>, const<i32[] 0>)
      %y = add(%p, %b)
    }""")
    assert to_text(quantized) == to_text(expected), "\n" + to_text(quantized)


def test_a_range_becomes_a_scale_and_a_zero_point_that_is_exact() -> None:
    assert grid(0.0, 2.55) == (np.float32(0.01), 0)
    assert grid(-2.55, 0.0) == (np.float32(0.01), 255)
    assert grid(-1.0, 1.55) == (np.float32(0.01), 100)
    assert grid(0.0, 0.0) == (1.0, 0)
    assert grid(0.0, 1e-40) == (1.0, 0)


def test_in_a_convolutional_network_every_reader_has_the_quantized_value(residual: tuple[Graph, Profile]) -> None:
    quantized = quantize(*residual)
    verify(quantized)
    assert set(contractions(quantized).values()) == {True}
    (first,) = (n for n in quantized.nodes if n.op == "relu" and n.inputs[0].node.loc == "first")
    assert [n.op for n in quantized.users[first]] == ["quantize"]


def test_each_convolution_is_one_kernel_and_bytes_lie_between_kernels(residual: tuple[Graph, Profile]) -> None:
    found = bodies(quantize(*residual))
    for node, ops in found:
        if "conv" in ops:
            assert ops[-1] == "quantize"
            assert node.types[0].dtype.name == "u8"
    residual_kernels = [ops for _, ops in found if ops.count("dequantize") == 2 and "conv" in ops]
    assert residual_kernels == [["conv", "add", "dequantize", "dequantize", "add", "quantize"]]
    stored = [node.types[0].dtype.name for node, _ in found]
    assert stored.count("f32") == 1  # the result


def test_a_pool_between_two_convolutions_works_on_bytes(residual: tuple[Graph, Profile]) -> None:
    pools = [(node, ops) for node, ops in bodies(quantize(*residual)) if "reduce_max" in ops]
    assert [ops for _, ops in pools] == [["window", "reduce_max"]]
    assert [v.dtype.name for v in pools[0][0].inputs] == ["u8"]


def test_the_residual_stream_of_a_transformer_stays_exact(blocks: tuple[Graph, Profile]) -> None:
    quantized = quantize(*blocks)
    assert set(contractions(quantized).values()) == {True}
    sums = [n for n in quantized.nodes if n.op == "add" and n.types[0].shape[-1] == 16 and not _is_bias(n)]
    assert len(sums) == 2
    assert all(v.node.op != "dequantize" for n in sums for v in n.inputs)


def _is_bias(node: Node) -> bool:
    return any(v.type.rank == 1 for v in node.inputs)


# entropy cuts off what is rare, though here it matters as much as everything else
@pytest.mark.parametrize(("method", "error"), [("minmax", 0.02), ("percentile", 0.02), ("entropy", 0.1), ("mse", 0.02)])
@pytest.mark.parametrize("weights", ["max", "mse"])
def test_results_are_near_those_of_floats(residual: tuple[Graph, Profile], method: str, error: float, weights: str) -> None:
    graph, profile = residual
    result = optimize(quantize(graph, profile, method=method, weights=weights))
    (feed,) = images(1, seed=9)
    expected, found = evaluate(graph, feed)[0], evaluate(result, feed)[0]
    assert np.sqrt(np.mean((found - expected) ** 2)) < error * np.sqrt(np.mean(expected**2))


def test_compiled_code_computes_what_the_reference_says(residual: tuple[Graph, Profile]) -> None:
    quantized = quantize(*residual)
    (feed,) = images(1, seed=9)
    np.testing.assert_array_equal(octavo.compile(quantized).run(None, feed)[0], evaluate(optimize(quantized), feed)[0])


# --- what stays in floats ---


@pytest.mark.parametrize("pattern", ["second", "sec*"])
def test_contractions_can_be_excluded_by_their_place(residual: tuple[Graph, Profile], pattern: str) -> None:
    graph, profile = residual
    found = contractions(quantize(graph, profile, exclude=[pattern]))
    assert found == {"first": True, "second": False, "third": True, "head": True}


def test_contractions_can_be_excluded_by_op(residual: tuple[Graph, Profile]) -> None:
    graph, profile = residual
    assert contractions(quantize(graph, profile, exclude=["matmul"]))["head"] is False


def test_a_value_that_nothing_quantized_follows_stays_a_float(residual: tuple[Graph, Profile]) -> None:
    graph, profile = residual
    quantized = quantize(graph, profile, exclude=["head", "third"])
    assert not [n for n in quantized.nodes if n.op == "dequantize" and "third" in {m.loc for m in quantized.users[n]}]


# --- errors ---


def test_a_profile_of_another_graph_is_refused(residual: tuple[Graph, Profile], blocks: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match=r"the profile is of another graph .* calibrate this very model"):
        quantize(residual[0], blocks[1])


def test_a_pattern_that_fits_nothing_is_refused(residual: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match="exclude='hed' fits no conv or matmul"):
        quantize(*residual, exclude=["hed"])


def test_a_text_is_no_list_of_patterns(residual: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match="exclude is a sequence of names and patterns, each a text, not 'head'"):
        quantize(*residual, exclude="head")


def test_a_model_of_which_nothing_is_left_is_refused(residual: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match="nothing can be quantized"):
        quantize(*residual, exclude=["conv", "matmul"])


def test_an_unknown_method_is_refused(residual: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match="there is no method 'best'"):
        quantize(*residual, method="best")


def test_weights_that_are_no_numbers_are_named() -> None:
    graph = parse(DENSE.replace("2.54]>)", "nan]>)  ; onnx:/fc"))
    profile = octavo.calibrate(parse(DENSE), [{"x": np.ones((1, 2), np.float32)}])
    with pytest.raises(QuantError, match="matmul at onnx:/fc: the weights hold infinities or NaN"):
        quantize(graph, Profile(digest(prepared(graph)), profile.samples, profile.values))


def test_patterns_and_strengths_of_other_types_are_refused(residual: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match=r"exclude is a sequence of names and patterns, each a text, not \[3\]"):
        quantize(*residual, exclude=[3])  # type: ignore[list-item]
    with pytest.raises(QuantError, match="smooth is a strength from 0 to 1, not 'half'"):
        quantize(*residual, smooth="half")  # type: ignore[arg-type]


def test_an_infinite_bias_stays_a_float() -> None:
    graph = parse(DENSE.replace("[1.0,2.0]", "[inf,2.0]"))
    x = np.array([[-1.0, 0.5], [0.0, 1.55]], np.float32)
    (y,) = evaluate(quantize(graph, profiled(graph, [{"x": x}])), {"x": x})
    assert y[:, 0].tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(y[:, 1], evaluate(graph, {"x": x})[0][:, 1], atol=0.05)


def test_a_bias_too_large_for_the_scale_of_given_integers_stays_a_float() -> None:
    rng = np.random.default_rng(0)
    w, b = const_value(rng.integers(-127, 128, (256, 256)).astype(np.int8)), const_value(rng.standard_normal(256).astype(np.float32))
    x = input_value("x", parse_type("f32[2,256]"))
    graph = Graph("g", (x,), (apply("add", apply("matmul", x, apply("cast", w, to=f32)), b),))
    data = (rng.standard_normal((2, 256)) * 1e-12).astype(np.float32)
    (y,) = evaluate(quantize(graph, profiled(graph, [{"x": data}])), {"x": data})
    np.testing.assert_allclose(y, np.broadcast_to(b.array, y.shape), atol=1e-6)
