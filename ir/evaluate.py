"""The reference evaluator: a graph over NumPy arrays, op by op, by the meaning that each op's definition states.

It is what compiled code is tested against and what constant folding runs.  It is not fast, and does no I/O.

>>> x = input_value("x", parse_type("f32[n]"))
>>> evaluate(Graph("g", (x,), (apply("relu", x),)), {"x": np.array([-1, 2], np.float32)})
[array([0., 2.], dtype=float32)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import ops as _ops  # noqa: F401  registers every op
from .dims import Dim, DimExpr, evaluate_dim, substitute, symbol, symbols_of
from .errors import ModelError, ShapeError
from .graph import Graph, Node, Value
from .ops.registry import OpDef, expand, op_def
from .order import run_order
from .scalar import NUMPY, compute_dtype
from .types import TensorType, dtype_of


def evaluate(graph: Graph, feeds: Mapping[str, np.ndarray], env: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """The outputs of a graph for arrays by input name; a variable reads `feeds` if named there, else its initial value.

    `env` gives values to symbols that no input shape binds.  Raises ShapeError for feeds that do not fit.
    """
    return list(evaluate_roots(graph, graph.outputs, feeds, env))


def evaluate_roots(
    graph: Graph, roots: Sequence[Value], feeds: Mapping[str, np.ndarray], env: Mapping[str, int] | None = None
) -> tuple[np.ndarray, ...]:
    """The values of any of a graph's values: its outputs, the next values of variables, or something on the way."""
    unknown = set(feeds) - set(graph.input_names) - {v.attrs["name"] for v in graph.variables}
    if unknown:
        raise ShapeError(f"graph {graph.name} has no input {min(unknown)!r}; it has {', '.join(graph.input_names)}")
    sizes = bind_sizes(graph, feeds, env or {})
    nodes = run_order(roots)
    uses: dict[Node, int] = {}
    for node in nodes:
        for v in node.inputs:
            uses[v.node] = uses.get(v.node, 0) + 1
    kept = {v.node for v in roots}
    done: dict[Node, tuple[np.ndarray, ...]] = {}
    for node in nodes:
        if node.op == "input" or (node.op == "variable" and node.attrs["name"] in feeds):
            done[node] = (np.asarray(feeds[node.attrs["name"]]),)
        else:
            done[node] = evaluate_node(node, [done[v.node][v.index] for v in node.inputs], sizes)
        for v in node.inputs:  # big graphs: drop what nothing reads any more
            uses[v.node] -= 1
            if not uses[v.node] and v.node not in kept:
                done.pop(v.node, None)
    return tuple(done[v.node][v.index] for v in roots)


def bind_sizes(graph: Graph, feeds: Mapping[str, np.ndarray], env: Mapping[str, int]) -> dict[str, int]:
    """The values of the symbols that input shapes define, on top of `env`.

    Raises ShapeError for a missing input, a wrong dtype, rank or size.
    """
    sizes = dict(env)
    checks: list[tuple[str, TensorType, int, int]] = []
    for name, value in zip(graph.input_names, graph.inputs, strict=True):
        if name not in feeds:
            raise ShapeError(f"graph {graph.name}: the input {name!r} ({value.type}) is missing")
        array = np.asarray(feeds[name])
        if dtype_of(array.dtype) is not value.dtype or array.ndim != value.type.rank:
            given = f"{dtype_of(array.dtype)}{list(array.shape)}"
            raise ShapeError(f"graph {graph.name}: the input {name!r} is {value.type}, got {given}")
        for axis, (d, n) in enumerate(zip(value.shape, array.shape, strict=True)):
            if not _solve(d, n, sizes):
                checks.append((name, value.type, axis, n))
    for name, type, axis, n in checks:
        if evaluate_dim(type.shape[axis], sizes) != n:
            raise ShapeError(f"graph {graph.name}: axis {axis} of the input {name!r} is {n}, which does not fit {type}")
    return sizes


def _solve(d: Dim, n: int, sizes: dict[str, int]) -> bool:
    """Define the symbol s of a dim a*s+b that is to equal n; False where the dim can only be checked."""
    d = substitute(d, sizes)
    names = symbols_of(d)
    if len(names) != 1 or not isinstance(d, DimExpr):
        return False
    (name,) = names
    offset = substitute(d, {name: 0})
    slope = substitute(d, {name: 1}) - offset
    if not isinstance(offset, int) or not isinstance(slope, int) or slope * symbol(name) + offset != d:
        return False
    sizes[name] = (n - offset) // slope
    return slope * sizes[name] + offset == n


def evaluate_node(node: Node, arrays: Sequence[np.ndarray], env: dict[str, int]) -> tuple[np.ndarray, ...]:
    """The results of one node.  `env` gives sizes of symbols; `bind_size` adds its own to it.

    Raises ShapeError naming the node where a result is not of its declared type.
    """
    match node.op:
        case "const":
            return (node.attrs["value"].array,)
        case "variable":
            return (node.attrs["init"].array,)
    definition = op_def(node.op)
    attrs = {name: concrete(value, env) for name, value in node.attrs.items()}
    with np.errstate(all="ignore"):
        if definition.kind in ("control", "kernel"):
            results = definition.reference(evaluate, env, *arrays, **attrs) if definition.reference else _kernel(node, arrays, env)
        else:
            results = run_op(definition, arrays, attrs)
    for array, type in zip(results, node.types, strict=True):
        expected = tuple(substitute(d, env) for d in type.shape)
        fits = all(isinstance(d, DimExpr) or d == n for d, n in zip(expected, array.shape, strict=False))
        if array.dtype != type.dtype.np or array.ndim != type.rank or not fits:
            raise ShapeError(f"{node!r} computed {dtype_of(array.dtype)}{list(array.shape)}, which is not its type {type}")
    return results


def run_op(definition: OpDef, arrays: Sequence[np.ndarray], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The results of an op for arrays and attributes without symbols, by its reference or by its own meaning."""
    if definition.reference is not None:
        results = definition.reference(*arrays, **attrs)
        return tuple(map(np.asarray, results)) if isinstance(results, tuple) else (np.asarray(results),)
    return run_meaning(definition, arrays, attrs)


def run_meaning(definition: OpDef, arrays: Sequence[np.ndarray], attrs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """The results of an op by what its definition says, leaving aside a reference that it may also have."""
    types = tuple(TensorType(dtype_of(a.dtype), a.shape) for a in arrays)
    if definition.kind == "composite":
        graph = expand(definition.name, types, attrs)
        return tuple(evaluate(graph, dict(zip(graph.input_names, arrays, strict=True))))
    if definition.fn is None:
        raise ModelError(f"the op {definition.name} has no reference to evaluate it by")
    results = definition.infer(types, **attrs)
    shape = tuple(int(d) for d in results[0].shape)  # type: ignore[arg-type]
    if definition.kind == "pointwise":
        scalars = [np.asarray(a).astype(compute_dtype(t.dtype).np, copy=False) for a, t in zip(arrays, types, strict=True)]
        value = definition.fn(NUMPY, *scalars, **attrs)
    else:
        grid = tuple(np.ogrid[tuple(slice(n) for n in shape)])
        value = definition.fn(NUMPY, grid, *map(ArrayReader, arrays), types=types, out=results[0], **attrs)
    value = NUMPY.cast(value, results[0].dtype)
    return (np.ascontiguousarray(np.broadcast_to(value, shape)).reshape(shape),)


def _kernel(node: Node, arrays: Sequence[np.ndarray], env: Mapping[str, int]) -> tuple[np.ndarray, ...]:
    body: Graph = node.attrs["body"]
    return tuple(evaluate(body, dict(zip(body.input_names, arrays, strict=True)), env))


class ArrayReader:
    """An operand of an index op over NumPy index grids.  Raises IndexError where a read lies outside."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.shape: tuple[int, ...] = array.shape

    def __getitem__(self, at: tuple[Any, ...]) -> np.ndarray:
        grids = np.broadcast_arrays(*at) if at else ()
        for axis, (k, n) in enumerate(zip(grids, self.shape, strict=True)):
            if k.size and (k.min() < 0 or k.max() >= n):
                raise IndexError(f"a read at {k.min()}..{k.max()} lies outside axis {axis} of size {n}")
        return self.array[tuple(grids)]

    def at(self, at: tuple[Any, ...], where: Any, other: Any = 0) -> np.ndarray:
        """The elements where `where` holds, `other` elsewhere, which is not read."""
        *grids, mask = np.broadcast_arrays(*at, where)
        result = np.full(mask.shape, other, self.array.dtype)
        result[mask] = self[tuple(k[mask] for k in grids)]
        return result


def concrete(value: Any, env: Mapping[str, int]) -> Any:
    """An attribute with the symbols in its dims replaced by their sizes.  Raises ModelError for unknown ones."""
    match value:
        case DimExpr():
            return evaluate_dim(value, env)
        case tuple():
            return tuple(concrete(v, env) for v in value)
        case _:
            return value
