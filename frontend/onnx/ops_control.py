"""Control flow: If, Loop and Scan, captures made explicit; sequences and optionals, which exist only at import.

* An If whose condition is known becomes the branch taken.
* A Loop that runs a known number of times becomes `scan`; if its state changes shape, or holds sequences, it is unrolled.
* Any other Loop becomes `loop`, which has no stacked results: their number would depend on run-time data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError, ShapeError, UnsupportedOp
from ...ir.graph import Graph, Value, input_value
from ...ir.types import TensorType, bool_, i64
from .registry import Operand, Optional_, Sequence_, Site, Tensor, onnx_op

MAX_UNROLL = 256  # iterations of a loop that can only be unrolled


def sub_graph(n: Site, name: str) -> Any:
    graph = n.attr(name)
    if graph is None or not hasattr(graph, "node"):
        raise ModelError(f"attribute {name} must be a graph")
    return graph


# If


@onnx_op("If")
def if_(n: Site, condition: Tensor) -> tuple[Any, ...]:
    chosen = n.constant(condition)
    if chosen is not None:
        branch = sub_graph(n, "then_branch" if bool(chosen.reshape(-1)[0]) else "else_branch")
        return tuple(n.scope.body(branch, (), inlined=True)[1])
    n.origin(condition)
    (then, yes), (other, no) = (n.scope.body(sub_graph(n, b), ()) for b in ("then_branch", "else_branch"))
    if [t.type for t in yes] != [t.type for t in no]:
        pairs = ", ".join(f"{a.type} and {b.type}" for a, b in zip(yes, no, strict=False) if a.type != b.type)
        raise UnsupportedOp(f"its branches give results of different types: {pairs}")
    captures = then.captures | other.captures
    graphs = []
    for scope, results, name in ((then, yes, "then"), (other, no, "otherwise")):
        inputs = [
            scope.captures[c][1] if c in scope.captures else input_value(f"unused_{k}_{c}", outer.type)
            for k, (c, (outer, _)) in enumerate(captures.items())
        ]
        graphs.append(Graph(name, tuple(inputs), tuple(t.value for t in results)))
    operands = [outer for outer, _ in captures.values()]
    return n.apply_all("if_", n.reshape(condition, ()), *operands, then=graphs[0], otherwise=graphs[1])


# Loop


def trip_count(n: Site, trip: Operand) -> Dim | None:
    """The number of iterations where it is known as a size."""
    if trip is None:
        return None
    if trip.contents is not None:
        (count,) = trip.contents.flat
        return count
    array = n.constant(trip)
    return None if array is None else int(array.reshape(-1)[0])


def always_true(n: Site, condition: Any) -> bool:
    array = n.constant(condition) if isinstance(condition, Tensor) else None
    return array is not None and bool(array.reshape(-1)[0])


@onnx_op("Loop")
def loop(n: Site, trip: Operand = None, condition: Operand = None, *initial: Any) -> tuple[Any, ...]:
    body, states = sub_graph(n, "body"), len(initial)
    count = trip_count(n, trip)
    running = Tensor(n.const(True, bool_))
    first = n.constant(condition) if condition is not None else np.array(True)
    if first is not None and not bool(first.reshape(-1)[0]):
        count = 0
    tensors = all(isinstance(s, Tensor) for s in initial)
    if count is not None and tensors and first is not None and count != 0:
        scanned = _loop_as_scan(n, body, count, running, initial)
        if scanned is not None:
            return scanned
    if isinstance(count, int) and first is not None:
        return _unrolled(n, body, count, running, list(initial))
    if not tensors:
        for v in (trip, condition):
            if v is not None and n.constant(v) is None:
                n.origin(v)
        raise UnsupportedOp("a loop over sequences is supported only where the number of iterations is known")
    return _loop_at_run_time(n, body, trip, condition, initial, states)


def _body_inputs(states: Sequence[Tensor]) -> list[Value]:
    return [input_value(f"state_{k}", s.type) for k, s in enumerate(states)]


def _loop_as_scan(n: Site, body: Any, count: Dim, running: Tensor, initial: Sequence[Tensor]) -> tuple[Value, ...] | None:
    """The loop as a scan; None if its body may stop early or changes the type of its state."""
    step = input_value("step", TensorType(i64, ()))
    states = _body_inputs(initial)
    if isinstance(count, int) and count <= MAX_UNROLL:
        tried = n.scope.attempt(body, (step, running, *states))
        if tried is None:
            return None
        scope, outputs = tried
    else:
        scope, outputs = n.scope.body(body, (step, running, *states))
    if not outputs or not always_true(n, outputs[0]):
        return None
    nexts, stacked = outputs[1 : 1 + len(states)], outputs[1 + len(states) :]
    if [t.type for t in nexts] != [s.type for s in states]:
        return None
    return run_scan(n, scope.captures, step, states, nexts, (), stacked, [s.value for s in initial], (), count, ())


def run_scan(
    n: Site,
    captures: dict[str, tuple[Tensor, Value]],
    step: Value,
    states: Sequence[Value],
    nexts: Sequence[Tensor],
    slices: Sequence[Value],
    stacked: Sequence[Tensor],
    initial: Sequence[Value],
    sequences: Sequence[Value],
    length: Dim,
    reverse: Sequence[bool],
) -> tuple[Value, ...]:
    """A `scan` node; `reverse` says for each sequence and then for each stacked result whether it runs from its end."""
    inner = [value for _, value in captures.values()]
    graph = Graph("body", (step, *states, *slices, *inner), (*(t.value for t in nexts), *(t.value for t in stacked)))
    return n.apply_all(
        "scan", *initial, *sequences, *(outer for outer, _ in captures.values()),
        body=graph, states=len(states), length=length, reverse=tuple(reverse), captures=len(inner),
    )  # fmt: skip


def _unrolled(n: Site, body: Any, count: int, running: Tensor, states: list[Any]) -> tuple[Any, ...]:
    if count > MAX_UNROLL:
        raise UnsupportedOp(f"its state changes shape over {count} iterations, and more than {MAX_UNROLL} are not unrolled")
    stacked: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(states))]
    for k in range(count):
        step = Tensor(n.const(k, i64))
        _, outputs = n.scope.body(body, (step, running, *states), inlined=True)
        states = list(outputs[1 : 1 + len(states)])
        for collected, item in zip(stacked, outputs[1 + len(states) :], strict=True):
            collected.append(n.reshape(item, (1, *item.shape)))
        proceed = n.constant(outputs[0])
        if proceed is None:
            raise UnsupportedOp("whether it goes on depends on run-time data, and its state changes shape")
        if not bool(proceed.reshape(-1)[0]):
            break
    if not all(stacked):
        raise UnsupportedOp("it runs no iteration, so the shape of its stacked results is not known")
    return (*states, *(n.concat(parts, 0) for parts in stacked))


def _loop_at_run_time(
    n: Site, body: Any, trip: Operand, condition: Operand, initial: Sequence[Tensor], states: int
) -> tuple[Value, ...]:
    if len(body.output) > 1 + states:
        origins = " and ".join(n.origin(v) for v in (trip, condition) if v is not None and n.constant(v) is None)
        raise UnsupportedOp(f"how many results it stacks depends on {origins or 'what its body computes'}")
    step, going = input_value("step", TensorType(i64, ())), input_value("going", TensorType(bool_, ()))
    inner = _body_inputs(initial)
    scope, outputs = n.scope.body(body, (step, going, *inner))
    if [t.type for t in outputs[1:]] != [s.type for s in inner]:
        raise UnsupportedOp("its state changes type or shape between iterations")
    carried = [value for _, value in scope.captures.values()]
    graph = Graph("body", (step, going, *inner, *carried), (n.reshape(outputs[0], ()), *(t.value for t in outputs[1:])))
    limit = n.reshape(n.cast(trip, i64), ()) if trip is not None else n.const(np.iinfo(np.int64).max, i64)
    start = n.reshape(condition, ()) if condition is not None else n.const(True, bool_)
    outers = [outer for outer, _ in scope.captures.values()]
    return n.apply_all("loop", limit, start, *initial, *outers, body=graph)[:states]


# Scan


@onnx_op("Scan", since=9)
def scan(n: Site, *operands: Tensor) -> tuple[Value, ...]:
    body, count = sub_graph(n, "body"), n.integer("num_scan_inputs")
    initial, sequences = operands[: len(operands) - count], operands[len(operands) - count :]
    if not sequences:
        raise ModelError("num_scan_inputs must be at least 1")
    axes = n.integers("scan_input_axes") or (0,) * count
    fronted = [_to_front(n, s, a) for s, a in zip(sequences, axes, strict=True)]
    length = next((v.shape[0] for v in fronted if isinstance(v.shape[0], int)), fronted[0].shape[0])
    step = input_value("step", TensorType(i64, ()))
    states = _body_inputs(initial)
    slices = [input_value(f"slice_{k}", TensorType(v.dtype, v.shape[1:])) for k, v in enumerate(fronted)]
    scope, outputs = n.scope.body(body, (*states, *slices))
    nexts, stacked = outputs[: len(states)], outputs[len(states) :]
    if [t.type for t in nexts] != [s.type for s in states]:
        raise UnsupportedOp("its state changes type or shape between iterations")
    directions = n.integers("scan_input_directions") or (0,) * count
    out_directions = n.integers("scan_output_directions") or (0,) * len(stacked)
    results = run_scan(
        n, scope.captures, step, states, nexts, slices, stacked, [s.value for s in initial], fronted, length,
        [bool(d) for d in (*directions, *out_directions)],
    )  # fmt: skip
    out_axes = n.integers("scan_output_axes") or (0,) * len(stacked)
    moved = [_from_front(n, v, axis) for v, axis in zip(results[len(states) :], out_axes, strict=True)]
    return (*results[: len(states)], *moved)


def _to_front(n: Site, x: Tensor, axis: int) -> Value:
    (k,) = n.axes((axis,), x.rank)
    return n.transpose(x, (k, *(j for j in range(x.rank) if j != k)))


def _from_front(n: Site, x: Value, axis: int) -> Value:
    rank = x.type.rank
    (k,) = n.axes((axis,), rank)
    return n.transpose(x, [j + 1 if j < k else 0 if j == k else j for j in range(rank)])


# sequences and optionals


@onnx_op("SequenceConstruct")
def sequence_construct(n: Site, *items: Tensor) -> Sequence_:
    return Sequence_(tuple(items))


@onnx_op("SequenceEmpty")
def sequence_empty(n: Site) -> Sequence_:
    return Sequence_(())


def listed(sequence: Any) -> tuple[Tensor, ...]:
    if isinstance(sequence, Optional_):
        sequence = sequence.item
    if not isinstance(sequence, Sequence_):
        raise ModelError("it needs a sequence")
    return sequence.items


def position(n: Site, index: Tensor, size: int) -> int:
    k = int(n.known(index, "the position in a sequence").reshape(-1)[0])
    if not -size <= k < size:
        raise ShapeError(f"position {k} is out of range for a sequence of {size}")
    return k % size


@onnx_op("SequenceAt")
def sequence_at(n: Site, sequence: Sequence_, index: Tensor) -> Tensor:
    items = listed(sequence)
    return items[position(n, index, len(items))]


@onnx_op("SequenceInsert")
def sequence_insert(n: Site, sequence: Sequence_, item: Tensor, index: Operand = None) -> Sequence_:
    items = listed(sequence)
    at = len(items) if index is None else position(n, index, len(items) + 1)
    if index is not None and int(n.known(index, "the position").reshape(-1)[0]) < 0:
        at = position(n, index, len(items))
    return Sequence_((*items[:at], item, *items[at:]))


@onnx_op("SequenceErase")
def sequence_erase(n: Site, sequence: Sequence_, index: Operand = None) -> Sequence_:
    items = listed(sequence)
    at = len(items) - 1 if index is None else position(n, index, len(items))
    return Sequence_((*items[:at], *items[at + 1 :]))


@onnx_op("SequenceLength")
def sequence_length(n: Site, sequence: Sequence_) -> Value:
    return n.const(len(listed(sequence)), i64)


@onnx_op("SplitToSequence")
def split_to_sequence(n: Site, x: Tensor, sizes: Operand = None) -> Sequence_:
    axis, keep = n.axis(x.rank), n.integer("keepdims", 1)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise UnsupportedOp("the length of the sequence depends on a symbolic size")
    parts = [1] * size
    if sizes is not None:
        given = n.known_ints(sizes, "split")
        parts = list(given)
        if sizes.rank == 0:
            parts = [given[0]] * (size // given[0]) + ([size % given[0]] if size % given[0] else [])
    items, start = [], 0
    for part in parts:
        value = n.slice_axis(x, axis, start, start + part)
        if sizes is None and not keep:
            value = n.reshape(value, x.shape[:axis] + x.shape[axis + 1 :])
        items.append(Tensor(value))
        start += part
    return Sequence_(tuple(items))


@onnx_op("ConcatFromSequence")
def concat_from_sequence(n: Site, sequence: Sequence_) -> Value:
    items = listed(sequence)
    if not items:
        raise UnsupportedOp("the sequence is empty")
    rank = items[0].rank
    if not n.integer("new_axis"):
        return n.concat(items, n.axis(rank))
    axis = n.axis(rank + 1)
    return n.concat([n.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in items], axis)


@onnx_op("Optional")
def optional(n: Site, item: Any = None) -> Optional_:
    return Optional_(item)


@onnx_op("OptionalHasElement")
def optional_has_element(n: Site, x: Any = None) -> Value:
    return n.const(not (x is None or (isinstance(x, Optional_) and x.item is None)), bool_)


@onnx_op("OptionalGetElement")
def optional_get_element(n: Site, x: Any) -> Any:
    item = x.item if isinstance(x, Optional_) else x
    if item is None:
        raise UnsupportedOp("the optional is empty")
    return item
