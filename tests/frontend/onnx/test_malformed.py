"""Malformed and hostile models: a ModelError that names the place, never a traceback, a hang or a deep recursion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from octavo.frontend.onnx import check_model, import_model, importer
from octavo.ir.errors import ModelError, OctavoError, ShapeError, UnsupportedOp
from onnx import TensorProto, helper

from .models import model, run

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])


def wrapped(nodes: list[onnx.NodeProto], initializers: tuple[TensorProto, ...] = (), opset: int = 21) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [X], [Y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def refused(proto: onnx.ModelProto | bytes, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        import_model(proto)


def test_a_truncated_file_is_refused() -> None:
    data = model("(float[n] x) => (float[n] y) { y = Relu(x) }").SerializeToString()
    for length in range(1, len(data), 7):
        try:
            import_model(data[:length])
        except OctavoError:
            continue
    refused(data[: len(data) // 2] + b"\xff\xff\xff", "not an ONNX model")


def test_bytes_that_are_no_model_are_refused() -> None:
    refused(b"", "holds no graph")
    refused(b"\x00\x01PK garbage" * 10, "not an ONNX model")


@pytest.mark.parametrize("name", [b"Relu", b"graph_name", b"value_x"])
def test_names_that_are_not_utf_8_are_refused(name: bytes) -> None:
    node = helper.make_node("Relu", ["value_x"], ["y"])
    graph = helper.make_graph([node], "graph_name", [helper.make_tensor_value_info("value_x", TensorProto.FLOAT, ["n"])], [Y])
    damaged = helper.make_model(graph).SerializeToString().replace(name, name[:-1] + b"\xff")
    refused(damaged, r"damaged: a text in it \((op_type|name|input)\) is not UTF-8")


@pytest.mark.parametrize("version", [-(1 << 63), 0, 1 << 40])
def test_an_opset_version_that_cannot_be_is_refused(version: int) -> None:
    refused(wrapped([helper.make_node("Relu", ["x"], ["y"])], opset=version), f"version {version} of the operator domain 'ai.onnx'")


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot read /nowhere"):
        import_model("/nowhere/m.onnx")


def test_a_cycle_names_a_node_on_it() -> None:
    a = helper.make_node("Add", ["x", "q"], ["p"], name="first")
    b = helper.make_node("Relu", ["p"], ["q"], name="second")
    refused(wrapped([a, b, helper.make_node("Relu", ["q"], ["y"])]), r"cycle through node 'first' \(Add\)")


def test_a_node_that_reads_its_own_output_is_refused() -> None:
    refused(wrapped([helper.make_node("Add", ["x", "y"], ["y"], name="loop")]), "node 'loop' .Add. reads its own output")


def test_nodes_in_the_wrong_order_are_sorted() -> None:
    nodes = [helper.make_node("Neg", ["h"], ["y"]), helper.make_node("Abs", ["x"], ["h"])]
    np.testing.assert_array_equal(run(wrapped(nodes), x=np.float32([-2, 3]))[0], np.float32([-2, -3]))


def test_a_missing_input_names_node_and_value() -> None:
    refused(wrapped([helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")]), "node 'sum' .Add. reads 'ghost'")


def test_an_output_that_nothing_produces_is_refused() -> None:
    refused(wrapped([helper.make_node("Relu", ["x"], ["z"])]), "nothing produces its output 'y'")


def test_a_name_defined_twice_is_refused() -> None:
    twice = [helper.make_node("Relu", ["x"], ["y"], name="a"), helper.make_node("Neg", ["x"], ["y"], name="b")]
    refused(wrapped(twice), "node 'b' .Neg.: the name 'y' is defined twice")


def test_two_outputs_of_one_name_are_refused() -> None:
    proto = wrapped([helper.make_node("Relu", ["x"], ["y"])])
    proto.graph.output.append(Y)
    refused(proto, "two outputs are named 'y'")


def test_no_opset_is_refused() -> None:
    proto = wrapped([helper.make_node("Relu", ["x"], ["y"])])
    del proto.opset_import[:]
    refused(proto, "does not say which opset")


@pytest.mark.parametrize("dims", [[1 << 40, 1 << 40], [1 << 62, 4], [-1], [3]])
def test_a_tensor_that_claims_another_size_than_its_data_is_refused_before_allocation(dims: list[int]) -> None:
    bad = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8)
    refused(wrapped([helper.make_node("Add", ["x", "w"], ["y"])], (bad,)), "initializer 'w'")


def test_an_element_type_that_does_not_exist_is_refused() -> None:
    bad = TensorProto(name="w", data_type=999, dims=[1], raw_data=b"\0")
    refused(wrapped([helper.make_node("Add", ["x", "w"], ["y"])], (bad,)), "element type 999 does not exist")


def test_a_sparse_tensor_is_not_made_dense_without_limit() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    proto = wrapped([helper.make_node("Add", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 50]))
    refused(proto, "too large to make dense")


def test_a_wrong_number_of_inputs_is_refused() -> None:
    refused(wrapped([helper.make_node("Relu", ["x", "x", "x"], ["y"], name="r")]), "node 'r' .Relu.: its 3 inputs")


def test_attributes_of_the_wrong_type_are_refused() -> None:
    refused(
        wrapped([helper.make_node("Softmax", ["x"], ["y"], name="s", axis="last")]),
        "node 's'.*attribute axis must be of type int",
    )


def test_operands_that_do_not_fit_are_a_shape_error_naming_the_node() -> None:
    w = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [0.0] * 6)
    proto = wrapped([helper.make_node("MatMul", ["w", "w"], ["y"], name="mm")], (w,))
    with pytest.raises(ShapeError, match="node 'mm'"):
        import_model(proto)


def test_functions_that_call_themselves_are_refused() -> None:
    body = '<domain: "local", opset_import: ["local" : 1]> F (a) => (b) { b = local.F(a) }'
    proto = model("(float[n] x) => (float[n] y) { y = local.F(x) }", functions=body, domains=', "local" : 1')
    refused(proto, "call each other more than")


def test_functions_that_multiply_are_stopped() -> None:
    bodies = (
        " ".join(
            f'<domain: "local", opset_import: ["local" : 1, "" : 21]> F{k} (a) => (b) {{ c = local.F{k + 1}(a) b = local.F{k + 1}(c) }}'
            for k in range(30)
        )
        + ' <domain: "local", opset_import: ["" : 21]> F30 (a) => (b) { b = Identity(a) }'
    )
    limit, importer.MAX_NODES = importer.MAX_NODES, 20_000
    try:
        refused(
            model("(float[n] x) => (float[n] y) { y = local.F0(x) }", functions=bodies, domains=', "local" : 1'),
            "more than 20,000",
        )
    finally:
        importer.MAX_NODES = limit


def test_sub_graphs_nested_deeply_import() -> None:
    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "b", [], [helper.make_empty_tensor_value_info(node.output[0])])

    node = helper.make_node("Neg", ["x"], ["z0"])
    for k in range(1, 20):
        other = helper.make_node("Abs", ["x"], [f"e{k}"])
        node = helper.make_node("If", ["c"], [f"z{k}"], then_branch=branch(node), else_branch=branch(other))
    node.output[0] = "y"
    proto = wrapped([node], (helper.make_tensor("c", TensorProto.BOOL, [], [True]),))
    np.testing.assert_array_equal(run(proto, x=np.float32([2]))[0], np.float32([-2]))


def test_a_chain_of_100_000_nodes_imports() -> None:
    names = ["x", *(f"v{k}" for k in range(1, 100_000)), "y"]
    proto = wrapped([helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)])
    assert len(import_model(proto).nodes) == 100_001


def test_check_reports_every_unsupported_node_in_one_run() -> None:
    proto = model(
        """(float[n,4] x) => (float[m] y) {
        a = Bogus(x)
        b = Relu(a)
        c = RegexFullMatch(x)
        d = Add(b, c)
        e = AlsoBogus(d)
        y = Neg(x) }"""
    )
    found = check_model(proto)
    assert [u.op for u in found] == ["Bogus", "RegexFullMatch", "AlsoBogus"]
    assert all(u.node and u.reason and u.hint for u in found)
    with pytest.raises(OctavoError, match="3 unsupported nodes"):
        import_model(proto)


def test_check_of_a_model_that_compiles_is_empty() -> None:
    assert check_model(model("(float[n] x) => (float[n] y) { y = Relu(x) }")) == []


def test_a_name_that_is_no_identifier_is_kept_as_an_interface_name() -> None:
    x = helper.make_tensor_value_info('a"b/../c\n', TensorProto.FLOAT, ["batch size", "n*2"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    proto = helper.make_model(
        helper.make_graph([helper.make_node("Relu", [x.name], ["y"])], "g", [x], [y]),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    graph = import_model(proto)
    assert graph.input_names == ('a"b/../c\n',)
    assert graph.symbols == ("batch_size", "n_2")


def test_a_loop_without_end_is_left_to_the_run() -> None:
    graph = """(float[n] x) => (float[n] y) {
        often = Constant<value = int64 {1000000000000000}>()
        true = Constant<value = bool {1}>()
        one = Constant<value_float = 1.0>()
        two = Loop <body = b (int64 i, bool go, float v) => (bool on, float w) { on = Identity(go) w = Add(v, v) }> (often, true, one)
        first = Constant<value = int64[1] {0}>()
        size = Cast<to = 7>(two)
        shape = Unsqueeze(size, first)
        y = Expand(x, shape)
    }"""
    with pytest.raises(UnsupportedOp, match="depends on sizes known only at run time"):
        import_model(model(graph))


def test_a_negative_size_is_a_shape_error() -> None:
    graph = "(float[3] x) => (float[q] y) { s = Constant<value_ints = [-7, 3]>() y = Expand(x, s) }"
    with pytest.raises(ShapeError, match="would have a negative size"):
        import_model(model(graph))
