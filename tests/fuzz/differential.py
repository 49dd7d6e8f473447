"""One case through everything: verifier, text, each pass, native code; the first stage with wrong results is the failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from octavo.backends.target import runnable
from octavo.compiler.driver import compile
from octavo.ir.evaluate import bind_sizes, evaluate
from octavo.ir.graph import Graph, Value
from octavo.ir.parse import parse
from octavo.ir.text import canonical_text, large_constants, to_text
from octavo.ir.verify import verify
from octavo.passes.manager import Fixpoint, Pass, pass_name, run_passes
from octavo.passes.pipeline import PIPELINE, optimize

from .generate import Feeds
from .intervals import intervals, outside
from .numerics import Measured, measure, mismatch

Run = Callable[[Feeds], Sequence[np.ndarray]]
Problem = Callable[[np.ndarray, int], str]  # an output and its number -> why it is wrong, or ""
STAGES = ("reference", "text", "pass", "native")
LEVELS = tuple(t.name for t in runnable())  # stages too: native code for a level below the best


@dataclass(frozen=True)
class Failure:
    """A stage that crashed or whose results differ from the reference's; `stage` begins with one of STAGES or LEVELS."""

    stage: str
    message: str

    @property
    def kind(self) -> str:
        return self.stage.split()[0]


def check(graph: Graph, feeds: Sequence[Feeds], stages: Sequence[str] = STAGES) -> Failure | None:
    """The first failure among the stages, or None."""
    try:
        expected = [bounds(graph, f) for f in feeds]
    except Exception as e:
        return Failure("reference", f"{type(e).__name__}: {e}")

    def wrong(stage: str, feed: int) -> Problem | None:
        wanted = expected[feed]
        return None if wanted is None else lambda actual, k: mismatch(actual, wanted[k])

    return _first(graph, feeds, stages, wrong)


def check_quantized(graph: Graph, feeds: Sequence[Feeds], stages: Sequence[str] = STAGES) -> Failure | None:
    """The same for a graph with quantize and dequantize.

    The passes may make any form of it that rounds as well; native code of every level gives the very bytes of what the passes made.
    """
    try:
        forms = [intervals(graph, f, forms=True) for f in feeds]
        made = optimize(graph)
        same = [intervals(made, f, forms=False) for f in feeds]
    except Exception as e:
        return Failure("reference", f"{type(e).__name__}: {e}")

    def wrong(stage: str, feed: int) -> Problem:
        compiled = stage == "native" or stage in LEVELS
        return lambda actual, k: outside(actual, (same if compiled else forms)[feed][k])

    return _first(graph, feeds, stages, wrong)


def _first(graph: Graph, feeds: Sequence[Feeds], stages: Sequence[str], wrong: Callable[[str, int], Problem | None]) -> Failure | None:
    """The first stage that raises or has a wrong output.  wrong: of a stage and the number of a feed, what says what is wrong."""
    for stage, prepare in _stages(graph, stages):
        try:
            run = prepare()
            for number, f in enumerate(feeds):
                problem_of = wrong(stage, number)
                if run is None or problem_of is None:
                    continue
                results = run(f)
                for k, (name, actual) in enumerate(zip(graph.output_names, results, strict=True)):
                    if problem := problem_of(np.asarray(actual), k):
                        return Failure(stage, f"{name} with sizes {bind_sizes(graph, f, {})}: {problem}")
        except Exception as e:  # whatever it is, it is a finding
            return Failure(stage, f"{type(e).__name__}: {e}")
    return None


def bounds(graph: Graph, feeds: Feeds) -> list[Measured] | None:
    """The outputs by the reference, with their bounds; None where a node is unstable."""
    env = bind_sizes(graph, feeds, {})
    rng = np.random.default_rng(len(graph.nodes))
    done: dict[Value, Measured] = {}
    for node in graph.nodes:
        if node.op == "input":
            done[node.outputs[0]] = Measured(feeds[node.attrs["name"]])
            continue
        results = measure(node, [done[v] for v in node.inputs], env, rng)
        if results is None:
            return None
        done.update(zip(node.outputs, results))
    return [done[v] for v in graph.outputs]


def _stages(graph: Graph, kinds: Sequence[str]) -> Iterator[tuple[str, Callable[[], Run | None]]]:
    """(stage, what makes a way to run the graph there; None: nothing changed since the stage before)."""
    if "reference" in kinds:
        yield "reference", partial(_verified, graph)
    if "text" in kinds:
        yield "text", partial(_reread, graph)
    if "pass" in kinds:
        yield from _passes(graph)
    for target in kinds:
        if target == "native" or target in LEVELS:
            yield target, partial(_native, graph, target)


def _verified(graph: Graph) -> Run:
    verify(graph)
    return partial(evaluate, graph)


def _reread(graph: Graph) -> Run:
    again = parse(to_text(graph), large_constants(graph))
    assert canonical_text(again) == canonical_text(graph), "the graph that the text gives has another canonical text"
    return partial(evaluate, again)


def _passes(graph: Graph) -> Iterator[tuple[str, Callable[[], Run | None]]]:
    """Every application of every pass, in the order of the pipeline and on the graph that the one before left."""
    latest = graph

    def advance(one: Pass) -> Run | None:
        nonlocal latest
        before = latest
        latest, _ = run_passes(before, [one], verify=True)
        return None if latest is before else partial(evaluate, latest)

    for step in PIPELINE:
        group = step if isinstance(step, Fixpoint) else Fixpoint((step,), limit=1)
        for _ in range(group.limit):
            start = latest
            for one in group.passes:
                yield f"pass {pass_name(one)}", partial(advance, one)
            if latest is start:
                break


def _native(graph: Graph, target: str) -> Run:
    return partial(compile(graph, target=target).run, None)
