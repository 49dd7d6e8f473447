"""The order of passes before fusion, with the reason for each place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..ir.graph import Graph
from .cse import cse
from .expand import expand
from .fold import fold
from .manager import Fixpoint, Step, run_passes

PIPELINE: tuple[Step, ...] = (
    expand,  # first: every later pass then knows the primitives only
    Fixpoint((fold, cse)),
)


def optimize(
    graph: Graph,
    *,
    verify: bool | None = None,
    dump: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Graph:
    """The graph as fusion wants it: primitives, simplified, channels last.  Options as in `manager.run_passes`."""
    return run_passes(graph, PIPELINE, verify=verify, dump=dump, progress=progress)[0]
