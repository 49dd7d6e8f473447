"""The verifier finds what breaks the rules of the IR, names the node and shows the text around it."""

import numpy as np
import pytest
from octavo.ir.errors import VerifyError
from octavo.ir.graph import Constant, Graph, Node, Value, const_value, input_value, variable_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse
from octavo.ir.types import TensorType, f32, i32
from octavo.ir.verify import verify

PAIR = TensorType(f32, (2,))
X = input_value("x", PAIR)


def graph(node, **more):
    return Graph("g", (X,), node.outputs[:1], **more)


def broken_operand():
    return graph(Node("exp", (Value(apply("neg", X).node, 3),), {}, (PAIR,)))


def cycle():
    a = Node("exp", (X,), {}, (PAIR,))
    b = Node("neg", (Value(a),), {}, (PAIR,))
    object.__setattr__(a, "inputs", (Value(b),))
    return graph(b)


def body_that_is_broken():
    y = input_value("y", PAIR)
    body = Graph("body", (y,), Node("exp", (y,), {}, (PAIR.with_shape((3,)),), "inside").outputs)
    return graph(Node("kernel", (X,), {"body": body}, (PAIR.with_shape((3,)),)))


BROKEN = {
    "an op that does not exist": (
        lambda: graph(Node("nothing", (X,), {}, (PAIR,), "here")),
        "nothing.f32.2.. at here: there is no such op",
    ),
    "a wrong shape": (
        lambda: graph(Node("exp", (X,), {}, (PAIR.with_shape((3,)),))),
        r"has types .f32.3.. where .f32.2.. follow",
    ),
    "a wrong dtype": (
        lambda: graph(Node("exp", (X,), {}, (PAIR.with_dtype(i32),))),
        r"has types .i32.2.. where .f32.2.. follow",
    ),
    "a wrong number of results": (lambda: graph(Node("exp", (X,), {}, (PAIR, PAIR))), "has types"),
    "operands that do not fit": (
        lambda: graph(Node("matmul", (X, X), {}, (PAIR,))),
        "its types cannot be inferred: both operands",
    ),
    "an attribute that does not exist": (lambda: graph(Node("exp", (X,), {"a": 1}, (PAIR,))), "its types cannot be inferred"),
    "an attribute of no plain type": (
        lambda: graph(Node("exp", (X,), {"a": np.float32(1)}, (PAIR,))),
        "the attribute a holds a float32",
    ),
    "an attribute of the wrong kind": (lambda: graph(Node("transpose", (X,), {"perm": 3}, (PAIR,))), "cannot be inferred"),
    "an attribute in a list": (lambda: graph(Node("exp", (X,), {"a": [1]}, (PAIR,))), "the attribute a holds a list"),
    "a negative size": (lambda: graph(Node("exp", (X,), {}, (PAIR.with_shape((-2,)),))), "negative size"),
    "an operand that no node has": (broken_operand, "operand 0 is not a result of any node"),
    "a cycle": (cycle, "the graph has a cycle"),
    "an input that is not listed": (lambda: Graph("g", (), (X,)), "input 'x' is used but not listed"),
    "an input that is none": (lambda: Graph("g", (const_named(),), ()), "is listed as a graph input but is not an input"),
    "two variables of one name": (
        lambda: graph(apply("add", variable_value("v", np.zeros(2, np.float32)), variable_value("v", np.zeros(2, np.float32))).node),
        "a second variable is named 'v'",
    ),
    "an update of another type": (
        lambda: Graph("g", (X,), (X,), updates={variable_value("v", np.zeros(3, np.float32)): X}),
        r"a variable of type f32.3. cannot become f32.2.",
    ),
    "an update of an input": (lambda: Graph("g", (X,), (X,), updates={X: X}), "is updated but is not a variable"),
    "a constant of another type": (
        lambda: graph(Node("const", (), {"value": Constant(np.zeros(2, np.float32))}, (PAIR.with_dtype(i32),))),
        r"has the type i32.2. but holds f32.2.",
    ),
    "a constant without a value": (lambda: graph(Node("const", (), {}, (PAIR,))), "needs the attributes value: Constant"),
    "a leaf with operands": (
        lambda: graph(Node("const", (X,), {"value": Constant(np.zeros(2, np.float32))}, (PAIR,))),
        "a leaf has no operands",
    ),
    "a broken body": (body_that_is_broken, "graph body: exp.f32.2.. at inside: has types"),
}


def const_named():
    return Value(Node("const", (), {"value": Constant(np.zeros(2, np.float32)), "name": "x"}, (PAIR,)))


@pytest.mark.parametrize("name", BROKEN)
def test_it_finds(name):
    make, message = BROKEN[name]
    with pytest.raises(VerifyError, match=message):
        verify(make())


def test_it_shows_the_text_around_the_node():
    bad = Node("exp", (apply("neg", X),), {}, (PAIR.with_shape((3,)),), "onnx:/exp")
    with pytest.raises(VerifyError) as e:
        verify(graph(bad))
    assert "    %1 = neg(%x) : f32[2]\n>   %2 = exp(%1) : f32[3]  ; onnx:/exp" in str(e.value)


def test_sound_graphs_pass_and_their_nodes_are_remembered():
    known = set()
    sound = parse("graph g(%x: f32[n]) -> (%2) {\n%1 = exp(%x)\n%2 = add(%1, const<f32[] 1.0>)\n}")
    verify(sound, known)
    assert known == set(sound.nodes)
    verify(sound, known)


def test_what_is_known_is_not_checked_again():
    bad = Node("exp", (X,), {}, (PAIR.with_shape((3,)),))
    verify(graph(bad), {bad})


def test_a_body_that_is_known_is_checked_once_only():
    sound = apply("neg", X)
    verify(Graph("g", (X,), (sound, const_value(np.zeros(2, np.float32)))), set())
