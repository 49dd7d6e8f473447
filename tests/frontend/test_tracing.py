"""Tracing: signatures, names of inputs and outputs, source locations, and what a function must not do."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from octavo.frontend.tracing import spec, trace
from octavo.ir import ops
from octavo.ir.dims import symbol
from octavo.ir.errors import ModelError, ShapeError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value
from octavo.ir.types import TensorType, f32, i64

VECTOR = spec("f32", ("n", 4))


def test_spec_reads_strings_as_symbolic_sizes():
    assert spec("f32", ("batch", 784)) == TensorType(f32, (symbol("batch"), 784))
    assert spec(np.int64, ["2*n+1", np.int32(3)]) == TensorType(i64, (2 * symbol("n") + 1, 3))
    assert spec("f32") == TensorType(f32, ())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("batch", r"write \('batch',\)"),
        ((-1, 3), "size -1 is negative; name a size that varies"),
        ((None, 3), "None is not a size"),
        ((2.0,), "2.0 is not a size"),
        ((True,), "True is not a size"),
        (("two words",), "is not a dimension"),
    ],
)
def test_a_bad_shape_is_explained(shape: object, message: str):
    with pytest.raises(ModelError, match=message):
        spec("f32", shape)  # type: ignore[arg-type]


def test_an_unknown_dtype_lists_the_known():
    with pytest.raises(ModelError, match=r"no dtype 'float33'; known: .*f32"):
        spec("float33", (1,))


def test_inputs_are_named_by_parameters_and_outputs_by_the_result():
    def single(x: Value, y: Value) -> Value:
        return ops.add(x, y)

    graph = trace(single, VECTOR, y=VECTOR)
    assert (graph.name, graph.input_names, graph.output_names) == ("single", ("x", "y"), ("output",))

    graph = trace(lambda x: (ops.neg(x), ops.abs(x)), VECTOR)
    assert (graph.name, graph.output_names) == ("graph", ("output", "output1"))

    graph = trace(lambda x: {"negated": ops.neg(x), "same": x}, VECTOR)
    assert graph.output_names == ("negated", "same")


def test_variadic_parameters_get_names_too():
    def total(*xs: Value, **named: Value) -> Value:
        y = xs[0]
        for x in (*xs[1:], *named.values()):
            y = ops.add(y, x)
        return y

    assert trace(total, VECTOR, VECTOR, last=VECTOR).input_names == ("xs0", "xs1", "last")


def test_defaults_and_partial_arguments_are_not_inputs():
    def scaled(x: Value, factor: float = 2.0, *, times: int) -> Value:
        for _ in range(times):
            x = x * factor
        return x

    graph = trace(partial(scaled, times=3), VECTOR)
    assert graph.input_names == ("x",)
    np.testing.assert_array_equal(evaluate(graph, {"x": np.ones((2, 4), np.float32)})[0], np.full((2, 4), 8, np.float32))


def test_arrays_and_numbers_become_constants():
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)

    def affine(x: Value) -> tuple[Value, np.ndarray]:
        return 2 * (x @ weight) + np.ones(2, np.float32), weight

    x = np.ones((3, 4), np.float32)
    y, w = evaluate(trace(affine, VECTOR), {"x": x})
    np.testing.assert_array_equal(y, 2 * (x @ weight) + 1)
    np.testing.assert_array_equal(w, weight)


def test_an_array_on_the_left_is_a_constant_too():
    ones = np.ones(4, np.float32)
    (y,) = evaluate(trace(lambda x: ones - x, VECTOR), {"x": np.full((1, 4), 3, np.float32)})
    np.testing.assert_array_equal(y, np.full((1, 4), -2, np.float32))


def test_a_node_remembers_the_line_that_made_it():
    def relu(x: Value) -> Value:
        return ops.relu(x)

    def double(x: Value) -> Value:
        return x + x

    first = relu.__code__.co_firstlineno
    assert _loc(trace(relu, VECTOR)) == f"frontend/test_tracing.py:{first + 1}"
    assert _loc(trace(double, VECTOR)) == f"frontend/test_tracing.py:{first + 4}"


def _loc(graph: Graph) -> str:
    return graph.outputs[0].node.loc


def test_an_error_names_the_line_of_the_user():
    def bad(x: Value) -> Value:
        return ops.add(x, np.ones(3, np.float32))

    line = bad.__code__.co_firstlineno + 1
    with pytest.raises(ShapeError, match=rf"(?s)add.*test_tracing.py:{line}"):
        trace(bad, VECTOR)


def test_a_branch_on_a_value_is_an_error_that_says_what_to_write():
    def branch(x: Value) -> Value:
        if ops.gt(x, x):
            return x
        return ops.neg(x)

    with pytest.raises(ModelError, match=r"has no truth value.*octavo\.ops\.where"):
        trace(branch, VECTOR)


def test_numpy_functions_on_values_are_an_error():
    with pytest.raises(ModelError, match=r"octavo\.ops"):
        trace(lambda x: np.asarray(x), VECTOR)
    with pytest.raises(TypeError):
        trace(lambda x: np.exp(x), VECTOR)


def test_iterating_over_a_value_is_an_error():
    with pytest.raises(ModelError, match="cannot be iterated"):
        trace(lambda x: list(x), VECTOR)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "the result is NoneType; .*forget to return"),
        (3, "the result is int; return a value"),
        ((), "returns no values"),
        ([None], "result 0 is NoneType"),
        ({"y": "x"}, "result 'y' is str"),
    ],
)
def test_a_result_that_is_not_a_value_is_an_error(result: object, message: str):
    with pytest.raises(ModelError, match=message):
        trace(lambda x: result, VECTOR)


def test_specs_must_fit_the_parameters():
    def f(x: Value) -> Value:
        return x

    with pytest.raises(ModelError, match="f: the specs do not fit the function's parameters: missing a"):
        trace(f)
    with pytest.raises(ModelError, match=r"argument 'x' is ndarray, not a spec; write octavo\.spec"):
        trace(f, np.zeros(3))  # type: ignore[arg-type]


def test_a_value_of_another_trace_is_an_error():
    leaked: list[Value] = []
    trace(lambda x: (leaked.append(x), ops.neg(x))[1], VECTOR)
    with pytest.raises(ModelError, match="uses the input 'x' of another trace"):
        trace(lambda y: ops.add(y, leaked[0]), VECTOR)
