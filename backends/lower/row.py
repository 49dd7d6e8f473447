"""The `row` template: reductions over the same axes, with pointwise work before, between and after (softmax, norms, pooling, argmax).

The kept axes are tasks; one *row* is the reduced axes at one kept index.  Nodes are staged by how many reductions they follow; each
stage is one loop over the row that folds the stage's reductions, stores its outputs and keeps what later stages would otherwise
recompute at a cost.  The vector runs along the row where the row is innermost, else along the last kept axis.  A fixed number of
partial results per row, joined in a fixed order, makes the result the same for any thread count and batch position.  On a grid
a block of threads holds these partial results, one each, so the bits are the same there too; where the vector would run along
the kept axis, a thread takes a row of its own.

Rows whose results are stored past the caches overlap: while one is stored, the next is in the stage before, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, ceildiv, dim_product, least_size
from ...ir.errors import CodegenError
from ...ir.graph import Graph, Node, Value
from ...ir.loops import (
    Alloc,
    Barrier,
    Buf,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    LoopFunction,
    Names,
    Scalar,
    Stmt,
    Store,
    Var,
    as_expr,
    binary,
    size_expr,
)
from ...ir.ops.registry import Reduction, op_def
from ...ir.scalar import LOOPS, compute_dtype
from .access import Access, Bound, Index, linear, strides_of, unravel
from .grid import blocks, cells
from .kernel import access, const, function, loops, operations, parameters, reaches, remainder, spread, spread_block
from .stream import ahead, alignment, large, streamable, versions

LINES = 16  # of rows side by side; where there are fewer, tasks are strips of a line,
STRIP = 2  # so many vectors wide
PARTIAL = 4  # partial vectors per row: hides the latency of an addition
TOGETHER = 1 << 16  # elements of the rows of a task whose results are too large for any cache
SHARED_ROW_BYTES = 16384  # of values that a block keeps for later stages
EXPENSIVE = frozenset("exp log tanh sigmoid erf gelu silu softplus mish pow sin cos div sqrt".split())

Element = Callable[[Sequence[Expr], Expr, Expr | None], list[Stmt]]  # (index within a row, slot of partial results, live) -> statements


@dataclass(frozen=True)
class Shape:
    """How the body's full shape splits into kept and reduced axes."""

    full: tuple[Dim, ...]
    axes: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes that are not reduced."""
        return tuple(k for k in range(len(self.full)) if k not in self.axes)

    def join(self, kept: Sequence[Expr], reduced: Sequence[Expr]) -> Index:
        """An index of the full shape from its two parts."""
        index: list[Expr] = [const(0)] * len(self.full)
        for k, e in zip(self.kept, kept, strict=True):
            index[k] = e
        for k, e in zip(self.axes, reduced, strict=True):
            index[k] = e
        return tuple(index)


def row_shape(body: Graph) -> Shape:
    """The shape of the body's reductions.  Raises CodegenError where they differ."""
    shapes = {Shape(n.inputs[0].shape, tuple(n.attrs["axes"])) for n in body.nodes if op_def(n.op).kind == "reduction"}
    if len(shapes) != 1:
        raise CodegenError(f"kernel {body.name}: its reductions are over different axes")
    return next(iter(shapes))


def stages(body: Graph) -> dict[Value, int]:
    """value -> how many reductions it follows."""
    stage: dict[Value, int] = {}
    for node in body.nodes:
        level = max((stage[v] for v in node.inputs), default=0)
        for v in node.outputs:
            stage[v] = level + (op_def(node.op).kind == "reduction")
    return stage


def lower_row(body: Graph, lanes: int, grid: bool = False) -> LoopFunction:
    """Loops for a body with reductions over common axes; outputs have the full shape or the reduced one."""
    shape = row_shape(body)
    names = Names()
    params = parameters(body)
    reads = access(body, params)
    along = _vector_along_row(body, shape)
    kept_sizes = [shape.full[k] for k in shape.kept]
    outputs = dict(zip(body.outputs, params.outputs, strict=True))
    if grid:
        return function(body, params, [_on_grid(body, shape, names, params.inputs, reads, lanes, along, outputs)])
    emit = _Row(body, shape, names, params.inputs, outputs, reads, lanes, along)
    task = names.var("t")
    work = size_expr(dim_product([shape.full[k] for k in shape.axes])) * operations(body)
    if along:
        return function(body, params, [emit.rows_along(task, kept_sizes, work)])
    *lines, width = kept_sizes
    count, strip = dim_product(lines), STRIP * lanes
    few = least_size(count) < LINES  # with the least sizes: a batch of one
    if not few or (isinstance(width, int) and width <= strip):
        outer = unravel(task, lines)
        statements = spread(names, width, lanes, lambda offset, lane: emit.row((*outer, offset + lane), lane))
        loop = For(task, size_expr(count), tuple(statements), "parallel", cost=work * size_expr(width))
        return function(body, params, [loop])
    strips = ceildiv(width, strip)
    *outer, number = unravel(task, (*lines, strips))
    statements = spread_block(names, width, strip, number, lanes, lambda offset, lane: emit.row((*outer, offset + lane), lane))
    loop = For(task, size_expr(count * strips), tuple(statements), "parallel", cost=work * strip)
    return function(body, params, [loop])


def row_in_scratch(
    body: Graph, names: Names, bound: Mapping[Value, Bound], kept: Sequence[Expr], lanes: int, scratch: Buf, start: Expr
) -> list[Stmt]:
    """The stages of one row along the last axis, for a template that holds rows in scratch memory: the one result, of the full shape,
    goes there from `start` on.  bound: how the inputs are read.
    """
    emit = _Row(body, row_shape(body), names, (), {body.outputs[0]: scratch}, Access(bound), lanes, True, start=start)
    return emit.row(tuple(kept), const(0))


def _on_grid(
    body: Graph, shape: Shape, names: Names, inputs: Sequence[Buf], reads: Access, lanes: int, along: bool, outputs: dict[Value, Buf]
) -> For:
    """A block for each row, or a thread for each where neighbouring rows are neighbours in memory."""
    kept_sizes = [shape.full[k] for k in shape.kept]
    if not along:
        emit = _Row(body, shape, names, inputs, outputs, reads, 1, along, keep=False)
        return cells(names, kept_sizes, lambda kept: emit.row(kept, const(0)))
    block, thread = names.var("row"), names.var("thread")
    emit = _Row(body, shape, names, inputs, outputs, reads, lanes, along, thread)
    statements = emit.row(unravel(block, kept_sizes), const(0))
    return blocks(block, dim_product(kept_sizes), thread, lanes * PARTIAL, statements)


def _vector_along_row(body: Graph, shape: Shape) -> bool:
    """Whether neighbouring elements of a row are neighbours in memory."""
    if not shape.kept:
        return True
    if len(shape.full) - 1 not in shape.axes:
        return False
    operands = [n.inputs[0] for n in body.nodes if op_def(n.op).kind == "reduction"]
    return not any(reaches(body, "window", v) for v in operands)


@dataclass(frozen=True)
class _Stage:
    """One loop over a row: what comes before it, at each of its elements, for each group of vectors, and after it.

    partial: vectors of partial results, as many as a group has; reads: where values lie after it.
    """

    begin: list[Stmt]
    element: Element
    ask: Callable[[Sequence[Expr]], list[Stmt]]
    end: list[Stmt]
    partial: int
    reads: Access


class _Row:
    """Emits the stages of one row (or of `lanes` rows side by side).

    With `thread` the partial results of a row are with the threads of a block, each of which runs these statements.  With `start` the
    result of full shape is one row in scratch memory, from there on.
    """

    def __init__(
        self,
        body: Graph,
        shape: Shape,
        names: Names,
        inputs: Sequence[Buf],
        outputs: dict[Value, Buf],
        reads: Access,
        lanes: int,
        along: bool,
        thread: Var | None = None,
        keep: bool = True,
        start: Expr | None = None,
    ):
        self.body, self.shape, self.names, self.inputs, self.outputs, self.reads = body, shape, names, inputs, outputs, reads
        self.lanes, self.along, self.thread, self.start = lanes, along, thread, start
        self.stage = stages(body)
        self.reductions = [n for n in body.nodes if op_def(n.op).kind == "reduction"]
        self.sizes = [shape.full[k] for k in shape.axes]
        self.kept_values = self._values_to_keep() if keep else []

    def _is_full(self, v: Value) -> bool:
        return v.shape == self.shape.full and v not in self._reduced

    @property
    def _reduced(self) -> set[Value]:
        return {n.outputs[0] for n in self.reductions}

    def _values_to_keep(self) -> list[Value]:
        """Expensive values of the full shape that a later stage reads again."""
        kept: list[Value] = []
        for node in self.body.nodes:
            v = node.outputs[0]
            if op_def(node.op).kind != "pointwise" or node.op not in EXPENSIVE or not self._is_full(v):
                continue
            if any(self._used_after(v, self.stage[v])) and self._has_room([*kept, v]):
                kept.append(v)
        return kept

    def _has_room(self, values: list[Value]) -> bool:
        """A block has little memory, of a size that must be known; without room a value is computed again."""
        row = dim_product(self.sizes)
        return self.thread is None or (isinstance(row, int) and row * sum(v.dtype.itemsize for v in values) <= SHARED_ROW_BYTES)

    def _used_after(self, v: Value, stage: int) -> list[bool]:
        """Whether each transitive pointwise user of a value stands in a later stage."""
        found: list[bool] = []
        stack, seen = [v.node], {v.node}
        while stack:
            for user in self.body.users[stack.pop()]:
                if user in seen:
                    continue
                seen.add(user)
                later = self.stage[user.outputs[0]] > stage and op_def(user.op).kind != "reduction"
                found.append(later)
                if op_def(user.op).kind != "reduction" and not later:
                    stack.append(user)
        return found

    def rows_along(self, task: Var, kept_sizes: Sequence[Dim], work: Expr) -> For:
        """Tasks of a row each; of several where results are too large for any cache, so that one row is stored beside the next."""
        full, count = self.shape.full, dim_product(kept_sizes)
        size, buffers = dim_product(full), [b for v, b in self.outputs.items() if self._is_full(v)]
        streams = streamable(buffers, size, full[-1:], self.lanes, operations(self.body))
        if isinstance(streams, Const):
            statements = self.row(unravel(task, kept_sizes), const(0))
            return For(task, size_expr(count), tuple(statements), "parallel", cost=work)
        several = binary("max", const(TOGETHER) // size_expr(dim_product(self.sizes)), 1)
        together = LOOPS.where(large(buffers, size), several, const(1))
        first = task * together
        rows = binary("min", together, size_expr(count) - first)

        def make(stream: bool) -> list[Stmt]:
            if stream and self._overlaps():
                return self._overlapped(lambda row: unravel(first + row, kept_sizes), rows)
            row = self.names.var("row")
            return [For(row, rows, tuple(self.row(unravel(first + row, kept_sizes), const(0), stream)))]

        tasks = (size_expr(count) + (together - 1)) // together
        return For(task, tasks, tuple(versions(streams, make)), "parallel", cost=work * together)

    def row(self, kept: Index, lane: Expr, stream: bool = False) -> list[Stmt]:
        """All stages for one kept index; `lane` tells rows side by side apart (0 where the vector runs along the row)."""
        reads = Access(self.reads.bound)
        scratch = self._scratch()
        statements: list[Stmt] = [Alloc(b) for b in scratch.values()]
        for level in range(self._last() + 1):
            stage = self._stage(level, kept, lane, scratch, reads, stream)
            if stage is not None:
                statements += [*stage.begin, *self._loop(stage, lane, stream), *stage.end]
        return [*statements, *self._store_reduced(kept, reads)]

    def _overlaps(self) -> bool:
        """Whether rows can be computed as `_overlapped` does: one lies behind the other, each stage has but the results of those before
        it to wait for, and what is kept is read by the next stage only.
        """
        last = self._last()
        stored = all(self.stage[n.inputs[0]] < last for n in self.reductions)
        return last > 0 and stored and self._rows_follow() and all(self.stage[v] == last - 1 for v in self.kept_values)

    def _overlapped(self, kept_at: Callable[[Expr], Index], rows: Expr) -> list[Stmt]:
        """Neighbouring rows, each a stage behind the one before it, so that one loop has all stages, each for another row.

        Reading, arithmetic and storing past the caches are then under way all the time; a stage of stores alone would fill the queue
        in which those of kept values have to wait too.
        """
        last = self._last()
        scratch = self._scratch()
        results: dict[Value, list[Buf]] = {}  # of the rows before, the newest first, back to that which is in its last stage
        for v in (n.outputs[0] for n in self.reductions):
            results[v] = [Buf(self.names.var("was").name, v.dtype, "reg", 1) for _ in range(last - self.stage[v] + 1)]
        step = self.names.var("step")
        stages: list[tuple[Expr, _Stage]] = []
        for level in range(last + 1):
            reads = Access(self.reads.bound)
            for v, b in scratch.items():
                if self.stage[v] < level:
                    reads.bind(v, self._kept_read(b, const(0)))
            for v, was in results.items():
                if self.stage[v] <= level:
                    reads.bind(v, _scalar_read(was[level - self.stage[v]], const(0)))
            row = step - level
            stage = self._stage(level, kept_at(row), const(0), scratch, reads, True)
            assert stage is not None, "a stage ends with a reduction or stores"
            stages.append((row, stage))

        def ask(reduced: Sequence[Expr]) -> list[Stmt]:
            return [s for _, stage in stages for s in stage.ask(reduced)]

        # the last stage first: it reads kept values before the next row's take their place
        parts = [((const(0) <= row) & (row < rows), stage.element) for row, stage in reversed(stages)]
        body: list[Stmt] = [s for _, stage in stages for s in stage.begin]
        body += self._loop_along(parts, PARTIAL, True, ask)
        body += [s for _, stage in stages for s in stage.end]
        final = step - last
        stored = self._store_reduced(kept_at(final), stages[-1][1].reads)
        body += [If(const(0) <= final, tuple(stored))] if stored else []
        for v, was in results.items():
            body += [Store(older, const(0), Load(b, const(0))) for b, older in zip(was[-2::-1], was[:0:-1], strict=True)]
            body.append(Store(was[0], const(0), stages[self.stage[v] - 1][1].reads.at(v, ())))
        allocated = [*scratch.values(), *(b for was in results.values() for b in was)]
        return [*(Alloc(b) for b in allocated), For(step, rows + last, tuple(body))]

    def _last(self) -> int:
        """The number of the last stage."""
        return max([self.stage[v] for v in self.outputs if self._is_full(v)] + [self.stage[n.outputs[0]] - 1 for n in self.reductions])

    def _scratch(self) -> dict[Value, Buf]:
        """Memory for the values to keep."""
        size = dim_product(self.sizes) if self.along else dim_product(self.sizes) * self.lanes
        space = "local" if self.thread is None else "shared"
        return {v: Buf(self.names.var("keep").name, v.dtype, space, size) for v in self.kept_values}

    def _row_index(self, reduced: Sequence[Expr]) -> Expr:
        return linear(reduced, strides_of(self.sizes))

    def _stage(self, level: int, kept: Index, row_lane: Expr, scratch: dict[Value, Buf], reads: Access, stream: bool) -> _Stage | None:
        """What one loop over a row does, or None where there is nothing to do; its `end` is what later stages may read of `reads`."""
        folding = [n for n in self.reductions if self.stage[n.inputs[0]] == level]
        keeping = [v for v in scratch if self.stage[v] == level]
        storing = [(v, b) for v, b in self.outputs.items() if self._is_full(v) and self.stage[v] == level]
        if not folding and not keeping and not storing:
            return None
        partial = PARTIAL if self.along and folding and self.thread is None else 1
        states = {n: self._states(n, partial) for n in folding}
        begin = [s for n in folding for s in self._initialize(n, states[n], partial, row_lane)]
        before, within = Access(reads.bound), Access(reads.bound)  # what was computed for an element and kept is read back
        for v in keeping:
            within.bind(v, self._kept_read(scratch[v], row_lane))

        def element(reduced: Sequence[Expr], slot: Expr, live: Expr | None) -> list[Stmt]:
            index = self.shape.join(kept, reduced)
            position = self._row_index(reduced)
            inner: list[Stmt] = []
            for v in keeping:
                offset = position if self.along else position * self.lanes + row_lane
                inner.append(Store(scratch[v], offset, before.at(v, index)))
            for v, b in storing:
                past = alignment(b, self.lanes) if stream else 0
                place = linear(index, strides_of(v.shape)) if self.start is None else self.start + position
                inner.append(Store(b, place, within.at(v, index), stream=past))
            for n in folding:
                inner += self._fold(n, states[n], within.at(n.inputs[0], index), position, slot, live)
            return inner

        def ask(reduced: Sequence[Expr]) -> list[Stmt]:
            """Rows lie behind each other; the first stage asks for all."""
            if not stream or level or not self._rows_follow():
                return []
            index = linear(self.shape.join(kept, reduced), strides_of(self.shape.full))
            return ahead(self.body, self.inputs, self.shape.full, index, self.lanes * partial)

        for v in keeping:
            reads.bind(v, self._kept_read(scratch[v], row_lane))
        end = [s for n in folding for s in self._finish(n, states[n], partial, row_lane, reads)]
        return _Stage(begin, element, ask, end, partial, reads)

    def _loop(self, stage: _Stage, lane: Expr, stream: bool) -> list[Stmt]:
        """All elements of a row."""
        if self.thread is not None:
            return self._loop_threads(stage.element, self.thread)
        if self.along:
            return self._loop_along([(None, stage.element)], stage.partial, stream, stage.ask)
        return loops(self.names, self.sizes, lambda reduced: stage.element(reduced, lane, None), "r")

    def _rows_follow(self) -> bool:
        """Whether each row lies behind the one before it in memory."""
        return self.shape.axes[0] == len(self.shape.kept)

    def _kept_read(self, buf: Buf, lane: Expr) -> Bound:
        def read(index: Index, mask: Expr | None, other: Scalar) -> Expr:
            offset = self._row_index([index[k] for k in self.shape.axes])
            return Load(buf, offset if self.along else offset * self.lanes + lane)

        return read

    def _states(self, n: Node, partial: int) -> list[Buf]:
        dtypes = _monoid(n).state_dtypes(compute_dtype(n.inputs[0].dtype))
        size = self.lanes * partial if self.thread is None else 1
        return [Buf(self.names.var("acc").name, d, "reg", size) for d in dtypes]

    def _initialize(self, n: Node, states: list[Buf], partial: int, row_lane: Expr) -> list[Stmt]:
        values = _monoid(n).init(compute_dtype(n.inputs[0].dtype))
        statements: list[Stmt] = [Alloc(b) for b in states]
        for b, value in zip(states, values, strict=True):
            start = as_expr(value, b.dtype)
            if self.along and self.thread is None:
                part, lane = self.names.var("u"), self.names.var("v")
                vector = For(lane, const(self.lanes), (Store(b, part * self.lanes + lane, start),), "vector")
                statements.append(For(part, const(partial), (vector,), "unroll"))
            else:
                statements.append(Store(b, row_lane, start))
        return statements

    def _fold(self, n: Node, states: list[Buf], x: Expr, position: Expr, slot: Expr, live: Expr | None) -> list[Stmt]:
        """One step of a reduction; lanes that are not live keep their state."""
        old = tuple(Load(b, slot) for b in states)
        new = _monoid(n).step(LOOPS, old, LOOPS.cast(x, compute_dtype(x.dtype)), position)
        if live is not None:
            new = tuple(LOOPS.where(live, e, o) for e, o in zip(new, old, strict=True))
        return self._assign(states, slot, new)

    def _assign(self, states: list[Buf], slot: Expr, new: Sequence[Expr]) -> list[Stmt]:
        """Store all parts of a state at once: no part sees another's new value."""
        if len(states) == 1:
            return [Store(states[0], slot, new[0])]
        lets = [Let(self.names.var("new", b.dtype), e) for b, e in zip(states, new, strict=True)]
        return [*lets, *(Store(b, slot, let.var) for b, let in zip(states, lets, strict=True))]

    def _loop_along(
        self, parts: Sequence[tuple[Expr | None, Element]], partial: int, whole: bool, ask: Callable[[Sequence[Expr]], Sequence[Stmt]]
    ) -> list[Stmt]:
        """The vector runs along the last reduced axis; outer reduced axes are serial loops around it.

        parts: what happens to a group of `partial` vectors, one after another, each where its condition holds; whole: the length of
        that axis is known to be a multiple of the vector's; ask: what comes before each group.
        """
        names, lanes = self.names, self.lanes
        *outer, length = self.sizes

        def group(prefix: tuple[Expr, ...], begin: Expr, vectors: int) -> list[Stmt]:
            statements: list[Stmt] = []
            for condition, element in parts:
                u, v = names.var("u"), names.var("v")
                slot = u * lanes + v
                vector = For(v, const(lanes), tuple(element((*prefix, begin + slot), slot, None)), "vector")
                loop = For(u, const(vectors), (vector,), "unroll")
                statements.append(loop if condition is None else If(condition, (loop,)))
            return statements

        def inner(prefix: tuple[Expr, ...]) -> list[Stmt]:
            statements: list[Stmt] = []
            extent = size_expr(length)
            groups = extent // (lanes * partial)
            if not (isinstance(groups, Const) and groups.value == 0):
                q = names.var("q")
                begin = q * (lanes * partial)
                statements.append(For(q, groups, (*ask((*prefix, begin)), *group(prefix, begin, partial))))
            start = groups * (lanes * partial)
            rest = (extent - start) // lanes
            if not (isinstance(rest, Const) and rest.value == 0):
                q = names.var("q")
                statements.append(For(q, rest, tuple(group(prefix, start + q * lanes, 1))))
            tail = extent % lanes
            if not whole and not (isinstance(tail, Const) and tail.value == 0):

                def last(at: Expr, lane: Var) -> list[Stmt]:
                    return [s for _, element in parts for s in element((*prefix, at + lane), lane, lane < tail)]

                statements += remainder(names, tail, extent - tail, lanes, last)
            return statements

        return loops(names, outer, inner, "r")

    def _loop_threads(self, element: Callable[..., list[Stmt]], thread: Var) -> list[Stmt]:
        """Elements go to the thread that stands for the slot that `_loop_along` would use."""
        names, lanes = self.names, self.lanes
        threads = lanes * PARTIAL
        *outer, length = self.sizes

        def inner(prefix: tuple[Expr, ...]) -> list[Stmt]:
            extent = size_expr(length)
            groups, tail = extent // threads, extent % lanes
            whole = groups * threads
            rest = (extent - whole) // lanes
            statements: list[Stmt] = []

            def add(count: Expr, stmt: Callable[[], Stmt]) -> None:
                if not (isinstance(count, Const) and count.value == 0):
                    statements.append(stmt())

            def over(count: Expr, at: Callable[[Expr], Expr]) -> For:
                q = names.var("q")
                return For(q, count, tuple(element((*prefix, at(q)), const(0), None)))

            add(groups, lambda: over(groups, lambda q: q * threads + thread))
            add(rest, lambda: If(thread < lanes, (over(rest, lambda q: whole + q * lanes + thread),)))
            add(tail, lambda: If(thread < tail, tuple(element((*prefix, extent - tail + thread), const(0), None))))
            return statements

        return loops(names, outer, inner, "r")

    def _join_threads(self, n: Node, states: list[Buf], thread: Var) -> list[Stmt]:
        """The partial results of the block by the tree of `_finish`, in shared memory; every thread gets the result."""
        monoid = _monoid(n)
        half = self.lanes * PARTIAL // 2
        shared = [Buf(self.names.var("part").name, b.dtype, "shared", 2 * half) for b in states]
        statements: list[Stmt] = [Alloc(b) for b in shared]
        statements += [Store(b, thread, Load(own, const(0))) for b, own in zip(shared, states, strict=True)]
        statements.append(Barrier())
        while half:
            a, z = (tuple(Load(b, thread + k) for b in shared) for k in (0, half))
            merged = self._assign(shared, thread, monoid.merge(LOOPS, a, z))
            statements += [If(thread < half, tuple(merged)), Barrier()]
            half //= 2
        return [*statements, *(Store(own, const(0), Load(b, const(0))) for b, own in zip(shared, states, strict=True))]

    def _finish(self, n: Node, states: list[Buf], partial: int, row_lane: Expr, reads: Access) -> list[Stmt]:
        """Join the partial results by a fixed tree of halves and keep the finished scalar for readers."""
        monoid = _monoid(n)
        statements: list[Stmt] = []
        half = self.lanes * partial // 2 if self.along else 0
        if self.thread is not None:
            statements += self._join_threads(n, states, self.thread)
            half = 0
        while half:
            width = min(half, self.lanes)
            for first in range(0, half, width):
                lane = self.names.var("v")
                a = tuple(Load(b, lane + first) for b in states)
                z = tuple(Load(b, lane + (first + half)) for b in states)
                merged = self._assign(states, lane + first, monoid.merge(LOOPS, a, z))
                statements.append(For(lane, const(width), tuple(merged), "vector"))
            half //= 2
        result = n.outputs[0]
        final = Buf(self.names.var("red").name, result.dtype, "reg", 1 if self.along else self.lanes)
        value = LOOPS.cast(monoid.finish(LOOPS, tuple(Load(b, row_lane) for b in states)), result.dtype)
        reads.bind(result, _scalar_read(final, row_lane))
        return [*statements, Alloc(final), Store(final, row_lane, value)]

    def _store_reduced(self, kept: Sequence[Expr], reads: Access) -> list[Stmt]:
        """Store the outputs that have one element for a row."""
        statements: list[Stmt] = []
        for v, b in self.outputs.items():
            if not self._is_full(v):
                full_rank = len(v.shape) == len(self.shape.full)
                index = self.shape.join(kept, [const(0)] * len(self.shape.axes)) if full_rank else tuple(kept)
                store = Store(b, linear(index, strides_of(v.shape)), reads.at(v, index))
                statements.append(store if self.thread is None else If(self.thread < 1, (store,)))
        return statements


def _scalar_read(buf: Buf, lane: Expr) -> Bound:
    return lambda index, mask, other: Load(buf, lane)


def _monoid(n: Node) -> Reduction:
    monoid = op_def(n.op).reduction
    assert monoid is not None
    return monoid
