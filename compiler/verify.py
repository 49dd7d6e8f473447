"""Is a compiled model right?  Its results beside those of the reference evaluator or of onnxruntime, as a report.

With `per_node` every intermediate value becomes an output, so that the first one that is off names the culprit; fusion then has
nothing to hide between, so a fault that shows only without `per_node` lies in fusion or planning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..frontend.onnx import export_model
from ..ir.errors import OctavoError
from ..ir.evaluate import evaluate
from ..ir.graph import LEAVES, Graph
from .compare import default_tolerance, relative_error
from .driver import compile
from .progress import report
from .samples import random_feeds
from .source import graph_of

AGAINST = ("reference", "onnxruntime")


@dataclass(frozen=True)
class Compared:
    """One value of the graph: `error` is the largest error over the largest value."""

    name: str
    op: str
    loc: str
    type: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class VerifyReport:
    """All compared values in the order of computation."""

    model: str
    against: str
    inputs: dict[str, str]
    rows: tuple[Compared, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [{**asdict(row), "ok": row.ok} for row in self.rows], "ok": self.ok}


def verify(
    model: Path,
    *,
    against: str = "reference",
    per_node: bool = False,
    dims: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    tolerance: float | None = None,
    target: str = "native",
    threads: int | None = None,
    seed: int = 0,
) -> VerifyReport:
    """Compile an ONNX file, run it and compare; inputs that `feeds` lacks are random.  Raises OctavoError for a bad model."""
    report("import")
    graph = graph_of(model, dims)
    if per_node:
        graph = expose_every_value(graph)
    report("compile")
    compiled = compile(graph, target=target, threads=threads, progress=report)
    given = dict(feeds or {})
    unknown = sorted(set(given) - set(graph.input_names))
    if unknown:
        raise OctavoError(f"the model has no input {unknown[0]!r}; it has: {', '.join(graph.input_names)}")
    arrays = {**random_feeds(compiled.inputs, sizes, seed), **given}
    report("run")
    actual = compiled.run(None, arrays)
    report(f"run {against}")
    if against == "reference":
        expected = evaluate(graph, arrays)
    else:
        expected = run_onnxruntime(export_model(graph).SerializeToString() if per_node else model, arrays)
    rows = []
    for name, value, mine, theirs in zip(graph.output_names, graph.outputs, actual, expected, strict=True):
        limit = default_tolerance(theirs.dtype) if tolerance is None else tolerance
        error = relative_error(np.asarray(mine), np.asarray(theirs))
        rows.append(Compared(name, value.node.op, value.node.loc, str(value.type), error, limit))
    inputs = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
    return VerifyReport(model.name, against, inputs, tuple(rows))


def expose_every_value(graph: Graph) -> Graph:
    """The graph with every computed value as an output, in the order of computation; outputs keep their names."""
    names = dict(zip(graph.outputs, graph.output_names, strict=True))
    outputs = {v: names.get(v, "") for n in graph.nodes if n.op not in LEAVES for v in n.outputs}
    outputs.update(names)  # an output that is a leaf
    taken = set(graph.output_names) | set(graph.input_names)
    fresh = (name for k in range(len(outputs) + len(taken)) if (name := f"value{k}") not in taken)
    return Graph(graph.name, graph.inputs, tuple(outputs), tuple(name or next(fresh) for name in outputs.values()), graph.updates)


def run_onnxruntime(model: Path | bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes.  Raises OctavoError when it is not installed or fails."""
    try:
        import onnxruntime
    except ImportError:
        raise OctavoError("onnxruntime is not installed; install it, or use --against reference") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return [np.asarray(result) for result in session.run(None, dict(feeds))]
    except Exception as e:  # onnxruntime's errors share no narrower base
        raise OctavoError(f"onnxruntime cannot run the model: {e}") from e
