"""Control flow: scan, if_ and loop hold sub-graphs, which compile to native control flow.

A body sees the outer graph only through its operands (captures are explicit) and through symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..dims import Dim
from ..dims import symbol as new_symbol
from ..errors import ShapeError
from ..graph import Graph, input_value
from ..types import TensorType, bool_, f32, i64
from .registry import OpDef, Sample, Types, apply, register

Evaluate = Callable[..., list[np.ndarray]]  # evaluate(graph, feeds, env)


def _check_body(what: str, body: Graph, expected: Types) -> None:
    given = tuple(v.type for v in body.inputs)
    if given != expected:
        raise ShapeError(f"{what} takes ({', '.join(map(str, given))}), but is given ({', '.join(map(str, expected))})")


def _check_states(body_types: Types, states: Types) -> None:
    if body_types != states:
        now, then = (", ".join(map(str, t)) for t in (states, body_types))
        raise ShapeError(f"the states ({now}) change their types to ({then}) in one step")


def _feed(body: Graph, arrays: Iterable[Any]) -> Mapping[str, np.ndarray]:
    return dict(zip(body.input_names, map(np.asarray, arrays), strict=True))


# --- scan -------------------------------------------------------------------------------------------------------------------


def _infer_scan(types: Types, *, body: Graph, states: int, length: Dim, reverse: tuple[bool, ...] = (), captures: int = 0) -> Types:
    sequences = types[states : len(types) - captures]
    for t in sequences:
        if not t.rank or (isinstance(t.shape[0], int) and isinstance(length, int) and t.shape[0] != length):
            raise ShapeError(f"a sequence of {length} steps cannot be {t}")
    if len(reverse) not in (0, len(sequences), len(sequences) + len(body.outputs) - states):
        raise ShapeError(f"reverse has {len(reverse)} entries; give one for each sequence, then one for each stacked result")
    slices = tuple(t.with_shape(t.shape[1:]) for t in sequences)
    _check_body("the body", body, (TensorType(i64, ()), *types[:states], *slices, *types[len(types) - captures :]))
    results = tuple(v.type for v in body.outputs)
    _check_states(results[:states], types[:states])
    return (*types[:states], *(t.with_shape((length, *t.shape)) for t in results[states:]))


def _scan(
    evaluate: Evaluate,
    env: Mapping[str, int],
    *arrays: np.ndarray,
    body: Graph,
    states: int,
    length: int,
    reverse: tuple[bool, ...] = (),
    captures: int = 0,
) -> tuple[np.ndarray, ...]:
    count = len(arrays) - states - captures
    state, sequences, captured = list(arrays[:states]), arrays[states : states + count], arrays[states + count :]
    stacked_types = [v.type for v in body.outputs[states:]]
    backward = (*reverse, *(False,) * (count + len(stacked_types) - len(reverse)))
    stacks: list[dict[int, np.ndarray]] = [{} for _ in stacked_types]
    for step in range(length):
        slices = [x[length - 1 - step if b else step] for x, b in zip(sequences, backward, strict=False)]
        results = evaluate(body, _feed(body, (np.int64(step), *state, *slices, *captured)), env)
        state = results[:states]
        for stack, b, result in zip(stacks, backward[count:], results[states:], strict=True):
            stack[length - 1 - step if b else step] = result
    empty = [np.zeros((0, *(d if isinstance(d, int) else env.get(str(d), 0) for d in t.shape)), t.dtype.np) for t in stacked_types]
    return (*state, *(np.stack([s[k] for k in range(length)]) if length else e for s, e in zip(stacks, empty, strict=True)))


def _scan_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype, name in ((f32, "float32"), (i64, "int64")):
        step = input_value("i", TensorType(i64, ()))
        state, x = (input_value(n, TensorType(dtype, (5,))) for n in ("state", "x"))
        weight = input_value("w", TensorType(dtype, (5,)))
        total = apply("add", apply("mul", state, weight), x)
        shown = apply("add", total, apply("cast", step, to=dtype))
        body = Graph("step", (step, state, x, weight), (total, shown), ("total", "shown"))
        for length in (3, 1):
            arrays = tuple(rng.integers(-3, 4, shape).astype(name) for shape in ((5,), (length, 5), (5,)))
            attrs = {"body": body, "states": 1, "length": length, "captures": 1}
            yield Sample(arrays, attrs)
            yield Sample(arrays, attrs | {"reverse": (True, True)})


register(
    OpDef(
        "scan",
        "control",
        _infer_scan,
        reference=_scan,
        samples=_scan_samples,
        doc="""Steps over sequences with a state; operands are states, sequences and captures, counted by attributes.

The body takes (step i64[], states, slices of the sequences along axis 0, captures) and gives (next states, results).  The node
gives the final states, then each result stacked along a new axis 0 of size `length`.  reverse: for each sequence, then for each
stacked result, whether it runs from its end; all False if empty.""",
    )
)


# --- if ---------------------------------------------------------------------------------------------------------------------


def _infer_if(types: Types, *, then: Graph, otherwise: Graph) -> Types:
    if not types or types[0] != TensorType(bool_, ()):
        raise ShapeError("the condition must be the first operand and of type bool[]")
    for what, branch in (("the branch `then`", then), ("the branch `otherwise`", otherwise)):
        _check_body(what, branch, types[1:])
    results, others = (tuple(v.type for v in branch.outputs) for branch in (then, otherwise))
    if results != others:
        raise ShapeError(f"the branches give ({', '.join(map(str, results))}) and ({', '.join(map(str, others))})")
    return results


def _if(
    evaluate: Evaluate, env: Mapping[str, int], condition: np.ndarray, *captures: np.ndarray, then: Graph, otherwise: Graph
) -> tuple[np.ndarray, ...]:
    branch = then if condition else otherwise
    return tuple(evaluate(branch, _feed(branch, captures), env))


def _if_samples(rng: np.random.Generator) -> Iterable[Sample]:
    x, y = (input_value(n, TensorType(f32, (3, 17))) for n in "xy")
    then = Graph("then", (x, y), (apply("add", x, y),))
    otherwise = Graph("otherwise", (x, y), (apply("neg", x),))
    for condition in (True, False):
        arrays = (rng.standard_normal((3, 17)).astype(np.float32) for _ in "xy")
        yield Sample((np.asarray(condition), *arrays), {"then": then, "otherwise": otherwise})


register(
    OpDef(
        "if_",
        "control",
        _infer_if,
        reference=_if,
        samples=_if_samples,
        doc="What `then` gives where the operand bool[] holds, else what `otherwise` gives, each taking all captures.",
    )
)


# --- loop -------------------------------------------------------------------------------------------------------------------


def _infer_loop(types: Types, *, body: Graph) -> Types:
    if len(types) < 2 or types[:2] != (TensorType(i64, ()), TensorType(bool_, ())):
        raise ShapeError("the first operands must be the trip count, i64[], and the condition, bool[]")
    _check_body("the body", body, types)
    results = tuple(v.type for v in body.outputs)
    if not results or results[0] != TensorType(bool_, ()):
        raise ShapeError("the body's first output must be the condition, bool[]")
    _check_states(results[1:], types[2 : 1 + len(results)])
    return results[1:]


def _loop(
    evaluate: Evaluate, env: Mapping[str, int], trip: np.ndarray, condition: np.ndarray, *arrays: np.ndarray, body: Graph
) -> tuple[np.ndarray, ...]:
    count = len(body.outputs) - 1
    state, captures = list(arrays[:count]), arrays[count:]
    step = 0
    while condition and step < trip:
        condition, *state = evaluate(body, _feed(body, (np.int64(step), condition, *state, *captures)), env)
        step += 1
    return tuple(state)


def _loop_samples(rng: np.random.Generator) -> Iterable[Sample]:
    step, go = input_value("i", TensorType(i64, ())), input_value("go", TensorType(bool_, ()))
    x, y = (input_value(n, TensorType(f32, (5,))) for n in "xy")
    total = apply("add", x, y)
    small = apply("lt", apply("reduce_max", total, axes=(0,)), apply("reduce_max", apply("exp", apply("exp", y)), axes=(0,)))
    body = Graph("body", (step, go, x, y), (small, total), ("go", "total"))
    for trip, start in ((3, True), (100, True), (5, False), (0, True)):
        arrays = (rng.uniform(0, 1, 5).astype(np.float32) for _ in "xy")
        yield Sample((np.asarray(trip, np.int64), np.asarray(start), *arrays), {"body": body})


register(
    OpDef(
        "loop",
        "control",
        _infer_loop,
        reference=_loop,
        samples=_loop_samples,
        doc="""Repeats while a condition holds, at most `trip` times: operands trip i64[], condition bool[], states, captures.

The body takes (step i64[], condition, states, captures) and gives (condition, next states); the node gives the last states.""",
    )
)


# --- sizes that the run defines -----------------------------------------------------------------------------------------------


def _infer_bind_size(types: Types, *, axis: int, symbol: str) -> Types:
    x, count = types
    if not 0 <= axis < x.rank or count != TensorType(i64, (1,)):
        raise ShapeError(f"takes a tensor with an axis {axis} and a count of type i64[1]")
    return (x.with_shape((*x.shape[:axis], new_symbol(symbol), *x.shape[axis + 1 :])),)


def _bind_size(
    evaluate: Evaluate, env: dict[str, int], x: np.ndarray, count: np.ndarray, *, axis: int, symbol: str
) -> tuple[np.ndarray, ...]:
    env[symbol] = int(count[0])
    return (x[(slice(None),) * axis + (slice(env[symbol]),)],)


def _bind_size_samples(rng: np.random.Generator) -> Iterable[Sample]:
    x = rng.standard_normal((5, 7)).astype(np.float32)
    for axis, count in ((0, 3), (1, 7), (1, 0)):
        yield Sample((x, np.array([count])), {"axis": axis, "symbol": "kept"})


register(
    OpDef(
        "bind_size",
        "control",
        _infer_bind_size,
        reference=_bind_size,
        samples=_bind_size_samples,
        doc="The first count[0] elements along `axis`, whose size is from now on the new symbol; count is i64[1].",
    )
)


def _infer_after(types: Types) -> Types:
    if not types:
        raise ShapeError("takes a value, and others that are computed before it is given")
    return types[:1]


def _after(evaluate: Evaluate, env: Mapping[str, int], x: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    return (x,)


def _after_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (np.float32, np.int8):
        yield Sample((np.ones((5, 7), dtype), np.arange(3)))


register(
    OpDef(
        "after",
        "control",
        _infer_after,
        reference=_after,
        samples=_after_samples,
        doc="The first operand; the others are computed too: a size that one of them defines may be mentioned where none is read.",
    )
)
