"""Which contractions multiply bytes, and which values between them are stored as bytes.

Every conv and matmul by constant weights is quantized unless it is excluded.  In the convolutional part of a network, all that is
stored between kernels is quantized once, and every reader has the quantized value, residuals too, so that no float is stored.  A
matmul alone reads its operand quantized; whatever else reads that has floats, so that the residual stream of a transformer stays
exact.  Values of a graph's last layers, from which no further quantized contraction follows, stay floats.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.errors import QuantError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.registry import OPS
from ...ir.types import f32
from ..values import use_counts
from .weights import weights_of

EXACT = frozenset(("reshape", "transpose", "slice", "window", "reduce_max", "concat", "broadcast_to", "tile", "repeat"))


@dataclass(frozen=True)
class Choice:
    """Contractions to quantize; values that all readers, and values that only quantized contractions read as bytes."""

    contractions: frozenset[Node]
    shared: tuple[Value, ...]
    own: tuple[Value, ...]

    def among(self, images: Mapping[Value, Value]) -> Choice:
        """The same of a graph of the same structure, where these are what the values are in that."""
        nodes = frozenset(images[n.outputs[0]].node for n in self.contractions)
        return Choice(nodes, tuple(images[v] for v in self.shared), tuple(images[v] for v in self.own))


def choose(graph: Graph, known: Mapping[Value, str], exclude: Sequence[str] = ()) -> Choice:
    """What to quantize in a prepared graph.  known: values whose range is known, and their names.

    exclude: ops, locations (`onnx:/head/*` or `/head/*`; wildcards as in a shell) or names of values, each of them one of a contraction
    that stays as it is.  Raises QuantError for one that fits nothing.
    """
    chosen = frozenset(n for n in contractions(graph, known, exclude) if n.inputs[0] in known)
    between = _Between(graph, chosen)
    shared = [v for v in known if between.is_convolutional(v)]
    own = {n.inputs[0]: None for n in chosen if n.inputs[0] not in shared}
    order = {n: k for k, n in enumerate(graph.nodes)}
    return Choice(chosen, tuple(shared), tuple(sorted(own, key=lambda v: order[v.node])))


def contractions(graph: Graph, known: Mapping[Value, str], exclude: Sequence[str] = ()) -> frozenset[Node]:
    """The contractions by constant weights that are not excluded."""
    left = _excluded(graph, known, exclude)
    return frozenset(n for n in graph.nodes if _can_be_integer(n) and n not in left)


def _can_be_integer(n: Node) -> bool:
    if n.op not in ("conv", "matmul") or n.types[0].dtype is not f32:
        return False
    x, w = n.inputs
    return not x.is_const and weights_of(w) is not None


def _excluded(graph: Graph, known: Mapping[Value, str], exclude: Sequence[str]) -> set[Node]:
    if isinstance(exclude, str) or not all(isinstance(pattern, str) for pattern in exclude):
        raise QuantError(f"exclude is a sequence of names and patterns, each a text, not {exclude!r}")
    contractions = [n for n in graph.nodes if n.op in ("conv", "matmul")]
    found: set[Node] = set()
    for pattern in exclude:

        def fits(n: Node, pattern: str = pattern) -> bool:
            names = [n.op, n.loc, n.loc.removeprefix("onnx:"), *(known.get(v, "") for v in n.outputs)]
            return any(fnmatch.fnmatchcase(name, pattern) for name in names if name)

        some = {n for n in contractions if fits(n)}
        if not some:
            raise QuantError(f"exclude={pattern!r} fits no conv or matmul; it is an op, the place of one such as '/head/*', or a value")
        found |= some
    return found


class _Between:
    """Which values lie between quantized convolutions, and which of these are stored."""

    def __init__(self, graph: Graph, chosen: frozenset[Node]):
        self.users, self.chosen = graph.users, chosen
        self.uses = use_counts(graph)
        self.roots = set(graph.roots)
        self.after: set[Node] = set()  # computed from a quantized convolution, by what keeps its nature
        self.carrier: dict[Node, Value | None] = {}  # nodes in registers of a contraction -> the operand by which they are
        for n in graph.nodes:
            if n.op in ("conv", "matmul"):
                self.carrier[n] = None
                if n in chosen and n.op == "conv":
                    self.after.add(n)
            elif _passes_on(n):
                self.after.update([n] if any(v.node in self.after for v in n.inputs) else [])
                if OPS[n.op].kind == "pointwise":
                    carriers = [v for v in n.inputs if v.node in self.carrier and self._alone(v) and v.shape == n.types[0].shape]
                    if carriers:
                        self.carrier[n] = carriers[0]
        self.before: set[Node] = set()  # nodes whose results reach a quantized convolution, or a pool before any contraction
        self.towards: set[Node] = set()  # nodes whose results reach any quantized contraction
        for n in reversed(graph.nodes):
            readers = self.users[n]
            if n in chosen or (_passes_on(n) and any(r in self.towards for r in readers)):
                self.towards.add(n)
            pools = OPS[n.op].kind == "reduction" and n.inputs[0].type.rank >= 4 and n in self.towards
            if (n in chosen and n.op == "conv") or pools or (_passes_on(n) and any(r in self.before for r in readers)):
                self.before.add(n)

    def is_convolutional(self, v: Value) -> bool:
        """Whether all readers of v should have it quantized."""
        readers = self.users[v.node]
        if any(r in self.chosen and r.op == "conv" and r.inputs[0] == v for r in readers):
            return True
        between = v.node in self.after and v not in self.roots and all(r in self.before for r in readers)
        return between and not self._in_registers(v)

    def _alone(self, v: Value) -> bool:
        return self.uses[v.node] == 1

    def _in_registers(self, v: Value) -> bool:
        if not self._alone(v):
            return False
        (reader,) = self.users[v.node]
        if OPS[reader.op].kind != "pointwise":
            return v.node.op in EXACT and OPS[v.node.op].kind == "index"  # a place of its own is what its reader makes of it
        if reader in self.carrier:
            return self.carrier[reader] == v or v.shape != reader.types[0].shape  # one value for many elements costs nothing
        return OPS[v.node.op].kind == "pointwise"


def _passes_on(n: Node) -> bool:
    """Whether what an op computes is a map of the same kind of values: no norm, no softmax, no product of two of them."""
    return len(n.types) == 1 and OPS[n.op].kind in ("pointwise", "index", "reduction") if n.op in OPS else False
