"""What is in a model, for people: nodes and sizes, the graph after a pass, the kernels it becomes, the memory they use.

Everything is computed from the graph as the compiler itself computes it; nothing is compiled to machine code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..backends.lower.legalize import legalize
from ..backends.program import Place, Program, plan
from ..backends.target import find_target
from ..backends.tune import schedules
from ..ir.dims import Dim, evaluate_dim, symbols_of
from ..ir.errors import OctavoError
from ..ir.graph import Graph, Node
from ..ir.ops.registry import op_def
from ..passes.fuse import fuse
from ..passes.manager import Fixpoint, Step, pass_name, run_passes
from ..passes.pipeline import PIPELINE
from .progress import report
from .samples import OTHER_AXES, choose_sizes

ANCHORS = ("contraction", "reduction", "composite", "opaque")  # what decides which template computes a kernel, first match


@dataclass(frozen=True)
class Summary:
    """A graph at a glance."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    nodes: int
    constants: int  # elements
    constant_bytes: int
    ops: dict[str, int]  # how often each op occurs, most frequent first


@dataclass(frozen=True)
class KernelRow:
    """One kernel: `anchor` is the op that decides how it is computed, `ops` what was fused around it."""

    number: int
    anchor: str
    ops: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loc: str


@dataclass(frozen=True)
class MemoryRow:
    """One value of the arena, at the sizes asked about, and the steps between which it must be kept."""

    offset: int
    nbytes: int
    formula: str
    first: int
    last: int


@dataclass(frozen=True)
class Memory:
    """The memory of one run at some sizes; `largest_live` is the most that any moment needs, `arena` what is reserved."""

    sizes: dict[str, int]
    constant_bytes: int
    arena: int
    largest_live: int
    rows: tuple[MemoryRow, ...]


def pass_names() -> tuple[str, ...]:
    """What `graph_after` takes, in the order of the pipeline."""
    return tuple(dict.fromkeys(("import", *(n for step in PIPELINE for n in _names(step)), "legalize", "fuse")))


def graph_after(graph: Graph, name: str, target: str = "native") -> Graph:
    """The graph after the last place that a pass has in the pipeline; in a group that repeats, after the group.

    Raises OctavoError for a name that is not in `pass_names`.
    """
    if name not in pass_names():
        raise OctavoError(f"there is no pass {name!r}; choose one of {', '.join(pass_names())}")
    if name == "import":
        return graph
    level = find_target(target)
    joined = partial(fuse, attention=level.kind == "cpu")
    steps: tuple[Step, ...] = (*PIPELINE, partial(legalize, target=level, schedules=schedules(level)), joined)
    last = max(k for k, step in enumerate(steps) if name in _names(step))
    return run_passes(graph, steps[: last + 1], progress=report)[0]


def _names(step: Step) -> list[str]:
    return [pass_name(one) for one in (step.passes if isinstance(step, Fixpoint) else (step,))]


def summarize(graph: Graph) -> Summary:
    """Counts and sizes of a graph, sub-graphs not included."""
    constants = [n for n in graph.nodes if n.op == "const"]
    ops = Counter(n.op for n in graph.nodes if n.op not in ("input", "const", "variable"))
    return Summary(
        graph.name,
        {name: str(v.type) for name, v in zip(graph.input_names, graph.inputs, strict=True)},
        {name: str(v.type) for name, v in zip(graph.output_names, graph.outputs, strict=True)},
        sum(ops.values()),
        sum(n.attrs["value"].array.size for n in constants),
        sum(n.attrs["value"].array.size * n.types[0].dtype.itemsize for n in constants),
        dict(ops.most_common()),
    )


def kernel_rows(fused: Graph) -> list[KernelRow]:
    """The kernels of a fused graph in the order in which they run."""
    rows = []
    for number, node in enumerate(n for n in fused.nodes if n.op == "kernel"):
        body: Graph = node.attrs["body"]
        computing = [n for n in body.nodes if n.op not in ("input", "const")]
        inputs = tuple(str(v.type) for v in node.inputs)
        ops = dict(Counter(n.op for n in computing).most_common())
        rows.append(KernelRow(number, _anchor(computing), ops, inputs, tuple(map(str, node.types)), node.loc))
    return rows


def _anchor(nodes: list[Node]) -> str:
    for kind in ANCHORS:
        for n in nodes:
            if op_def(n.op).kind == kind:
                return n.op
    return "map"


def memory(fused: Graph, sizes: Mapping[str, int]) -> Memory:
    """The arena of a fused graph; symbols without a size get one as in `choose_sizes`."""
    program = plan(fused)
    env = choose_sizes((v.shape for v in fused.inputs), sizes)
    env.update({s: OTHER_AXES for p in program.places for s in symbols_of(p.nbytes) if s not in env})  # found out by the run
    offsets = _offsets(program, env)
    rows = [MemoryRow(offsets[p], _size(p.nbytes, env), str(p.nbytes), p.first, p.last) for p in program.places]
    arena = max((r.offset + r.nbytes for r in rows), default=0)
    moments = {r.first for r in rows}
    live = max((sum(r.nbytes for r in rows if r.first <= m <= r.last) for m in moments), default=0)
    rows.sort(key=lambda r: (r.first, r.offset))
    return Memory(env, program.constant_bytes, arena, live, tuple(rows))


def _offsets(program: Program, env: Mapping[str, int]) -> dict[Place, int]:
    """Where each place lies at these sizes: above the largest end of those below it."""
    offsets: dict[Place, int] = {}
    for place, below in program.below.items():
        offsets[place] = max((offsets[q] + _size(q.nbytes, env) for q in below), default=0)
    return offsets


def _size(nbytes: Dim, env: Mapping[str, int]) -> int:
    """Bytes rounded up to a cache line, as the planner rounds them."""
    return -(-evaluate_dim(nbytes, env) // 64) * 64


def as_lines(counts: Mapping[str, Any]) -> str:
    """`{"add": 3, "mul": 1}` -> `"3 add, mul"`."""
    return ", ".join(f"{n} {name}" if n != 1 else name for name, n in counts.items())
