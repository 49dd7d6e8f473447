"""Contractions of dequantized operands multiply the bytes, and requantization needs no division."""

import numpy as np
import pytest
from octavo.ir.errors import QuantWarning
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse
from octavo.ir.types import TensorType, u8
from octavo.ir.verify import verify
from octavo.passes.integer import integer

from .check import becomes, unchanged

X = "%x: u8[n,2,4]"
DX = "%d = dequantize(%x, const<f32[] 0.5>, const<u8[] 3>)\n"
W = "%w = dequantize(const<i8[3,2,1] [1,2,3,4,5,-6]>, const<f32[3,1,1] [0.25,0.5,0.125]>, const<i8[] 0>)\n"
CONV = "%c = conv(%d, %w, strides=[1], pads=[[0,0]], dilations=[1])\n"
SUMS = "%c = conv(%x, const<i8[3,2,1] [1,2,3,4,5,-6]>, strides=[1], pads=[[0,0]], dilations=[1])\n"


def conv(rest: str, result: str = "y", weights: str = W, inputs: str = X) -> str:
    return f"graph g({inputs}) -> (%{result}) {{\n{DX}{weights}{CONV}{rest}\n}}"


def test_a_convolution_multiplies_bytes_and_corrects_for_the_zero_point():
    becomes(
        conv("", "c"),
        integer,
        f"""graph g({X}) -> (%y) {{
          {SUMS}
          %t = add(%c, const<i32[3,1] [-9,-21,3]>)
          %y = dequantize(%t, const<f32[3,1] [0.125,0.25,0.0625]>, const<i32[] 0>)
        }}""",
    )


def test_a_quantized_bias_joins_the_correction():
    becomes(
        conv(
            "%b = dequantize(const<i32[3] [100,200,300]>, const<f32[3] [0.125,0.25,0.0625]>, const<i32[] 0>)\n"
            "%r = reshape(%b, shape=[3,1])\n%y = add(%c, %r)"
        ),
        integer,
        f"""graph g({X}) -> (%y) {{
          {SUMS}
          %t = add(%c, const<i32[3,1] [91,179,303]>)
          %y = dequantize(%t, const<f32[3,1] [0.125,0.25,0.0625]>, const<i32[] 0>)
        }}""",
    )


def test_a_bias_with_a_scale_of_its_own_is_added_to_floats():
    after = integer(parse(conv("%b = dequantize(const<i32[3,1] [1,2,3]>, const<f32[] 1.0>, const<i32[] 0>)\n%y = add(%c, %b)")))
    total = after.outputs[0].node
    assert total.op == "add"
    assert total.types[0].dtype.is_float


def test_padding_is_the_zero_point():
    before = f"""graph g({X}) -> (%c) {{
      {DX}{W}%c = conv(%d, %w, strides=[2], pads=[[1,2]], dilations=[1])
    }}"""
    after = f"""graph g({X}) -> (%y) {{
      %p = pad(%x, low=[0,0,1], high=[0,0,2], mode="constant", value=3.0)
      %c = conv(%p, const<i8[3,2,1] [1,2,3,4,5,-6]>, strides=[2], pads=[[0,0]], dilations=[1])
      %t = add(%c, const<i32[3,1] [-9,-21,3]>)
      %y = dequantize(%t, const<f32[3,1] [0.125,0.25,0.0625]>, const<i32[] 0>)
    }}"""
    becomes(before, integer, after)


def test_a_matmul_sums_columns():
    becomes(
        """graph g(%x: u8[n,2]) -> (%y) {
          %d = dequantize(%x, const<f32[] 0.5>, const<u8[] 2>)
          %w = dequantize(const<i8[3,2] [1,2,3,4,5,-6]>, const<f32[3,1] [0.25,0.5,0.125]>, const<i8[] 0>)
          %t = transpose(%w, perm=[1,0])
          %y = matmul(%d, %t)
        }""",
        integer,
        """graph g(%x: u8[n,2]) -> (%y) {
          %p = matmul(%x, const<i8[2,3] [1,3,5,2,4,-6]>)
          %t = add(%p, const<i32[3] [-6,-14,2]>)
          %y = dequantize(%t, const<f32[3] [0.125,0.25,0.0625]>, const<i32[] 0>)
        }""",
    )


def test_unsigned_weights_become_signed_about_their_zero_point():
    weights = "%w = dequantize(const<u8[3,2,1] [129,130,131,132,133,122]>, const<f32[] 0.25>, const<u8[] 128>)\n"
    after = integer(parse(conv("", "c", weights)))
    (sums,) = (n for n in after.nodes if n.op == "conv")
    np.testing.assert_array_equal(sums.inputs[1].array.reshape(-1), [1, 2, 3, 4, 5, -6])
    assert sums.inputs[1].dtype.name == "i8"


def test_signed_activations_are_made_unsigned():
    before = """graph g(%x: i8[2,2]) -> (%y) {
      %d = dequantize(%x, const<f32[] 0.5>, const<i8[] -3>)
      %w = dequantize(const<i8[2,1] [1,2]>, const<f32[] 0.25>, const<i8[] 0>)
      %y = matmul(%d, %w)
    }"""
    after = """graph g(%x: i8[2,2]) -> (%y) {
      %b = bitcast(%x, to=u8)
      %u = xor(%b, const<u8[] 128>)
      %p = matmul(%u, const<i8[2,1] [1,2]>)
      %t = add(%p, const<i32[1] [-375]>)
      %y = dequantize(%t, const<f32[] 0.125>, const<i32[] 0>)
    }"""
    becomes(before, integer, after)


# --- requantization ---


def test_requantization_multiplies_once_and_divides_never():
    before = conv(
        "%r = dequantize(%z, const<f32[] 1.5>, const<u8[] 7>)\n%s = add(%c, %r)\n%a = relu(%s)\n"
        "%y = quantize(%a, const<f32[] 0.75>, const<u8[] 9>, to=u8)",
        inputs=X + ", %z: u8[n,3,4]",
    )
    after = f"""graph g({X}, %z: u8[n,3,4]) -> (%y) {{
      {SUMS}
      %t = add(%c, const<i32[3,1] [-9,-21,3]>)
      %d = dequantize(%t, const<f32[3,1] [0.166666667,0.333333333,0.0833333333]>, const<i32[] 0>)
      %r = dequantize(%z, const<f32[] 2.0>, const<u8[] 7>)
      %s = add(%d, %r)
      %a = relu(%s)
      %y = quantize(%a, const<f32[] 1.0>, const<u8[] 9>, to=u8)
    }}"""
    becomes(before, integer, after)


def test_scales_are_multiplied_and_divided_before_they_are_rounded():
    sx, sw, sy = np.float32(0.1), np.float32(0.3), np.float32(0.7)
    before = parse(f"""graph g(%x: u8[2,1]) -> (%y) {{
      %d = dequantize(%x, const<f32[] {sx}>, const<u8[] 3>)
      %w = dequantize(const<i8[1,1] [1]>, const<f32[] {sw}>, const<i8[] 0>)
      %c = matmul(%d, %w)
      %y = quantize(%c, const<f32[] {sy}>, const<u8[] 0>, to=u8)
    }}""")
    (scale,) = (n.inputs[1].array for n in integer(before).nodes if n.op == "dequantize")
    assert scale == np.float32(np.float64(sx) * np.float64(sw) / np.float64(sy))


def test_what_else_is_added_is_scaled_as_well():
    becomes(
        conv("%s = add(%c, %f)\n%y = quantize(%s, const<f32[] 0.5>, const<u8[] 9>, to=u8)", inputs=X + ", %f: f32[n,3,4]"),
        integer,
        f"""graph g({X}, %f: f32[n,3,4]) -> (%y) {{
          {SUMS}
          %t = add(%c, const<i32[3,1] [-9,-21,3]>)
          %d = dequantize(%t, const<f32[3,1] [0.25,0.5,0.125]>, const<i32[] 0>)
          %m = mul(%f, const<f32[] 2.0>)
          %s = add(%d, %m)
          %y = quantize(%s, const<f32[] 1.0>, const<u8[] 9>, to=u8)
        }}""",
    )


def test_a_sum_with_another_reader_keeps_its_scale():
    after = integer(parse(conv("%q = quantize(%c, const<f32[] 0.5>, const<u8[] 9>, to=u8)\n%f = cast(%q, to=f32)\n%y = add(%c, %f)")))
    (q,) = (n for n in after.nodes if n.op == "quantize")
    assert q.inputs[1].array == np.float32(0.5)


# --- what stays ---

FLOATS = {
    "scales along another axis than the channels": (
        conv("", "c", W.replace("[3,1,1] [0.25,0.5,0.125]", "[1,2,1] [0.25,0.5]")),
        "the weights have several scales",
    ),
    "weights that do not fit i8": (
        conv("", "c", "%w = dequantize(const<u8[3,2,1] [1,2,3,255,5,6]>, const<f32[] 0.25>, const<u8[] 100>)\n"),
        "do not fit i8",
    ),
    "weights that are not constant": (
        conv("", "c", "%w = dequantize(%v, const<f32[] 0.25>, const<u8[] 100>)\n", X + ", %v: u8[3,2,1]"),
        "the second operand is not a quantized constant",
    ),
    "weights of 8-bit floats": (
        conv("", "c", "%w = dequantize(const<f8e4m3[3,2,1] [0.5,1.5,2.0,0.25,5.0,6.0]>, const<f32[] 0.25>, const<f8e4m3[] 0.0>)\n"),
        "the second operand is not a quantized constant",
    ),
    "scales whose product is too large": (
        conv("", "c", W.replace("0.5", "3e38")).replace("[] 0.5", "[] 2.5"),
        "the product of its scales is too large or small",
    ),
    "scales whose product is subnormal": (
        conv("", "c", W.replace("0.5", "2e-38")),
        "the product of its scales is too large or small",
    ),
    "weights with a scale of zero": (
        conv("", "c", W.replace("0.5", "0.0")),
        "the second operand is not a quantized constant",
    ),
}


@pytest.mark.parametrize("name", FLOATS)
def test_it_leaves_and_names(name):
    text, reason = FLOATS[name]
    with pytest.warns(QuantWarning, match=reason):
        unchanged(text, integer)


def test_the_warning_names_the_contraction():
    text, _ = FLOATS["weights that are not constant"]
    with pytest.warns(QuantWarning, match=r"conv at onnx:/features/Conv is turned back into floats"):
        integer(parse(text.replace("dilations=[1])", "dilations=[1])  ; onnx:/features/Conv")))


def product(w: np.ndarray, scale: float, zero: int) -> Graph:
    """A matmul of rows of bytes with a matrix of i8."""
    x = input_value("x", TensorType(u8, (2, w.shape[0])))
    real = apply("dequantize", x, const_value(np.float32(scale)), const_value(np.uint8(zero)))
    weights = apply("dequantize", const_value(w), const_value(np.float32(scale)), const_value(np.int8(0)))
    return Graph("g", (x,), (apply("matmul", real, weights),))


def test_sums_that_could_overflow_stay_floats():
    graph = product(np.full((70_000, 1), 127, np.int8), 0.5, 2)
    with pytest.warns(QuantWarning, match="could overflow"):
        assert integer(graph) is graph


def test_a_quantized_bias_of_no_elements_joins_nothing():
    rest = "%b = dequantize(const<i32[0,1,1] []>, const<f32[] 0.125>, const<i32[] 0>)\n%y = add(%c, %b)"
    result = integer(parse(conv(rest, inputs="%x: u8[0,2,4]")))
    verify(result)
    assert result.outputs[0].shape == (0, 3, 4)


def test_a_graph_without_quantization_is_left_alone():
    unchanged("graph g(%x: f32[2,2]) -> (%y) {\n%y = matmul(%x, %x)\n}", integer)


def test_the_largest_sums_are_exact():
    rng = np.random.default_rng(0)
    w = np.where(rng.random((4096, 3)) < 0.5, -127, 127).astype(np.int8)
    x = rng.choice([0, 255], (2, 4096)).astype(np.uint8)
    result = integer(product(w, 1.0, 255))
    verify(result)
    expected = (x.astype(np.int64) - 255) @ w.astype(np.int64)
    np.testing.assert_array_equal(evaluate(result, {"x": x})[0], expected.astype(np.float32))
