"""Graphs from Python functions: call the function once with symbolic values and keep what it computes.

The function uses operators and `octavo.ops`; its argument names become the graph's input names.  Python runs at trace time
only: loops unroll, NumPy arrays and numbers become constants, and a branch on a *value* is an error, because a value has no
contents yet.

>>> def mlp(x):
...     return ops.relu(x @ w + b)
>>> trace(mlp, spec("f32", ("batch", 784)))
<graph mlp(x: f32[batch,784]), 6 nodes>
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..ir.dims import Dim, DimExpr, parse_dim
from ..ir.errors import ModelError
from ..ir.graph import Graph, Value, const_value, input_value
from ..ir.location import short
from ..ir.types import TensorType, dtype_of


def spec(dtype: object, shape: Iterable[str | Dim] = ()) -> TensorType:
    """The type of an input; a string in the shape is a symbolic size: `spec("f32", ("batch", 784))`.

    Raises ModelError for an unknown dtype, a negative size or a size that does not parse.
    """
    if isinstance(shape, str | int | DimExpr):
        raise ModelError(f"the shape of a spec is a tuple of sizes; write ({shape!r},) instead of {shape!r}")
    return TensorType(dtype_of(dtype), tuple(_size(d) for d in shape))


def _size(d: str | Dim) -> Dim:
    if isinstance(d, str):
        d = parse_dim(d)
    if isinstance(d, DimExpr):
        return d
    if isinstance(d, bool) or not hasattr(d, "__index__"):
        raise ModelError(f"{d!r} is not a size; write an integer, or a name in quotes for a size that varies")
    if int(d) < 0:
        raise ModelError(f"the size {d} is negative; name a size that varies, for example 'batch'")
    return int(d)


def trace(fn: Callable[..., Any], *specs: TensorType, **named: TensorType) -> Graph:
    """The graph that `fn` builds when called with one value for each spec.

    Inputs take the names of the parameters.  Outputs are named by the keys of a dict, or `output`, `output1`, ... where the
    result is a value, a tuple or a list.  Parameters with a default may be left out.  Raises ModelError when the specs do not
    fit the parameters, when `fn` returns something else than values, or branches on a value.
    """
    name = _graph_name(fn)
    try:
        bound = inspect.signature(fn).bind(*specs, **named)
    except TypeError as e:
        raise ModelError(f"{name}: the specs do not fit the function's parameters: {e}") from None
    inputs: list[Value] = []
    for parameter, type_ in _arguments(bound):
        if not isinstance(type_, TensorType):
            raise ModelError(
                f"{name}: argument {parameter!r} is {type(type_).__name__}, not a spec; write octavo.spec(dtype, shape), "
                "and fix arguments that are not tensors with functools.partial"
            )
        inputs.append(input_value(parameter, type_, _location(fn)))
    values = iter(inputs)
    args = [next(values) for _ in bound.args]
    result = fn(*args, **{key: next(values) for key in bound.kwargs})
    outputs = _outputs(name, result)
    graph = Graph(name, tuple(inputs), tuple(outputs.values()), tuple(outputs))
    _check_inputs(graph)
    return graph


def _graph_name(fn: Callable[..., Any]) -> str:
    inner = getattr(fn, "func", fn)  # functools.partial
    found = getattr(inner, "__name__", type(inner).__name__)
    return re.sub(r"\W", "_", found) if found != "<lambda>" else "graph"


def _location(fn: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(getattr(fn, "func", fn)), "__code__", None)
    return f"{short(code.co_filename)}:{code.co_firstlineno}" if code else ""


def _arguments(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """(input name, spec) in the order of `bound.args` and then `bound.kwargs`; `*xs` gives xs0, xs1, ..."""
    kinds = bound.signature.parameters
    for parameter, value in bound.arguments.items():
        if kinds[parameter].kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{parameter}{k}", v) for k, v in enumerate(value))
        elif kinds[parameter].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield parameter, value


def _outputs(name: str, result: Any) -> dict[str, Value]:
    if isinstance(result, Mapping):
        found = {str(key): _output(f"{name}: result {key!r}", v) for key, v in result.items()}
    elif isinstance(result, tuple | list):
        found = {f"output{k}" if k else "output": _output(f"{name}: result {k}", v) for k, v in enumerate(result)}
    else:
        found = {"output": _output(f"{name}: the result", result)}
    if not found:
        raise ModelError(f"{name} returns no values; return a value, a tuple or a dict of values")
    return found


def _output(what: str, result: Any) -> Value:
    if isinstance(result, Value):
        return result
    if isinstance(result, np.ndarray | np.generic):
        return const_value(np.asarray(result))
    hint = "; did the function forget to return?" if result is None else ""
    raise ModelError(f"{what} is {type(result).__name__}; return a value, a tuple or a dict of values{hint}")


def _check_inputs(graph: Graph) -> None:
    own = {v.node for v in graph.inputs}
    for node in graph.nodes:
        if node.op == "input" and node not in own:
            raise ModelError(
                f"{graph.name} uses the input {node.attrs['name']!r} of another trace; pass it as an argument with a spec of its own"
            )
