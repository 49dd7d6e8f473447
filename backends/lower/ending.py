"""What surrounds the sums of a contraction in registers: what they start from, the epilogue on them, and the only store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Value
from ...ir.loops import Alloc, Buf, Const, Expr, For, Load, Names, Stmt, Store
from ...ir.scalar import LOOPS
from ...ir.types import DType, i32
from .access import Access, Bound, Index, linear, strides_of
from .contraction import epilogue
from .kernel import Params, const


@dataclass(frozen=True)
class Ending:
    """The epilogue of a contraction: pointwise, over collapsed dims, the last of which counts columns.

    start: the value that it starts from, of which the sums are of `dtype`; offset: what the sums themselves start from, by column.
    """

    graph: Graph
    start: Value
    dtype: DType
    offset: Value | None
    bound: Mapping[Value, Bound]
    outputs: tuple[Buf, ...]

    @property
    def shape(self) -> tuple:
        """Of the result, collapsed."""
        return self.start.shape

    def begin(
        self, names: Names, acc: Buf, at: Expr, vectors: int, lanes: int, column: Callable[[Expr], Expr], limit: Expr | None
    ) -> list[Stmt]:
        """Set `vectors` vectors of sums from acc[at] to what they start from.

        column: of the result, by column of these; limit: how many of these there are, if not all.
        """
        j, lane = names.var("j"), names.var("v")
        within = j * lanes + lane
        value: Expr = Const(0, acc.dtype)
        if self.offset is not None:
            index = (*(const(0) for _ in self.offset.shape[:-1]), column(within))
            value = self.bound[self.offset](index, None if limit is None else within < limit, 0)
        vector = For(lane, const(lanes), (Store(acc, at + within, value),), "vector")
        return [For(j, const(vectors), (vector,), "unroll")]

    def store(
        self, names: Names, acc: Buf, at: Expr, vectors: int, lanes: int, index: Callable[[Expr], Index], limit: Expr | None
    ) -> list[Stmt]:
        """The epilogue on `vectors` vectors of sums from acc[at], and the store: where it ends in bytes, of some vectors at a time.

        index: of the result, by column of these; limit: how many of these there are, if not all.
        """
        strides = strides_of(self.shape)

        def reads(within: Expr) -> Access:
            def read_sum(index: Index, mask: Expr | None, other: object) -> Expr:
                return LOOPS.cast(Load(acc, at + within), self.dtype)

            return Access({**self.bound, self.start: read_sum})

        whole = limit is None or (isinstance(limit, Const) and int(limit.value) == vectors * lanes)
        numbers, group = self._quantized(), next(n for n in (4, 2, 1) if vectors % n == 0)
        if numbers is not None and whole and group > 1:
            g, j, lane, byte = (names.var(hint) for hint in "gjvv")
            held = Buf(names.var("held").name, numbers.dtype, "reg", group * lanes)
            within, place = (g * group + j) * lanes + lane, index(g * (group * lanes) + byte)
            hold = Store(held, j * lanes + lane, reads(within).at(numbers, index(within)))
            narrowed = Access({**self.bound, numbers: lambda index, mask, other: Load(held, byte)})
            store = Store(self.outputs[0], linear(place, strides), narrowed.at(self.graph.outputs[0], place))
            several = For(j, const(group), (For(lane, const(lanes), (hold,), "vector"),), "unroll")
            vector = For(byte, const(group * lanes), (store,), "vector")
            return [Alloc(held), For(g, const(vectors // group), (several, vector), "unroll")]
        j, lane = names.var("j"), names.var("v")
        place, read = index(j * lanes + lane), reads(j * lanes + lane)
        results = zip(self.graph.outputs, self.outputs, strict=True)
        stores = tuple(Store(buf, linear(place, strides), read.at(value, place)) for value, buf in results)
        live = None if limit is None or whole else limit - j * lanes
        return [For(j, const(vectors), (For(lane, const(lanes), stores, "vector", limit=live),), "unroll")]

    def _quantized(self) -> Value | None:
        """The numbers that the only result, of bytes, is made from in the last step."""
        last = self.graph.outputs[0].node
        only = len(self.graph.outputs) == 1 and last.op == "quantize"
        return last.inputs[0] if only and last.types[0].dtype.bits == 8 else None


def ending(body: Graph, node: Node, params: Params) -> Ending:
    """The epilogue of a body's contraction.

    Integer sums start from what the epilogue adds to all of a column first: they wrap, so that the order of additions is free.
    """
    graph, start, bound = epilogue(body, node, dict(zip(body.inputs, params.inputs, strict=True)))
    dtype, users = node.types[0].dtype, graph.users[start.node]
    if len(users) == 1 and users[0].op == "add" and start.dtype is i32 and start not in graph.outputs:
        (add,) = users
        offset = next((v for v in add.inputs if v != start), start)
        by_column = offset != start and offset in bound and offset.shape == (*(1 for _ in start.shape[:-1]), start.shape[-1])
        if by_column and add.types[0].shape == start.shape:
            return Ending(graph, add.outputs[0], dtype, offset, bound, params.outputs)
    return Ending(graph, start, dtype, None, bound, params.outputs)
