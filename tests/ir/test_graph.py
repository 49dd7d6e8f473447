"""Graphs: what is reached is in them, order is deterministic, rewriting keeps what nothing changed."""

import numpy as np
import pytest
from octavo.ir.errors import ModelError
from octavo.ir.graph import Constant, Graph, Node, Value, const_value, inline, input_value, rewrite, topological, variable_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import TensorType, f32

PAIR = TensorType(f32, (2,))


def build():
    x, unused = input_value("x", PAIR), input_value("unused", PAIR)
    a = apply("exp", x, loc="a")
    b = apply("neg", a, loc="b")
    return Graph("g", (x, unused), (apply("add", a, b, loc="c"),), ("sum",))


def test_nodes_are_what_the_outputs_reach_and_the_inputs():
    graph = build()
    assert [n.attrs.get("name", n.op) for n in graph.nodes] == ["x", "unused", "exp", "neg", "add"]


def test_users_count_a_reader_once_for_each_operand():
    x = input_value("x", PAIR)
    y = apply("mul", x, x)
    graph = Graph("g", (x,), (y,))
    assert graph.users[x.node] == (y.node, y.node)
    assert graph.users[y.node] == ()


def test_a_rewrite_that_changes_nothing_returns_the_same_graph():
    graph = build()
    assert rewrite(graph, lambda node, inputs: None) is graph
    assert rewrite(graph, lambda node, inputs: node.outputs) is graph


def test_a_rewrite_rebuilds_users_and_keeps_the_rest():
    graph = build()
    result = rewrite(graph, lambda n, inputs: apply("abs", *inputs, loc=n.loc) if n.op == "neg" else None)
    assert [n.op for n in result.nodes] == ["input", "input", "exp", "abs", "add"]
    assert [n.loc for n in result.nodes] == ["", "", "a", "b", "c"]
    assert result.nodes[2] is graph.nodes[2]
    assert result.output_names == ("sum",)


def test_dead_nodes_vanish():
    graph = build()
    assert len(rewrite(graph, lambda n, inputs: inputs[0] if n.op == "add" else None).nodes) == 3


def test_a_rewrite_names_the_node_that_its_rule_failed_at():
    def rule(node, inputs):
        if node.op == "neg":
            raise ValueError("no")

    with pytest.raises(ValueError, match="no") as e:
        rewrite(build(), rule)
    assert e.value.node.loc == "b"  # type: ignore[attr-defined]


def test_inlining_computes_the_outputs_from_other_values():
    z = input_value("z", PAIR)
    (result,) = inline(build(), (apply("relu", z), z))
    assert [n.op for n in topological([result])] == ["input", "relu", "exp", "neg", "add"]


def test_variables_and_their_next_values_belong_to_the_graph():
    x, state = input_value("x", PAIR), variable_value("state", np.zeros(2, np.float32))
    graph = Graph("g", (x,), (x,), updates={state: apply("add", x, state)})
    assert [n.op for n in graph.nodes] == ["input", "variable", "add"]
    result = rewrite(graph, lambda n, inputs: apply("sub", *inputs) if n.op == "add" else None)
    assert [n.op for n in result.nodes] == ["input", "variable", "sub"]
    assert result.updates[state].node.op == "sub"


def test_a_cycle_is_refused():
    x = input_value("x", PAIR)
    a = Node("exp", (x,), {}, (PAIR,))
    b = Node("neg", (Value(a),), {}, (PAIR,))
    object.__setattr__(a, "inputs", (Value(b),))
    with pytest.raises(ModelError, match="the graph has a cycle through <"):
        topological(b.outputs)


def test_repeated_names_are_refused():
    x = input_value("x", PAIR)
    with pytest.raises(ModelError, match="two inputs are named 'x'"):
        Graph("g", (x, input_value("x", PAIR)), (x,))
    with pytest.raises(ModelError, match="two outputs are named 'y'"):
        Graph("g", (x,), (x, x), ("y", "y"))
    with pytest.raises(ModelError, match="2 outputs but 1 output names"):
        Graph("g", (x,), (x, x), ("y",))


def test_constants_are_equal_by_contents_and_type():
    a = np.float32([1, 2])
    assert Constant(a) == Constant(a.copy())
    assert Constant(a) != Constant(a.astype(np.float64))
    assert Constant(a) != Constant(a.reshape(1, 2))
    assert Constant(np.float32([0.0])) != Constant(np.float32([-0.0]))
    assert hash(Constant(a)) == hash(Constant(a.copy()))


def test_a_constant_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        const_value(np.zeros(2)).array[0] = 1


def test_a_very_long_chain_needs_no_recursion():
    v = x = input_value("x", PAIR)
    for _ in range(100_000):
        v = Node("neg", (v,), {}, (PAIR,)).outputs[0]
    graph = Graph("g", (x,), (v,))
    assert len(graph.nodes) == 100_001
    assert rewrite(graph, lambda node, inputs: None) is graph
