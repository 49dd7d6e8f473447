"""The text form: what it looks like, that it reads back exactly, and how it refuses what is malformed."""

import math
import struct

import numpy as np
import pytest
from octavo.ir.dims import floordiv, symbol
from octavo.ir.errors import ModelError
from octavo.ir.graph import Constant, Graph, Node, Value, const_value, input_value, variable_value
from octavo.ir.text import digest, excerpt, large_constants, parse, to_text
from octavo.ir.types import DTYPES, TensorType, f32, i64


def f32_type(*shape):
    return TensorType(f32, shape)


PAIR = (f32_type(2),)


def node(op, *inputs, types=PAIR, loc="", **attrs):
    return Node(op, inputs, attrs, types, loc)


def test_it_looks_like_this():
    batch = symbol("batch")
    x = input_value("x", f32_type(batch, 784))
    w = const_value(np.zeros((784, 128), np.float32))
    b = const_value(np.float32([0.5]), loc="onnx:/fc1/bias")
    h = node("matmul", x, w, types=(f32_type(batch, 128),), loc="onnx:/fc1/MatMul", out=None).outputs[0]
    y = node("add", h, b, types=(f32_type(batch, 128),)).outputs[0]
    assert to_text(Graph("mlp", (x,), (y,), ("logits",))) == (
        f"""\
graph mlp(%x: f32[batch,784]) -> (logits: %3) {{
  %1 = matmul(%x, const<f32[784,128] #{w.node.attrs["value"].digest}>, out=none) : f32[batch,128]  ; onnx:/fc1/MatMul
  %2 = const(value=const<f32[1] [0.5]>) : f32[1]  ; onnx:/fc1/bias
  %3 = add(%1, %2) : f32[batch,128]
}}
"""
    )


ATTRIBUTES = {
    "ints": (0, -7, 10**30),
    "floats": (1.0, -0.0, 1e-310, 0.1, 1e22, math.inf, -math.inf),
    "bools": (True, False),
    "none": None,
    "strings": ('a"b\\', "line\nline", "; not a comment", "%x) : f32[1]", "é\u2028\0", ""),
    "dims": (symbol("batch"), 2 * symbol("s") + 1, symbol("s") // 2 * 3 - symbol("s") % 4, -floordiv(symbol("a"), 7)),
    "named_like_something_else": tuple(map(symbol, ("f32", "true", "inf", "nan", "none", "const", "graph", "dim", "max"))),
    "dtypes": tuple(DTYPES.values()),
    "nested": ((), (1, (2.0, ("x",))), ((),)),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_read_back_exactly(name):
    value = ATTRIBUTES[name]
    graph = Graph("g", (), node("thing", attr=value).outputs)
    back = parse(to_text(graph)).outputs[0].node.attrs["attr"]
    assert repr(back) == repr(value)
    assert back == value


def test_nan_attributes_keep_their_bits():
    for bits in (0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000123):
        value = struct.unpack("<d", struct.pack("<Q", bits))[0]
        back = parse(to_text(Graph("g", (), node("thing", attr=value).outputs))).outputs[0].node.attrs["attr"]
        assert struct.pack("<d", back) == struct.pack("<Q", bits)


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.kind != "s"], ids=str)
def test_constants_read_back_bit_for_bit(dtype):
    rng = np.random.default_rng(1)
    if dtype.bits < 8:
        array = np.arange(dtype.min, dtype.max + 1).astype(dtype.np).reshape(2, -1)
    elif dtype.kind == "b":
        array = rng.random((3, 5)) < 0.5
    else:
        array = np.frombuffer(rng.bytes(30 * dtype.np.itemsize), dtype.np).reshape(5, 6)  # NaNs with payloads, subnormals
    for value in (array, array[:1, :1].reshape(()), array[:0]):
        back = parse(to_text(Graph("g", (), (const_value(value, dtype=dtype),)))).outputs[0]
        assert back.type == TensorType(dtype, value.shape)
        assert back.array.tobytes() == value.tobytes()
        assert back.array.dtype == value.dtype


def test_string_constants_read_back():
    array = np.array(["a", 'b">]', "c, d"], object)
    assert parse(to_text(Graph("g", (), (const_value(array),)))).outputs[0].array.tolist() == array.tolist()


def test_large_constants_come_from_the_mapping():
    w = np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32)
    x = input_value("x", f32_type(9))
    graph = Graph("g", (x,), node("thing", x, const_value(w), body=Graph("h", (), (const_value(w + 1),))).outputs)
    constants = large_constants(graph)
    assert sorted(constants) == sorted((Constant(w).digest, Constant(w + 1).digest))
    back = parse(to_text(graph), constants)
    assert np.array_equal(back.outputs[0].node.inputs[1].array, w)
    with pytest.raises(ModelError, match="not written out and was not given"):
        parse(to_text(graph))
    with pytest.raises(ModelError, match="has other contents"):
        parse(to_text(graph), dict.fromkeys(constants, w + 2))


def test_names_locs_results_updates_and_sub_graphs_read_back():
    x = input_value("a/b:0 \n", f32_type(2), loc='the "input"')
    h = variable_value("state", np.float32([1, 2]), loc=" spaces ")
    inner = input_value("x", f32_type(2))
    body = Graph("body", (inner,), node("relu", inner, loc="in; here").outputs, ("out",))
    both = node("two", x, h, types=(f32_type(2), TensorType(i64, ())), loc="two\nlines", body=body)
    graph = Graph("my graph", (x,), (Value(both, 1), Value(both, 0)), ("1", "b c"), {h: Value(both, 0)})
    text = to_text(graph)
    back = parse(text)
    assert to_text(back) == text
    assert back.name == "my graph"
    assert back.output_names == ("1", "b c")
    assert back.input_names == ("a/b:0 \n",)
    assert back.inputs[0].node.loc == 'the "input"'
    assert back.outputs[0].node.loc == "two\nlines"
    assert back.outputs[0].index == 1
    assert [v.node.loc for v in back.updates] == [" spaces "]
    assert back.outputs[0].node.attrs["body"].outputs[0].node.loc == "in; here"


def test_a_value_used_twice_stays_one_node():
    c = const_value(np.float32([1, 2]))
    back = parse(to_text(Graph("g", (), node("add", c, c).outputs)))
    a, b = back.outputs[0].node.inputs
    assert a.node is b.node


def test_types_may_be_left_out_by_hand():
    graph = parse("""
        ; a comment
        graph g(%x: f32[n,3]) -> (%y) {
          %h = add(%x, const<f32[] 1>)
          ; another
          %y = relu(%h)  ; python:1
        }""")
    assert graph.outputs[0].type == f32_type(symbol("n"), 3)
    assert graph.outputs[0].node.loc == "python:1"


def test_the_digest_ignores_names_and_locs_and_nothing_else():
    base = "graph g(%x: f32[2]) -> (%1) {\n %1 = add(%x, const<f32[] 1.0>) : f32[2] ; here\n}"
    same = """graph h(%z: f32[2] @ "here") -> (out: %q) {
        %k = const(value=const<f32[] 1.0>) : f32[] ; w
        %q = add(%z, %k) : f32[2]
    }"""
    assert digest(parse(base)) == digest(parse(same))
    for old, new in (("add", "sub"), ("1.0", "1.5"), ("f32", "f64"), ("[2]", "[3]"), ("%x, const<f32[] 1.0>", "%x, %x")):
        assert digest(parse(base.replace(old, new))) != digest(parse(base))


def test_the_excerpt_marks_the_node():
    graph = parse("graph g(%x: f32[2]) -> (%2) {\n %1 = relu(%x) : f32[2]\n %2 = neg(%1) : f32[2]\n}")
    assert excerpt(graph, graph.outputs[0].node, around=1) == "    %1 = relu(%x) : f32[2]\n>   %2 = neg(%1) : f32[2]\n  }"


def test_a_chain_of_100_000_nodes_goes_there_and_back():
    v = x = input_value("x", f32_type(2))
    t = (f32_type(2),)
    for _ in range(100_000):
        v = Node("relu", (v,), {}, t).outputs[0]
    text = to_text(Graph("g", (x,), (v,)))
    assert to_text(parse(text)) == text


ONE = "graph g(%x: f32[2]) -> (%1) {\n  "

MALFORMED = {
    "": "line 1, column 1: expected 'graph'",
    "graph g(": "line 1, column 9: expected a value such as %3, found the end of the line",
    "graph g(%x f32[2]) -> (%x) {}": "line 1, column 12: expected ':', found 'f32[2]) -> (%x) {}'",
    "graph g(%x: f99[2]) -> (%x) {}": "line 1, column 13: 'f99[2]' is not a tensor type",
    "graph g(%x: f32[2//0]) -> (%x) {}": "line 1, column 13: ",
    "graph g(%x: f32[2], %x: f32[2]) -> (%x) {}": "line 1, column 20: a second input is named 'x'",
    "graph g(%x: f32[2]) -> (%x) {}\nmore": "line 2, column 1: the text goes on",
    "graph g(%x: f32[2]) -> (a: %x, %x) {}": "name every output or none",
    "graph g(%x: f32[2]) -> (a: %x, a: %x) {}": "two outputs are named 'a'",
    "graph g(%x: f32[2]) -> (%y) {}": "line 1, column 25: %y is not defined above",
    "graph g(%x: f32[2]) -> (%x#1) {}": "line 1, column 25: %x has 1 results, there is no #1",
    ONE + "%1 = relu(%2) : f32[2]\n}": "line 2, column 13: %2 is not defined above",
    ONE + "%1 = relu(%x) : f32[2]\n  %1 = relu(%x) : f32[2]\n}": "line 3, column 3: %1 is defined twice",
    ONE + "%1 = relu(a=1, %x) : f32[2]\n}": "line 2, column 18: operands come before attributes",
    ONE + "%1 = relu(%x, a=1, a=2) : f32[2]\n}": "line 2, column 22: the attribute a is given twice",
    ONE + "%1 = relu(%x, a=1 2) : f32[2]\n}": "line 2, column 19: not an attribute value",
    ONE + "%1 = relu(%x, a=[1,) : f32[2]\n}": "line 2, column",
    ONE + "%1 = nothing(%x)\n}": "line 2, column 7: the types are left out and cannot be inferred",
    ONE + '%1 = variable(name="v", init=1)\n}': "line 2, column 7: the types are left out and cannot be inferred",
    ONE + "%1 = f(const<f32[2] [1.0]>) : f32[2]\n}": "line 2, column 10: f32[2] has 2 elements, the text 1",
    ONE + "%1 = f(const<i8[1] [300]>) : f32[2]\n}": "an element is not a i8: 300 is outside -128..127",
    ONE + "%1 = f(const<f32[1] [x]>) : f32[2]\n}": "an element is not a f32",
    ONE + "%1 = f(const<f32[n] [1.0]>) : f32[2]\n}": "has no fixed size",
    ONE + "%1 = f(const<f32[99999999999,99999999999] [1.0]>) : f32[2]\n}": "has 9999999999800000000001 elements",
    ONE + "%1 = f(a=" + "[" * 10_000 + ") : f32[2]\n}": "nested more than 50 deep",
    ONE + "%1 = f(a=" + "(" * 10_000 + ") : f32[2]\n}": "line 2, column",
    ONE + "%1 = f(a=" + "graph g() -> () { %1 = f(a=" * 10_000: "nested more than 50 deep",
    ONE + "%1 = f(a=" + "9" * 10_000 + ") : f32[2]\n}": "line 2, column 12: ",
    ONE + "update %x = %x\n}": "line 2, column 3: only a variable can be updated, not the result of input",
}


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_text_is_refused_with_its_place(text):
    with pytest.raises(ModelError) as e:
        parse(text)
    assert MALFORMED[text] in str(e.value)
