"""Pairs of quantize and dequantize between which nothing computes with integers are named, and no others."""

import warnings

import octavo
import onnx.parser
import pytest
from octavo.benchmarks import zoo
from octavo.frontend.onnx import import_model
from octavo.ir.errors import QuantWarning
from octavo.ir.text import parse
from octavo.passes.pipeline import optimize

S, Z = "const<f32[] 0.25>", "const<u8[] 3>"
WEIGHTS = "%w = dequantize(const<i8[4,4] [1,2,3,4,5,-6,7,8,1,2,3,4,5,-6,7,8]>, const<f32[] 0.5>, const<i8[] 0>)"


def graph(*lines: str, results: str = "%y") -> str:
    body = "\n".join(line.replace("S, Z", f"{S}, {Z}") for line in lines)
    return f"graph g(%x: f32[2,4]) -> ({results}) {{\n{body}\n}}"


def warnings_of(text: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimize(parse(text))
    return [str(w.message) for w in caught if w.category is QuantWarning]


def test_all_pairs_are_named_in_one_warning() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[2,4] x) => (float[2,4] y) <float s = {0.1}, uint8 z = {3}, int8 w = {-5}>
    {
      [first] q = QuantizeLinear(x, s, z) [second] d = DequantizeLinear(q, s, z) e = Exp(d)
      [third] p = QuantizeLinear(e, s, w) [fourth] f = DequantizeLinear(p, s, w) y = Exp(f)
    }""")
    with pytest.warns(QuantWarning) as caught:
        optimize(import_model(model.SerializeToString()))
    (text,) = (str(w.message) for w in caught)
    assert "2 pairs of quantize and dequantize are left over, because nothing computes with the integers" in text
    assert "quantize at onnx:first -> dequantize at onnx:second, quantize at onnx:third -> dequantize at onnx:fourth;" in text
    assert "quantize what reads the values too, or leave these pairs out of the model" in text


LEFT = {
    "a pair before an output": ("%q = quantize(%x, S, Z, to=u8)", "%y = dequantize(%q, S, Z)"),
    "a pair that a reshape separates": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        "%r = reshape(%d, shape=[8])",
        "%y = exp(%r)",
    ),
    "a pair of 16 bits": (
        "%q = quantize(%x, const<f32[] 0.25>, const<i16[] 3>, to=i16)",
        "%d = dequantize(%q, const<f32[] 0.25>, const<i16[] 3>)",
        "%y = exp(%d)",
    ),
    "a pair with two scales": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, const<f32[] 0.5>, const<u8[] 3>)",
        "%y = exp(%d)",
    ),
    "a pair before a comparison": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        "%y = lt(%d, const<f32[] 0.5>)",
    ),
    "a pair before something that a product in floats reads": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        "%e = exp(%d)",
        "%m = matmul(%e, const<f32[4,4] [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]>)",
        "%y = quantize(%m, S, Z, to=u8)",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_it_names(name: str) -> None:
    (text,) = warnings_of(graph(*LEFT[name]))
    assert text.startswith("1 pair of quantize and dequantize is left over")


USED = {
    "a product of bytes": ("%q = quantize(%x, S, Z, to=u8)", "%d = dequantize(%q, S, Z)", WEIGHTS, "%y = matmul(%d, %w)"),
    "the epilogue of a product": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        WEIGHTS,
        "%m = matmul(%d, %w)",
        "%r = relu(%m)",
        "%p = quantize(%r, S, Z, to=u8)",
        "%y = dequantize(%p, S, Z)",
    ),
    "another operand of an epilogue": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        WEIGHTS,
        "%m = matmul(%d, %w)",
        "%t = exp(%x)",
        "%p = quantize(%t, S, Z, to=u8)",
        "%u = dequantize(%p, S, Z)",
        "%y = add(%m, %u)",
    ),
    "a function of bytes that gives bytes": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        "%e = softmax(%d, axis=1)",
        "%y = quantize(%e, S, Z, to=u8)",
    ),
    "bytes that are moved": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%d = dequantize(%q, S, Z)",
        "%t = transpose(%d, perm=[1,0])",
        "%y = exp(%t)",
    ),
}


@pytest.mark.parametrize("name", USED)
def test_it_does_not_name(name: str) -> None:
    assert warnings_of(graph(*USED[name])) == []


def test_bytes_that_are_a_result_are_of_use() -> None:
    lines = ("%q = quantize(%x, S, Z, to=u8)", "%d = dequantize(%q, S, Z)", "%y = exp(%d)")
    assert warnings_of(graph(*lines, results="%y, %q")) == []


def test_what_a_contraction_in_floats_reads_is_named_once() -> None:
    weights = "const<f32[4,4] [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]>"
    (text,) = warnings_of(graph("%q = quantize(%x, S, Z, to=u8)", "%d = dequantize(%q, S, Z)", f"%y = matmul(%d, {weights})"))
    assert text.startswith("the quantized operand of matmul")


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "yolo", "vit_tiny", "bert_small", "mlp"])
def test_what_octavo_quantizes_has_no_such_pairs(name: str) -> None:
    model = zoo.build(name, small=True)
    quantized = octavo.quantize(model, octavo.calibrate(model, [zoo.feeds(name, 1, small=True)]))
    assert any(n.op == "quantize" for n in quantized.nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QuantWarning)
        optimize(quantized)
