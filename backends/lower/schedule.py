"""Schedules of contractions as data: what can be chosen, a text that names a contraction, and a kernel by another choice.

A schedule is the register tile; blocks and chunks follow from it.  Every sum is one chain in order of k whatever the tile, so schedules
differ in time and not in one bit.  (Whether a convolution is computed by Winograd's algorithm changes bits: `winograd_choice.py`
decides that, and the decision is part of what a schedule is for.)

>>> signature(node, f32)
'f32[n,56,56,64] = conv(f32, f32[64,64,3,3], strides=[1,1])'
>>> candidates(node, target)[0]                       # the best guess
Schedule(rows=14, vectors=2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, ceildiv, substitute, symbol, symbols_of
from ...ir.graph import Graph, Node, Value, input_value
from ...ir.scalar import compute_dtype
from ...ir.types import DType, TensorType
from ..target import Target
from .contraction import UNPACKING, contraction_of, tiles, unpacking
from .winograd import winograd_tiles

MOST_ROWS, MOST_VECTORS = 64, 8  # of a schedule that somebody wrote: no target has registers for more


@dataclass(frozen=True)
class Schedule:
    """How a contraction is computed: a tile of `rows` x `vectors` registers of sums."""

    rows: int
    vectors: int

    @property
    def tile(self) -> tuple[int, int]:
        """The attribute of a contraction that names it."""
        return self.rows, self.vectors

    @property
    def is_sane(self) -> bool:
        """Whether code for it can be short enough to compile."""
        return 0 < self.rows <= MOST_ROWS and 0 < self.vectors <= MOST_VECTORS

    def __str__(self) -> str:
        return f"{self.rows}x{self.vectors}"


Schedules = Mapping[str, Schedule]  # by signature


def signature(node: Node, packed: DType, winograd: int | None = None) -> str:
    """A text that names a contraction by all that its best schedule depends on, the same before and after `legalize`.

    Symbols get names of their own.  packed: dtype of the second operand in its panels; winograd: m of F(m).
    """
    a, b = node.inputs
    result = node.types[0]
    names: dict[str, Dim] = {}

    def text(dtype: DType, shape: Sequence[Dim]) -> str:
        for d in shape:
            for s in sorted(symbols_of(d)):
                names.setdefault(s, symbol(f"n{len(names) or ''}"))
        return str(TensorType(dtype, tuple(substitute(d, names) for d in shape)))

    if node.op == "matmul":
        return f"{text(result.dtype, result.shape)} = matmul({text(a.dtype, a.shape)}, {text(packed, b.shape)})"
    shape = result.shape
    if node.attrs.get("layout", "channels_first") == "channels_first":
        shape = (shape[0], *shape[2:], shape[1])
    lists = {name: node.attrs[name] for name in ("strides", "dilations") if set(node.attrs[name]) != {1}}
    details = [f"{name}=[{','.join(map(str, values))}]" for name, values in lists.items()]
    groups = node.attrs.get("groups", 1)
    details += [f"groups={groups}"] if groups != 1 else []
    details += [f"winograd={winograd}"] if winograd else []
    return f"{text(result.dtype, shape)} = conv({', '.join([a.dtype.name, text(packed, b.shape), *details])})"


def signature_of(body: Graph) -> str:
    """The signature of a kernel's one contraction."""
    node = contraction_of(body)
    return signature(node, unpacking(node.inputs[1]).types[0].dtype, _winograd(node))


def _winograd(node: Node) -> int | None:
    operand = node.inputs[1].node
    return operand.attrs["tile"] if operand.op == "unpack_winograd" else None


def candidates(node: Node, target: Target) -> list[Schedule]:
    """Every schedule of a contraction as `legalize` left it, the best guess first."""
    points = _winograd(node)
    return [Schedule(*t) for t in (winograd_tiles(node, target, points) if points else tiles(node, target))]


def with_schedule(body: Graph, schedule: Schedule, target: Target) -> Graph:
    """A kernel by another schedule: its packed operand, with all that belongs to it, comes in panels as wide as the tile."""
    node = contraction_of(body)
    width = schedule.vectors * target.lanes(max(32, compute_dtype(node.types[0].dtype).bits))
    panels: dict[Node, TensorType] = {}
    for unpack in (n for n in body.nodes if n.op in UNPACKING):
        (packed,) = unpack.inputs
        *batch, _, depth, _ = packed.shape
        shape = (*batch, ceildiv(unpack.types[0].shape[-1], width), depth, width)
        panels[packed.node] = packed.type.with_shape(shape)
    new: dict[Node, tuple[Value, ...]] = {}
    for n in body.nodes:
        if n in panels:
            new[n] = (input_value(n.attrs["name"], panels[n], n.loc),)
        elif n.op == "input":
            new[n] = n.outputs
        else:
            attrs = {**n.attrs, "tile": schedule.tile} if n is node else n.attrs
            new[n] = Node(n.op, tuple(new[v.node][v.index] for v in n.inputs), attrs, n.types, n.loc).outputs
    inputs = tuple(new[v.node][0] for v in body.inputs)
    return Graph(body.name, inputs, tuple(new[v.node][v.index] for v in body.outputs), body.output_names)
