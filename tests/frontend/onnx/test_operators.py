"""Operators whose import is more than a change of name, against onnxruntime or worked examples."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from octavo.frontend.onnx import import_model
from octavo.ir.errors import QuantError, UnsupportedOp
from octavo.passes.pipeline import optimize
from onnx import TensorProto, helper, numpy_helper

from .models import imported, model, onnxruntime_run, ops, run


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    low = 0 if np.dtype(dtype).kind == "u" else -100
    return rng.integers(low, 100, shape).astype(dtype)


def same_as_onnxruntime(graph: str, feeds: dict[str, np.ndarray], *, opset: int = 17, tolerance: float = 1e-5, **more: Any) -> None:
    proto = model(graph, opset=opset, **more)
    proto.ir_version = 8
    for ours, theirs in zip(run(proto, **feeds), onnxruntime_run(proto, feeds), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=tolerance, atol=tolerance)


# one operator, several opsets


def test_softmax_before_opset_13_normalises_all_later_axes() -> None:
    graph = "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }"
    x = numbers(2, 3, 4)
    np.testing.assert_allclose(run(model(graph, opset=11), x=x)[0].sum(axis=(1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(run(model(graph, opset=13), x=x)[0].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
def test_axes_come_as_attribute_or_as_input(opset: int) -> None:
    if opset < 13:
        text = (
            "(float[2,3] x) => (float[2] y) "
            "{ s = ReduceSum<axes=[1], keepdims=0>(x) u = Unsqueeze<axes=[1]>(s) y = Squeeze<axes=[1]>(u) }"
        )
    else:
        text = (
            "(float[2,3] x) => (float[2] y) <int64[1] one = {1}> "
            "{ s = ReduceSum<keepdims=0>(x, one) u = Unsqueeze(s, one) y = Squeeze(u, one) }"
        )
    x = numbers(2, 3)
    np.testing.assert_allclose(run(model(text, opset=opset), x=x)[0], x.sum(1), rtol=1e-6)


def test_clip_takes_limits_as_attributes_or_inputs() -> None:
    x = np.float32([-3, 0.5, 9])
    old = "(float[3] x) => (float[3] y) { y = Clip<min=-1.0, max=2.0>(x) }"
    new = "(float[3] x) => (float[3] y) <float high = {2.0}> { y = Clip(x, , high) }"
    np.testing.assert_array_equal(run(model(old, opset=7), x=x)[0], np.float32([-1, 0.5, 2]))
    np.testing.assert_array_equal(run(model(new), x=x)[0], np.float32([-3, 0.5, 2]))


def test_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    graph = imported("(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    assert graph.input_names == ("x",)


# functions


def test_a_model_local_function_is_expanded_with_its_attributes() -> None:
    function = """<domain: "local", opset_import: ["" : 21]> Scaled <factor: float = 3.0> (a) => (b) {
        f = Constant<value_float: float = @factor>() b = Mul(a, f) }"""
    text = "(float[n] x) => (float[n] y) { h = local.Scaled(x) y = local.Scaled<factor=0.5>(h) }"
    proto = model(text, functions=function, domains=', "local" : 1')
    np.testing.assert_allclose(run(proto, x=np.float32([2, 4]))[0], np.float32([3, 6]))


def test_an_operator_without_importer_expands_by_its_schema() -> None:
    x = numbers(2, 3, 4, 5)
    (y,) = run(model("(float[2,3,4,5] x) => (float[2,3,4,5] y) { y = MeanVarianceNormalization(x) }"), x=x)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1, rtol=1e-4)


# control flow


def test_an_if_with_a_known_condition_becomes_the_branch_taken() -> None:
    graph = imported(
        """(float[n] x) => (float[n] y) <bool yes = {1}> {
        y = If(yes) <then_branch = a () => (float[n] p) { p = Relu(x) }, else_branch = b () => (float[n] q) { q = Bogus(x) }> }"""
    )
    assert ops(graph) == ["relu"]


def test_an_if_at_run_time_makes_its_captures_explicit() -> None:
    graph = imported(
        """(float[n] x, bool go) => (float[n] y) {
        h = Neg(x)
        y = If(go) <then_branch = a () => (float[n] p) { p = Abs(h) }, else_branch = b () => (float[n] q) { q = Add(h, x) }> }"""
    )
    assert ops(graph) == ["neg", "if_"]
    x = np.float32([1, -2])
    np.testing.assert_array_equal(run(graph, x=x, go=True)[0], np.abs(x))
    np.testing.assert_array_equal(run(graph, x=x, go=False)[0], x - x)


LOOP = """(float[3] x, int64 count) => (float[3] y, float[k,3] all) <bool yes = {1}> {
    y, all = Loop(count, yes, x) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] u) {
        d = Identity(c)
        f = Cast<to=1>(i)
        t = Add(s, f)
        u = Mul(t, x) }> }"""


def test_a_loop_of_known_length_is_a_scan() -> None:
    proto = model(LOOP)
    graph = import_model(proto, constants={"count": np.array(4)})
    assert ops(graph) == ["scan"]
    x = np.float32([1, 2, 3])
    y, stacked = run(graph, x=x, count=np.array(4))
    np.testing.assert_array_equal(y, x + 6)
    np.testing.assert_array_equal(stacked, [(x + s) * x for s in (0, 1, 3, 6)])


def test_a_loop_whose_stacked_results_depend_on_data_names_the_data() -> None:
    with pytest.raises(UnsupportedOp, match="how many results it stacks depends on the contents of 'count'"):
        import_model(model(LOOP))


def test_a_loop_until_a_condition_runs_at_run_time() -> None:
    graph = imported(
        """(float x) => (float y) <bool yes = {1}, float limit = {100.0}> {
        y = Loop( , yes, x) <body = b (int64 i, bool c, float s) => (bool d, float t) { t = Add(s, s) d = Less(t, limit) }> }"""
    )
    assert ops(graph) == ["loop"]
    assert run(graph, x=np.float32(3))[0] == 192


def test_a_loop_whose_state_grows_is_unrolled() -> None:
    graph = imported(
        """(float[1] x) => (float[n] y) <int64 three = {3}, bool yes = {1}> {
        y = Loop(three, yes, x) <body = b (int64 i, bool c, float[m] s) => (bool d, float[k] t)
            { d = Identity(c) t = Concat<axis=0>(s, s) }> }"""
    )
    assert str(graph.outputs[0].type) == "f32[8]"


def test_scan_with_directions_and_axes() -> None:
    graph = """(float[2] s, float[2,5] x) => (float[2] final, float[2,5] all) {
        final, all = Scan<num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[1],
            body = b (float[2] a, float[2] v) => (float[2] t, float[2] u) { t = Add(a, v) u = Mul(t, v) }>(s, x) }"""
    same_as_onnxruntime(graph, {"s": numbers(2), "x": numbers(2, 5)})


# quantization


def test_quantize_and_dequantize_per_axis() -> None:
    graph = """(float[2,3,4] x) => (uint8[2,3,4] q, float[2,3,4] y)
        <float[3] s = {0.1, 0.2, 0.05}, uint8[3] z = {100, 0, 255}> {
        q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z) }"""
    same_as_onnxruntime(graph, {"x": numbers(2, 3, 4) * 10})


def test_quantization_by_blocks() -> None:
    x = numbers(2, 6)
    text = """(float[2,6] x) => (int8[2,6] q, float[2,6] y) <float[2,2] s = {0.1, 0.2, 0.3, 0.4}, int8[2,2] z = {0, 1, 2, 3}> {
        q = QuantizeLinear<axis=1, block_size=3>(x, s, z) y = DequantizeLinear<axis=1, block_size=3>(q, s, z) }"""
    q, y = run(model(text), x=x)
    scale = np.repeat(np.float32([[0.1, 0.2], [0.3, 0.4]]), 3, axis=1)
    zero = np.repeat([[0, 1], [2, 3]], 3, axis=1)
    np.testing.assert_array_equal(q, np.clip(np.rint(x / scale) + zero, -128, 127))
    np.testing.assert_allclose(y, (q - zero) * scale, rtol=1e-6)


@pytest.mark.parametrize("zeros", ["", ", az", ", az, bz"])
def test_integer_matmul_corrects_for_zero_points(zeros: str) -> None:
    graph = (
        "(uint8[5,7] a, int8[7,3] b) => (int32[5,3] y) <uint8 az = {113}, int8[3] bz = {-7, 0, 90}> "
        f"{{ y = MatMulInteger(a, b{zeros}) }}"
    )
    a, b = numbers(5, 7, dtype=np.uint8), numbers(7, 3, dtype=np.int8)
    za = 113 if "az" in zeros else 0
    zb = np.array([-7, 0, 90]) if "bz" in zeros else 0
    np.testing.assert_array_equal(run(model(graph), a=a, b=b)[0], (a.astype(int) - za) @ (b.astype(int) - zb))


def test_integer_matmul_stays_on_8_bits() -> None:
    graph = imported("(uint8[5,7] a, int8[7,3] b) => (int32[5,3] y) <uint8 az = {113}> { y = MatMulInteger(a, b, az) }")
    product = next(node for node in graph.nodes if node.op == "matmul")
    assert [v.dtype.name for v in product.inputs] == ["u8", "i8"]


def test_quantized_convolution_pads_with_its_zero_point() -> None:
    graph = """(uint8[1,2,5,5] x, int8[3,2,3,3] w) => (uint8[1,3,5,5] y)
        <float sx = {0.02}, uint8 zx = {130}, float[3] sw = {0.01, 0.02, 0.03}, int8[3] zw = {0, 0, 0}, float sy = {0.05},
         uint8 zy = {120}, int32[3] b = {100, -50, 7}> { y = QLinearConv<pads=[1,1,1,1]>(x, sx, zx, w, sw, zw, sy, zy, b) }"""
    same_as_onnxruntime(graph, {"x": numbers(1, 2, 5, 5, dtype=np.uint8), "w": numbers(3, 2, 3, 3, dtype=np.int8)})


def test_quantized_matmul() -> None:
    graph = """(uint8[4,6] a, uint8[6,3] b) => (uint8[4,3] y)
        <float sa = {0.02}, uint8 za = {130}, float sb = {0.01}, uint8 zb = {60}, float sy = {0.05}, uint8 zy = {120}>
        { y = QLinearMatMul(a, sa, za, b, sb, zb, sy, zy) }"""
    same_as_onnxruntime(graph, {"a": numbers(4, 6, dtype=np.uint8), "b": numbers(6, 3, dtype=np.uint8)})


@pytest.mark.parametrize("scale", ["0.0", "-0.5", "1e-40", "nan", "inf"])
@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_scales_that_cannot_be_used_are_refused(op: str, scale: str) -> None:
    source, result = ("float", "uint8") if op == "QuantizeLinear" else ("uint8", "float")
    proto = model(f"({source}[4] x) => ({result}[4] y) <float s = {{0.25}}, uint8 z = {{3}}> {{ y = {op}(x, s, z) }}")
    (tensor,) = (t for t in proto.graph.initializer if t.name == "s")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(scale), "s"))
    with pytest.raises(QuantError, match=rf"a scale is {re.escape(str(np.float32(scale)))}; scales are positive, finite"):
        import_model(proto)


def test_a_zero_point_of_another_type_is_refused() -> None:
    graph = "(uint8[4] x) => (float[4] y) <float s = {0.25}, int8 z = {-3}> { y = DequantizeLinear(x, s, z) }"
    with pytest.raises(QuantError, match="the zero point is of i8, outside the type u8 of what it belongs to"):
        imported(graph)


QLINEAR = {
    "QLinearConv": """(uint8[1,2,5,5] x) => (uint8[1,3,5,5] y) <float xs = {0.02}, uint8 xz = {130}, int8[3,2,1,1] w = {1,2,3,4,5,6},
        float ws = {0.01}, int8 wz = {0}, float ys = {0.05}, uint8 yz = {120}> { y = QLinearConv(x, xs, xz, w, ws, wz, ys, yz) }""",
    "QLinearMatMul": """(uint8[4,2] x) => (uint8[4,3] y) <float xs = {0.02}, uint8 xz = {130}, int8[2,3] w = {1,2,3,4,5,6},
        float ws = {0.01}, int8 wz = {0}, float ys = {0.05}, uint8 yz = {120}> { y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz) }""",
}


def with_parameter(text: str, name: str, array: np.ndarray) -> onnx.ModelProto:
    proto = model(text)
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("scale", ["0.0", "-0.5", "1e-40", "nan", "inf"])
@pytest.mark.parametrize("name", ["xs", "ws", "ys"])
@pytest.mark.parametrize("op", QLINEAR)
def test_scales_of_quantized_operators_that_cannot_be_used_are_refused(op: str, name: str, scale: str) -> None:
    with pytest.raises(QuantError, match=rf"{op}.*: a scale is {re.escape(str(np.float32(scale)))}; scales are positive, finite"):
        import_model(with_parameter(QLINEAR[op], name, np.array(scale, np.float32)))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("xz", np.array(3, np.int8), "the zero point is of i8, outside the type u8"),
        ("wz", np.array(3, np.uint8), "the zero point is of u8, outside the type i8"),
        ("wz", np.array([0, 0], np.int8), "there are 2 zero points and 1 scales; every scale has one, or all have the same"),
        ("yz", np.array(300, np.int32), "the zero point is of i32; results of QLinear.* have 8 bits"),
        ("yz", np.array(3, np.float32), "the zero point is of f32; results of QLinear.* have 8 bits"),
    ],
)
@pytest.mark.parametrize("op", QLINEAR)
def test_zero_points_of_quantized_operators_that_do_not_fit_are_refused(op: str, name: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(QuantError, match=message):
        import_model(with_parameter(QLINEAR[op], name, array))


def test_zero_points_that_numbers_cannot_be_quantized_to_are_refused() -> None:
    text = "(float[2,3] x) => (uint8[2,3] y) <float s = {0.25}, uint8 z = {3}> { y = QuantizeLinear(x, s, z) }"
    with pytest.raises(QuantError, match="the zero point is of i32; numbers are quantized to 4, 8 or 16 bits"):
        import_model(with_parameter(text, "z", np.array(300, np.int32)))
    with pytest.raises(QuantError, match="there are 3 zero points and 1 scales"):
        import_model(with_parameter(text, "z", np.array([1, 2, 3], np.uint8)))


INTEGERS = {
    "QLinearConv of signed activations": """(int8[1,2,5,5] x) => (int8[1,3,5,5] y)
        <float sx = {0.02}, int8 zx = {-30}, float sw = {0.01}, int8 zw = {0}, float sy = {0.05}, int8 zy = {20}, int8[3,2,1,1] w =
         {1, -20, 13, 12, 55, -99}> { y = QLinearConv<pads=[0,0,0,0]>(x, sx, zx, w, sw, zw, sy, zy) }""",
    "ConvInteger with padding": """(uint8[1,2,5,5] x) => (int32[1,1,5,5] y)
        <uint8 zx = {130}, uint8 zw = {120}, uint8[1,2,3,3] w =
         {1, 200, 130, 128, 247, 99, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}> { y = ConvInteger<pads=[1,1,1,1]>(x, w, zx, zw) }""",
    "MatMulInteger of unsigned weights": """(uint8[4,2] x) => (int32[4,3] y)
        <uint8 zx = {113}, uint8 zw = {128}, uint8[2,3] w = {1, 200, 130, 128, 255, 99}> { y = MatMulInteger(x, w, zx, zw) }""",
    "QLinearMatMul of signed activations": """(int8[4,2] x) => (int8[4,3] y)
        <float sx = {0.02}, int8 zx = {-13}, float[3] sw = {0.01, 0.02, 0.03}, int8[3] zw = {0, 0, 0}, float sy = {0.05}, int8 zy = {2},
         int8[2,3] w = {1, -20, 13, 12, 55, -99}> { y = QLinearMatMul(x, sx, zx, w, sw, zw, sy, zy) }""",
}


@pytest.mark.parametrize("name", INTEGERS)
def test_products_with_constant_weights_are_of_unsigned_activations_and_signed_weights(name: str) -> None:
    (product,) = (node for node in optimize(imported(INTEGERS[name])).nodes if node.op in ("conv", "matmul"))
    assert [v.dtype.name for v in product.inputs] == ["u8", "i8"]
    signed = "(int8" in INTEGERS[name]
    shape = (1, 2, 5, 5) if "Conv" in name else (4, 2)
    same_as_onnxruntime(INTEGERS[name], {"x": numbers(*shape, dtype=np.int8 if signed else np.uint8)})


def test_dynamic_quantization() -> None:
    graph = "(float[4,6] x) => (uint8[4,6] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }"
    same_as_onnxruntime(graph, {"x": numbers(4, 6)})


# contrib operators

CONTRIB = {
    "FusedMatMul<transB=1, alpha=0.5>(x, w)": {"x": (2, 3, 4), "w": (2, 5, 4)},
    "BiasGelu(x, w)": {"x": (3, 4), "w": (4,)},
    "FastGelu(x, w)": {"x": (3, 4), "w": (4,)},
    "QuickGelu(x)": {"x": (3, 4)},
    'FusedConv<activation="Relu", pads=[1,1,1,1]>(x, w)': {"x": (1, 2, 5, 5), "w": (3, 2, 3, 3)},
    "SkipLayerNormalization<epsilon=1e-5>(x, w, g, b)": {"x": (2, 3, 4), "w": (2, 3, 4), "g": (4,), "b": (4,)},
    "Attention<num_heads=2>(x, w, b)": {"x": (2, 3, 8), "w": (8, 24), "b": (24,)},
    "Attention<num_heads=2, unidirectional=1>(x, w, b)": {"x": (2, 3, 8), "w": (8, 24), "b": (24,)},
    "MultiHeadAttention<num_heads=2>(x, w, b)": {"x": (2, 3, 8), "w": (2, 5, 8), "b": (2, 5, 8)},
}


@pytest.mark.parametrize("call", CONTRIB)
def test_contrib_operators_match_onnxruntime(call: str) -> None:
    shapes = CONTRIB[call]
    feeds = {name: numbers(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    text = f"({inputs}) => (y) {{ y = com.microsoft.{call} }}"
    same_as_onnxruntime(text, feeds, domains=', "com.microsoft" : 1', tolerance=2e-5)


def test_four_bit_weights_match_onnxruntime() -> None:
    k, columns, block = 64, 5, 32
    weights = numbers(columns, k // block, block // 2, dtype=np.uint8)
    scales = np.abs(numbers(columns, k // block)) + 0.1
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [3, k]), ("y", [3, columns])))
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=k, N=columns, bits=4, block_size=block
    )  # fmt: skip
    initializers = [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(scales, "s")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(helper.make_graph([node], "g", [x], [y], initializers), opset_imports=opsets, ir_version=8)
    feeds = {"x": numbers(3, k)}
    np.testing.assert_allclose(run(proto, **feeds)[0], onnxruntime_run(proto, feeds)[0], rtol=1e-3, atol=1e-3)


# sizes that the run decides


def test_non_zero_binds_a_size_when_it_runs() -> None:
    graph = imported("(float[n,3] x) => (int64[2,m] y) { y = NonZero(x) }")
    x = np.float32([[0, 1, 0], [2, 0, 3]])
    np.testing.assert_array_equal(run(graph, x=x)[0], np.array(np.nonzero(x)))


def test_unique_binds_one_size_for_its_results() -> None:
    graph = imported("(float[n] x) => (float[m] y, int64[m] first, int64[n] group) { y, first, group = Unique(x) }")
    x = np.float32([2, 1, 1, 3, 2])
    for ours, theirs in zip(run(graph, x=x), np.unique(x, return_index=True, return_inverse=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ai.onnx.ml


def test_scaler() -> None:
    graph = "(float[2,3] x) => (float[2,3] y) { y = ai.onnx.ml.Scaler<offset=[1.0,2.0,3.0], scale=[0.5,1.0,2.0]>(x) }"
    x = numbers(2, 3)
    (y,) = run(model(graph, domains=', "ai.onnx.ml" : 3'), x=x)
    np.testing.assert_allclose(y, (x - [1, 2, 3]) * [0.5, 1, 2], rtol=1e-6)


def test_a_scale_that_leaves_the_size_as_it_is_still_moves_the_coordinates() -> None:
    graph = """(float[1,1,8] x) => (float[1,1,8] y) {
        scales = Constant<value_floats = [1.0, 1.0, 1.05]>()
        y = Resize<mode = "linear">(x, , scales)
    }"""
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    (y,) = run(model(graph), x=x)
    np.testing.assert_allclose(y[0, 0], np.clip((np.arange(8) + 0.5) / 1.05 - 0.5, 0, 7), rtol=1e-5, atol=1e-6)
