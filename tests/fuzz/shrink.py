"""A failing case made small: fewer outputs, fewer nodes, smaller sizes, as long as it still fails in the same kind of stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from octavo.ir.dims import symbols_of
from octavo.ir.errors import OctavoError
from octavo.ir.evaluate import bind_sizes, evaluate_roots
from octavo.ir.graph import Graph, Value, input_value, rewrite, topological
from octavo.passes.pin import pin

from .generate import Case, Feeds

Candidate = tuple[Graph, tuple[Feeds, ...]]


def shrink(case: Case, fails: Callable[[Case], bool], budget: int = 300) -> Case:
    """The smallest case found that `fails`, trying at most `budget` candidates."""
    progress = True
    while progress:
        progress = False
        for graph, feeds in _smaller(case.graph, case.feeds):
            if budget == 0:
                return case
            budget -= 1
            candidate = Case(case.seed, graph, feeds)
            if fails(candidate):
                case, progress = candidate, True
                break
    return case


def _smaller(graph: Graph, feeds: tuple[Feeds, ...]) -> Iterator[Candidate]:
    """Simpler cases, the boldest first.  Candidates that cannot be made are left out."""
    if len(feeds) > 1:
        yield from ((graph, (f,)) for f in feeds)
    bare = _kept(graph, graph.outputs, graph.inputs, feeds)
    if len(bare[0].inputs) < len(graph.inputs):
        yield bare
    yield from _one_output(graph, feeds)
    for value in reversed([v for n in graph.nodes if n.inputs for v in n.outputs if v not in graph.outputs]):
        try:
            yield _cut(graph, feeds, value)
        except OctavoError:
            continue
    for name in graph.symbols:
        yield from _resized(graph, feeds, name)
    if len(feeds) == 1 and graph.symbols:
        yield pin(graph, bind_sizes(graph, feeds[0], {})), feeds


def _one_output(graph: Graph, feeds: tuple[Feeds, ...]) -> Iterator[Candidate]:
    inner = [v for node in graph.nodes if node.inputs for v in node.outputs]
    for value in inner:  # in order of computation: the first that fails needs the fewest nodes
        if graph.outputs != (value,):
            yield _kept(graph, (value,), graph.inputs, feeds)


def _cut(graph: Graph, feeds: tuple[Feeds, ...], value: Value) -> Candidate:
    """What leads to `value` gives way to an input that has its contents."""
    name = f"cut{sum(n.startswith('cut') for n in graph.input_names)}"
    made = tuple({**f, name: np.array(evaluate_roots(graph, (value,), f)[0], order="C")} for f in feeds)
    leaf = input_value(name, value.type)
    cut = rewrite(graph, lambda n, _: [leaf if v == value else v for v in n.outputs] if n is value.node else None)
    return _kept(cut, cut.outputs, (*cut.inputs, leaf), made)


def _kept(graph: Graph, outputs: tuple[Value, ...], inputs: tuple[Value, ...], feeds: tuple[Feeds, ...]) -> Candidate:
    """With the inputs that the outputs need, and those that tell a size."""
    reached = topological(outputs)
    needed = {n for n in reached if n.op == "input"}
    symbols = {s for n in reached for t in n.types for d in t.shape for s in symbols_of(d)}
    kept: list[Value] = []
    told: set[str] = set()
    for v in sorted(inputs, key=lambda v: v.node not in needed):
        tells = set(Graph("one", (v,), (v,)).symbols) & symbols - told
        if v.node in needed or tells:
            kept.append(v)
            told |= tells
    names = {v.node.attrs["name"] for v in kept}
    return Graph(graph.name, tuple(kept), outputs), tuple({n: a for n, a in f.items() if n in names} for f in feeds)


def _resized(graph: Graph, feeds: tuple[Feeds, ...], name: str) -> Iterator[Candidate]:
    """With one size cut down to 1, 2 or half."""
    present = bind_sizes(graph, feeds[0], {})[name]
    for size in sorted({1, 2, present // 2} - {0}):
        if size < present and len(feeds) == 1:
            cut: Feeds = {}
            for v in graph.inputs:
                part = tuple(slice(0, size) if str(d) == name else slice(None) for d in v.shape)
                cut[v.node.attrs["name"]] = np.array(feeds[0][v.node.attrs["name"]][part], order="C")
            yield graph, (cut,)
