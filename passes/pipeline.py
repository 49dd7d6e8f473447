"""The order of passes before fusion, with the reason for each place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..ir.graph import Graph
from .absorb import absorb
from .captures import inline_constant_captures
from .commute import commute
from .cse import cse
from .expand import expand
from .fold import fold
from .fuse import ROW_COMPOSITES
from .integer import integer
from .layout import layout
from .manager import Fixpoint, Step, run_passes
from .narrow import keep_narrow
from .recognize import recognize
from .simplify import simplify
from .transposes import sink_transposes, transposes_to_reshapes


def expand_composites(graph: Graph) -> Graph:
    """Expansion of all composites but those that one row kernel computes whole."""
    return expand(graph, keep=ROW_COMPOSITES)


def fold_but_weights(graph: Graph) -> Graph:
    """Folding of all constants but those that stay small integers for now."""
    return fold(graph, keep=frozenset(("dequantize", "cast")))


PIPELINE: tuple[Step, ...] = (
    expand_composites,  # first: every later pass then knows the primitives, and rows, only
    fold_but_weights,  # so that scales and zero points are constants
    Fixpoint((cse, commute)),  # until only arithmetic stands between quantize and dequantize; cse: a value quantized twice is one
    integer,  # before folding makes floats of quantized weights
    keep_narrow,  # likewise, for what no integer contraction took
    # inline_constant_captures: weights of recurrent bodies fold and pack like any other
    Fixpoint((simplify, fold, cse, inline_constant_captures, sink_transposes, absorb)),  # so that equal operands are one value
    recognize,  # while activations and norms are as they were written; fusion would hide them
    expand_composites,  # what was recognised, in the one form that fusion knows
    layout,  # after absorb, which sees a convolution and its batch norm side by side
    Fixpoint((sink_transposes, simplify, fold, cse)),  # the transposes that layout inserted meet and cancel
    transposes_to_reshapes,  # last: sinking no longer needs to see them as transposes
    Fixpoint((simplify, cse)),  # those reshapes merge with their neighbours
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
