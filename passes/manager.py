"""The pass manager: runs passes in order, times them, verifies and dumps what they made, and says who failed where.

A pass is a function `Graph -> Graph` that returns the same object when nothing changed; it is applied to sub-graphs (the bodies
of scan, loop and if_) before the graph that holds them.  A `Fixpoint` repeats a group until a whole round changes nothing.

>>> graph, reports = run_passes(graph, [expand, Fixpoint((simplify, fold, cse))])
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..ir import config
from ..ir.errors import PassError, VerifyError
from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.text import excerpt, to_text
from ..ir.verify import verify as verify_graph

Pass: TypeAlias = Callable[[Graph], Graph]


@dataclass(frozen=True)
class Fixpoint:
    """Passes to repeat until a round changes nothing; `limit` rounds bound the cost where each exposes little to the next."""

    passes: tuple[Pass, ...]
    limit: int = 10


Step: TypeAlias = Pass | Fixpoint


@dataclass(frozen=True)
class PassReport:
    """One application of one pass."""

    name: str
    ms: float
    before: int  # nodes, sub-graphs not counted
    after: int
    changed: bool


def run_passes(
    graph: Graph,
    steps: Sequence[Step],
    *,
    verify: bool | None = None,
    dump: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Graph, list[PassReport]]:
    """The graph after all steps, and a report on every application.

    verify: check the graph before the first pass and after each (default: OCTAVO_VERIFY, on).  dump: a folder for the text
    after each pass that changed the graph (default: OCTAVO_DUMP).  progress(name, step, steps) is called before each
    application. Raises PassError when a pass fails or leaves a graph that does not verify; VerifyError when the graph given
    is unsound.
    """
    verify = config.verify_passes() if verify is None else verify
    dump = config.dump_dir() if dump is None else dump
    reports: list[PassReport] = []
    known: set[Node] = set()
    if verify:
        verify_graph(graph, known)
    files = _dump_names(dump) if dump else iter(())
    _dump(graph, dump, files, "input")
    for at, step in enumerate(steps):
        group = step if isinstance(step, Fixpoint) else Fixpoint((step,), limit=1)
        for _ in range(group.limit):
            start = graph
            for one in group.passes:
                if progress:
                    progress(pass_name(one), at, len(steps))
                before = graph
                graph = _run_one(one, graph, reports, known if verify else None)
                if graph is not before:
                    _dump(graph, dump, files, pass_name(one))
            if graph is start:
                break
    return graph, reports


def pass_name(one: Pass) -> str:
    """The name a pass goes by in reports and messages."""
    inner = one.func if isinstance(one, functools.partial) else one
    return getattr(inner, "__name__", type(inner).__name__)


def _run_one(one: Pass, graph: Graph, reports: list[PassReport], known: set[Node] | None) -> Graph:
    name = pass_name(one)
    start = time.perf_counter()
    try:
        result = apply_to_all_levels(one, graph)
    except Exception as e:
        raise PassError(_report(name, graph, e, reports)) from e
    ms = (time.perf_counter() - start) * 1e3
    reports.append(PassReport(name, ms, len(graph.nodes), len(result.nodes), result is not graph))
    if known is not None and result is not graph:
        try:
            verify_graph(result, known)
        except VerifyError as e:
            raise PassError(f"the pass {name} broke the graph ({_already_run(reports[:-1])}): {e}") from e
    return result


def apply_to_all_levels(one: Pass, graph: Graph) -> Graph:
    """`one` applied to the sub-graphs, innermost first, then to the graph; it recurses over nesting only."""

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        bodies = {name: value for name, value in node.attrs.items() if isinstance(value, Graph)}
        new = {name: apply_to_all_levels(one, body) for name, body in bodies.items()}
        if all(new[name] is body for name, body in bodies.items()):
            return None
        return Node(node.op, inputs, {**node.attrs, **new}, node.types, node.loc).outputs

    nested = any(isinstance(value, Graph) for node in graph.nodes for value in node.attrs.values())
    return one(rewrite(graph, rule) if nested else graph)


def _report(name: str, graph: Graph, error: Exception, reports: list[PassReport]) -> str:
    node = getattr(error, "node", None)
    where = f" at {node!r}" if isinstance(node, Node) else ""
    head = f"the pass {name} failed{where} ({_already_run(reports)}): {type(error).__name__}: {error}"
    shown = excerpt(graph, node) if isinstance(node, Node) else ""
    return f"{head}\n{shown}" if shown else head


def _already_run(reports: list[PassReport]) -> str:
    names = [name for name, _ in itertools.groupby(r.name for r in reports)]
    return f"passes already run: {', '.join(names)}" if names else "no pass had run"


def _dump_names(folder: Path) -> Iterator[Path]:
    """Numbered file names after those already there, so that several compilations may share a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    used = [int(m[1]) for p in folder.iterdir() if (m := re.match(r"(\d+)-", p.name))]
    for k in itertools.count(max(used, default=-1) + 1):
        yield folder / f"{k:03d}"


def _dump(graph: Graph, folder: Path | None, files: Iterator[Path], name: str) -> None:
    if folder:
        path = next(files)
        path.with_name(f"{path.name}-{re.sub(r'[^A-Za-z0-9_]', '_', name)}.txt").write_text(to_text(graph))
