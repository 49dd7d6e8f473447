"""Depthwise convolutions of bytes by `dot4`: four neighbouring pixels of a line are interleaved; a word holds those of one channel.

    word[c] = x[4w][c], x[4w + 1][c], x[4w + 2][c], x[4w + 3][c]        sum[r][c] += dot4(word[c], weights[w, r][c])

Such a window serves all results of a block: their weights are packed once for each place that they have in it, with zeros around them
(`pack_windows`).  A block is as many neighbouring results as the fewest windows that one needs have room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Node
from ...ir.loops import Alloc, Buf, Const, Expr, For, If, Interleave, Let, Load, LoopFunction, Stmt, Store, Word, binary, size_expr
from ...ir.scalar import LOOPS
from ...ir.types import i8, i32, u8
from ..target import Target
from .access import Index, linear, strides_of, unravel
from .contraction import DOT
from .depthwise import Bounds, Depthwise
from .kernel import const

REGISTERS = 8  # for each result of a block: with a window and the weights
BYTE_MASKS = 512  # bits of the registers of processors that leave out single bytes


@dataclass(frozen=True)
class Windows:
    """How many windows of four pixels one result needs, and how many results share them."""

    count: int
    results: int


def windows_for(node: Node, target: Target) -> Windows | None:
    """The windows of a depthwise convolution, or None where it is not of bytes, or `dot4` no instruction, or gains nothing."""
    x, w = node.inputs
    if target.dot4 not in ("vpdpbusd", "usdot") or (x.dtype, w.dtype) != (u8, i8) or not w.is_const:
        return None
    channels, *_, taps = w.array.shape
    block = DOT * target.lanes(i32.bits)
    if taps == 1 or (target.vector_bits < BYTE_MASKS and channels % block):
        return None
    count = -(-taps // DOT)
    room = (DOT * count - taps) // node.attrs["strides"][-1] if node.attrs["dilations"][-1] == 1 else 0
    return Windows(count, min(1 + room, target.registers // REGISTERS))


def reads_windows(node: Node) -> bool:
    """Whether the weights of a convolution come as windows."""
    return node.inputs[1].node.op == "unpack_windows"


def lower_depthwise_dots(body: Graph, target: Target) -> LoopFunction:
    """Loops for a depthwise convolution of u8 whose weights come as i32[*kernel but the last, windows, results, channels]."""
    return _DepthwiseDots(body, target.lanes(i32.bits)).lower()


class _DepthwiseDots(Depthwise):
    def __init__(self, body: Graph, lanes: int):
        super().__init__(body, lanes)
        *_, self.count, self.results, self.depth = (d for d in self.weights.shape if isinstance(d, int))
        self.taps, self.block = self.kernel[-1], DOT * self.lanes
        (self.low, _), self.step, self.dilation = (self.node.attrs[a][-1] for a in ("pads", "strides", "dilations"))
        self.used = (self.results - 1) * self.step + self.taps  # pixels of the windows that some result reads

    def channels(self, position: Index, bounds: Sequence[Bounds]) -> list[Stmt]:
        """All results of a line."""
        left, number = self.depth % self.block, self.names.var("c")
        whole = For(number, const(self.depth // self.block), tuple(self._line(position, bounds, number * self.block, self.block)))
        return [whole, *(self._line(position, bounds, const(self.depth - left), left) if left else [])]

    def _line(self, position: Index, bounds: Sequence[Bounds], offset: Expr, channels: int) -> list[Stmt]:
        """All results of a line, for some channels from `offset`."""
        width, pixels = size_expr(self.shape[-2]), size_expr(self.source[-2])
        advance = self.results * self.step  # pixels from block to block
        blocks = (width + (self.results - 1)) // self.results
        # blocks first..last read no padding and make results that all exist
        first = binary("min", const(-(-self.low // advance)), blocks)
        inside = (pixels + self.low - (self.used - 1) * self.dilation - 1) // advance + 1
        last = binary("max", binary("min", inside, width // self.results), first)
        statements: list[Stmt] = []
        for begin, end, checked in ((const(0), first, True), (first, last, False), (last, blocks, True)):
            b = self.names.var("b")
            at = (begin + b) * self.results
            statements.append(For(b, end - begin, tuple(self._block(position, bounds, at, offset, channels, checked))))
        return statements

    def _block(self, position: Index, bounds: Sequence[Bounds], at: Expr, offset: Expr, channels: int, checked: bool) -> list[Stmt]:
        """A block of neighbouring results from `at`; checked: some may not exist, or read pixels that do not."""
        names, lanes = self.names, self.lanes
        vectors = -(-channels // lanes)
        size = vectors * lanes
        limit = None if channels == size else const(channels)
        acc = Buf(names.var("acc").name, i32, "reg", self.results * size)
        origin = names.var("x")
        statements: list[Stmt] = [Alloc(acc), Let(origin, at * self.step - self.low)]
        for r in range(self.results):
            statements += self.ending.begin(names, acc, const(r * size), vectors, lanes, lambda c: offset + c, limit)

        def line(k: Sequence[Expr]) -> list[Stmt]:
            taps = [b.first + i for b, i in zip(bounds, k, strict=True)]
            y = [b.origin + t * d for b, t, d in zip(bounds, taps, self.node.attrs["dilations"], strict=False)]
            result: list[Stmt] = []
            for w in range(self.count):
                tile = Buf(names.var("window").name, u8, "reg", DOT * self.block)
                result += self._window(tile, (position[0], *y), origin, w, offset, channels, checked)
                for r in range(self.results):
                    for j in range(vectors):
                        v = names.var("v")
                        weights = Load(
                            self.w, linear((*taps, const(w), const(r), offset + j * lanes + v), strides_of(self.weights.shape))
                        )
                        slot = const(r * size + j * lanes) + v
                        total = LOOPS.dot4(Word(tile, (j * lanes + v) * DOT), weights, Load(acc, slot))
                        live = const(channels - j * lanes) if channels < (j + 1) * lanes else None
                        result.append(For(v, const(lanes), (Store(acc, slot, total),), "vector", limit=live))
            return result

        variables = [names.var("k") for _ in bounds]
        lines = line(variables)
        for variable, bound in reversed(list(zip(variables, bounds, strict=True))):
            lines = [For(variable, bound.count, tuple(lines))]
        statements += lines
        shape = self.ending.shape
        for r in range(self.results):
            row = linear((*position, at + r), strides_of(self.shape[:-1]))

            def index(c: Expr, row: Expr = row) -> Index:
                return (*unravel(row, shape[:-1]), offset + c)

            stores = self.ending.store(names, acc, const(r * size), vectors, lanes, index, limit)
            statements += [If(at + r < size_expr(self.shape[-2]), tuple(stores))] if checked else stores
        return statements

    def _window(self, tile: Buf, line: Index, origin: Expr, window: int, offset: Expr, channels: int, checked: bool) -> list[Stmt]:
        """Four pixels of a line, interleaved in `tile`; zeros for those that do not exist or that no result reads."""
        names, block = self.names, self.block
        statements: list[Stmt] = [Alloc(tile)]
        for i in range(DOT):
            t = window * DOT + i
            v = names.var("v")
            zeros = For(v, const(block), (Store(tile, const(i * block) + v, Const(0, u8)),), "vector")
            if t >= self.used:
                statements.append(zeros)
                continue
            x = origin + t * self.dilation
            pixel = Load(self.x, linear((*line, x, offset + v), strides_of(self.source)))
            live = None if channels == block else const(channels)
            read = For(v, const(block), (Store(tile, const(i * block) + v, pixel),), "vector", limit=live)
            exists = (const(-1) < x) & (x < size_expr(self.source[-2]))
            statements.append(If(exists, (read,), (zeros,)) if checked else read)
        return [*statements, Interleave(tile, DOT, block)]
