"""The `depthwise` schedule: convolutions with one input channel for each group, channels last.

Bound by memory, so nothing is copied: a task is one line of the result; channels are the vector; a block of neighbouring pixels
shares each weight.  Taps that fall on the padding are skipped by bounds on the tap loops, not by reading zeros.  Weights of i8 that
come as i32 are multiplied with bytes of u8 by `dot4`, which takes one instruction with one product in four; `depthwise_dots.py` has
four products in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.dims import ceildiv, dim_product
from ...ir.graph import Graph, Node
from ...ir.loops import Alloc, Buf, Const, Expr, For, Let, Load, LoopFunction, Names, Stmt, Store, binary, size_expr
from ...ir.scalar import LOOPS, compute_dtype
from ...ir.types import i32, u8
from .access import Access, Index, linear, strides_of, unravel
from .contraction import contraction_of
from .ending import ending
from .grid import cells
from .kernel import const, function, parameters, spread

PIXELS = 4  # neighbouring results that share a weight in registers


def is_depthwise(node: Node) -> bool:
    """Whether a convolution has one input and one output channel for each group."""
    return node.op == "conv" and node.inputs[1].shape[1] == 1 and node.inputs[1].shape[0] == node.attrs.get("groups", 1) > 1


def lower_depthwise(body: Graph, lanes: int, grid: bool = False) -> LoopFunction:
    """Loops for a depthwise convolution whose weights come as [*kernel, channels], and its epilogue.

    On a grid one thread computes one result.
    """
    return Depthwise(body, 1).on_grid() if grid else Depthwise(body, lanes).lower()


@dataclass(frozen=True)
class Bounds:
    """The taps of an axis that read inside the image: the first, how many there are, and where tap 0 would read."""

    first: Expr
    count: Expr
    origin: Expr


class Depthwise:
    """A depthwise convolution by lines of its result."""

    def __init__(self, body: Graph, lanes: int):
        node = contraction_of(body)
        self.body, self.node, self.lanes = body, node, lanes
        self.names, self.params = Names(), parameters(body)
        self.dtype = compute_dtype(node.types[0].dtype)
        taps = node.inputs[1].node
        (self.weights,) = (taps.inputs[0].node if taps.op == "cast" else taps).inputs  # as they are packed
        buffers = dict(zip(body.inputs, self.params.inputs, strict=True))
        self.x, self.w = buffers[node.inputs[0]], buffers[self.weights]
        self.kernel = tuple(k for k in node.inputs[1].shape[2:] if isinstance(k, int))
        self.shape, self.source = node.types[0].shape, node.inputs[0].shape
        self.ending = ending(body, node, self.params)

    def lower(self) -> LoopFunction:
        """Loops in which a task is a line."""
        task = self.names.var("t")
        *lines, width, channels = self.shape
        position = unravel(task, lines)
        statements: list[Stmt] = []
        bounds = [self._bounds(statements, position, axis) for axis in range(len(self.kernel) - 1)]
        statements += self.channels(position, bounds)
        cost = size_expr(dim_product((width, channels, *self.kernel)))
        loop = For(task, size_expr(dim_product(lines)), tuple(statements), "parallel", cost=cost)
        return function(self.body, self.params, [loop])

    def channels(self, position: Index, bounds: Sequence[Bounds]) -> list[Stmt]:
        """All results of a line."""
        names, (*_, width, channels) = self.names, self.shape
        pads, steps, dilations = (self.node.attrs[a] for a in ("pads", "strides", "dilations"))

        def block(offset: Expr, lane: Expr) -> list[Stmt]:
            low, step, dilation = pads[-1][0], steps[-1], dilations[-1]
            span = dilation * (self.kernel[-1] - 1)
            # results first..last read no padding along the line
            first = binary("min", size_expr(ceildiv(low, step)), size_expr(width))
            inside = (size_expr(self.source[-2] + low) - (span + 1)) // step + 1  # results whose last tap is in the line
            last = binary("max", binary("min", inside, size_expr(width)), first)

            def run(at: Expr, pixels: int, checked: bool) -> list[Stmt]:
                return self._pixels(position, at, pixels, checked, bounds, offset, lane)

            left, groups, rest, right = (names.var("w") for _ in range(4))
            whole = (last - first) // PIXELS
            return [
                For(left, first, tuple(run(left, 1, True))),
                For(groups, whole, tuple(run(first + groups * PIXELS, PIXELS, False))),
                For(rest, last - first - whole * PIXELS, tuple(run(first + whole * PIXELS + rest, 1, False))),
                For(right, size_expr(width) - last, tuple(run(last + right, 1, True))),
            ]

        return spread(names, channels, self.lanes, block)

    def on_grid(self) -> LoopFunction:
        def one(index: Index) -> list[Stmt]:
            *position, at, channel = index
            statements: list[Stmt] = []
            bounds = [self._bounds(statements, position, axis) for axis in range(len(self.kernel) - 1)]
            return statements + self._pixels(position, at, 1, True, bounds, channel, const(0))

        return function(self.body, self.params, [cells(self.names, self.shape, one)])

    def _bounds(self, statements: list[Stmt], position: Sequence[Expr], axis: int) -> Bounds:
        """The taps of an axis that read inside the image for results at this position."""
        pads, steps = self.node.attrs["pads"], self.node.attrs["strides"]
        return self._taps(statements, position[1 + axis] * steps[axis] - size_expr(pads[axis][0]), axis)

    def _taps(self, statements: list[Stmt], origin: Expr, axis: int) -> Bounds:
        """The taps that read inside the image along an axis, for a result that starts at `origin`."""
        dilation = self.node.attrs["dilations"][axis]
        size, taps = size_expr(self.source[1 + axis]), const(self.kernel[axis])
        first, count, start = self.names.var("tap"), self.names.var("taps"), self.names.var("origin")
        statements.append(Let(start, origin))
        low = binary("max", const(0), (const(dilation - 1) - start) // dilation)
        high = binary("min", taps, (size - start + (dilation - 1)) // dilation)
        statements.append(Let(first, binary("min", low, taps)))
        statements.append(Let(count, binary("max", const(0), high - first)))
        return Bounds(first, count, start)

    def _pixels(
        self,
        position: Sequence[Expr],
        at: Expr,
        pixels: int,
        checked: bool,
        bounds: Sequence[Bounds],
        offset: Expr,
        lane: Expr,
    ) -> list[Stmt]:
        """`pixels` neighbouring results from `at`; `checked`: taps along the line may fall outside."""
        names, lanes = self.names, self.lanes
        pads, steps, dilations = (self.node.attrs[a] for a in ("pads", "strides", "dilations"))
        acc = Buf(names.var("acc").name, self.dtype, "reg", pixels * lanes)
        statements: list[Stmt] = [Alloc(acc)]
        begin: Expr = Const(0, self.dtype)
        if self.ending.offset is not None:
            begin = self.ending.bound[self.ending.offset]((*(const(0) for _ in self.ending.offset.shape[:-1]), offset + lane), None, 0)
        statements += [Store(acc, const(q * lanes) + lane, begin) for q in range(pixels)]
        line = at * steps[-1] - size_expr(pads[-1][0])
        all_bounds = list(bounds)
        if checked:
            all_bounds.append(self._taps(statements, line, len(self.kernel) - 1))
        x_strides, w_strides = strides_of(self.source), strides_of((*self.kernel, self.shape[-1]))

        def tap(k: tuple[Expr, ...]) -> list[Stmt]:
            taps = [b.first + i for b, i in zip(all_bounds, k, strict=False)] + list(k[len(all_bounds) :])
            weight = Load(self.w, linear((*taps, offset + lane), w_strides))
            result: list[Stmt] = []
            for q in range(pixels):
                origins = [*(b.origin for b in bounds), line + q * steps[-1]]
                inside = [o + t * d for o, t, d in zip(origins, taps, dilations, strict=True)]
                x = Load(self.x, linear((position[0], *inside, offset + lane), x_strides))
                slot = const(q * lanes) + lane
                a, b, old = LOOPS.cast(x, self.dtype), LOOPS.cast(weight, self.dtype), Load(acc, slot)
                dot = x.dtype is u8 and weight.dtype is i32
                total = LOOPS.dot4(a, b, old) if dot else LOOPS.fma(a, b, old) if self.dtype.is_float else old + a * b
                result.append(Store(acc, slot, total))
            return result

        free = self.kernel[len(all_bounds) :]
        counts = [b.count for b in all_bounds]
        variables = [names.var("k") for _ in counts]
        body: list[Stmt] = []
        if free:
            for k in range(free[0]):
                body += tap((*variables, const(k)))
        else:
            body = tap(tuple(variables))
        for v, n in reversed(list(zip(variables, counts, strict=True))):
            body = [For(v, n, tuple(body))]
        statements += body
        for q in range(pixels):
            statements += self._store(position, at + q, acc, q, offset, lane)
        return statements

    def _store(self, position: Sequence[Expr], at: Expr, acc: Buf, q: int, offset: Expr, lane: Expr) -> list[Stmt]:
        def read_sum(index: Index, mask: Expr | None, other: object) -> Expr:
            return LOOPS.cast(Load(acc, const(q * self.lanes) + lane), self.node.types[0].dtype)

        ending, shape = self.ending, self.ending.shape
        reads = Access({**ending.bound, ending.start: read_sum})
        row = linear((*position, at), strides_of(self.shape[:-1]))
        index = (*unravel(row, shape[:-1]), offset + lane)
        results = zip(ending.graph.outputs, ending.outputs, strict=True)
        return [Store(buf, linear(index, strides_of(shape)), reads.at(value, index)) for value, buf in results]
