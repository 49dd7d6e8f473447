"""A fused graph as a program: steps over memory regions, and where in memory everything lies.

Every stored value lives in a `Place`: an input, an output, the constants, or the arena.  Reshapes are other names for a place.  The
arena is planned once for all sizes: lifetimes decide which values may share memory, a nominal size decides which lies below
which, and the offset of a value is the largest end of those below it that it must not overlap: a number where sizes are known, a
formula evaluated at each call where they are symbols.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

from ..ir.dims import Dim, bounds, dim_max, dim_product, evaluate_dim, never_negative, symbols_of
from ..ir.errors import CodegenError, UnsupportedOp
from ..ir.graph import Constant, Graph, Node, Value, input_value
from ..ir.ops.registry import apply
from ..ir.order import mentioned, run_order
from ..ir.requirements import needs
from ..ir.types import TensorType
from .instructions import REGISTER_TYPES
from .lower.sizes import plain_sizes

ALIGN = 64
NOMINAL = 64  # what a symbol counts when the layout of the arena is chosen; any value is correct
ATTEMPTS = 16  # at a layout of the arena; the models known to need more than one needed at most 13
PLACED = 1 << 14  # places put in all attempts together
LARGEST = 1 << 40  # nominal bytes of a value: sums of these fit 64 bits


@dataclass(frozen=True)
class Kernel:
    """One call of a fused kernel: `body` computes outputs from inputs.

    code: the body over symbols of its own, which is what gets compiled; sizes: what its symbols stand for, in order.
    """

    body: Graph
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    loc: str
    code: Graph
    sizes: tuple[Dim, ...]


@dataclass(frozen=True)
class Copy:
    """target = source, `nbytes` of them."""

    source: Ref
    target: Ref
    nbytes: Dim


@dataclass(frozen=True)
class SetIndex:
    """Store the counter of a loop, as an i64, where its body reads it."""

    loop: int
    target: Ref


@dataclass(frozen=True)
class Loop:
    """Run the steps `length` times; `reverse` is not here: a `Ref` moves with the counter either way.

    With `condition` (a bool in memory) the loop ends before an iteration for which it is false, and `trips`, if given, is an i64
    in memory that bounds it.
    """

    number: int
    length: Dim
    steps: tuple[Step, ...]
    condition: Ref | None = None
    trips: Ref | None = None


@dataclass(frozen=True)
class Branch:
    """Run one of two lists of steps by a bool in memory."""

    condition: Ref
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


@dataclass(frozen=True)
class Define:
    """Read a size that the run found out (an i64 in memory) into its symbol; it is at most `limit`."""

    symbol: str
    source: Ref
    limit: Dim


@dataclass(frozen=True)
class Check:
    """End the run unless the dim is 0; `where` names the node that needs it."""

    zero: Dim
    where: str


Step: TypeAlias = Kernel | Copy | SetIndex | Loop | Branch | Define | Check


@dataclass(eq=False)
class Place:
    """Memory of one stored value.  region: "input", "output", "const" (`number` or `offset` says which) or "arena"."""

    region: str
    nbytes: Dim
    number: int = 0
    offset: int | None = 0
    first: int = -1  # steps (in program order) between which the arena must keep it
    last: int = -1


@dataclass(frozen=True)
class Ref:
    """A place, moved by (loop number, bytes for each iteration, backwards?) inside loops."""

    place: Place
    moves: tuple[tuple[int, Dim, Dim, bool], ...] = ()  # (loop, stride in bytes, length, reverse)


@dataclass
class Program:
    """Steps, constants and the arena.

    constants: (byte offset, array).  arena: its size in bytes, None where it depends on symbols.  below: the places in the order in
    which their offsets are known, each with those that it lies directly above.  limits: the greatest value of each symbol that
    the run defines, over symbols that the caller gives; memory is reserved for that.
    """

    graph: Graph
    steps: tuple[Step, ...]
    places: list[Place]
    constants: list[tuple[int, Constant]]
    constant_bytes: int
    arena: int | None
    below: dict[Place, tuple[Place, ...]]
    outputs: list[Ref]
    limits: Mapping[str, Dim]

    @property
    def defined(self) -> tuple[str, ...]:
        """The symbols that the run defines, in the order in which it does."""
        return tuple(self.limits)

    def kernels(self) -> list[Kernel]:
        """Every kernel call, in program order."""
        found: list[Kernel] = []
        stack: list[Step] = list(reversed(self.steps))
        while stack:
            step = stack.pop()
            if isinstance(step, Kernel):
                found.append(step)
            elif isinstance(step, Loop):
                stack.extend(reversed(step.steps))
            elif isinstance(step, Branch):
                stack.extend(reversed((*step.then, *step.otherwise)))
        return found


def _bytes(t: TensorType) -> Dim:
    if t.dtype.kind in "sc":
        raise UnsupportedOp(f"values of dtype {t.dtype} cannot be compiled; only the reference evaluator handles them")
    return t.nbytes


def plan(graph: Graph) -> Program:
    """The program of a fused graph.  Raises UnsupportedOp for what cannot be compiled, naming the node."""
    return _Planner(graph).plan()


@dataclass
class _Planner:
    graph: Graph
    refs: dict[Value, Ref] = field(default_factory=dict)
    arena: list[Place] = field(default_factory=list)
    constants: dict[tuple[str, bytes], list[tuple[Constant, Place]]] = field(default_factory=dict)  # by type and first elements
    constant_bytes: int = 0
    clock: int = 0
    used: list[Place] = field(default_factory=list)  # in order of use
    loops: int = 0
    limits: dict[str, Dim] = field(default_factory=dict)
    branches: int = 0  # around the steps being planned
    checked: list[set[Dim]] = field(default_factory=list)  # by these steps and by those around them

    def plan(self) -> Program:
        graph = self.graph
        if graph.updates:
            raise UnsupportedOp("variables that a run updates are not compiled yet")
        for k, v in enumerate(graph.inputs):
            self.refs[v] = Ref(Place("input", _bytes(v.type), k))
        targets: dict[Value, Ref] = {}
        outputs: list[Ref] = []
        late: list[tuple[Value, Ref]] = []
        run_time = self._run_time_symbols()
        for k, v in enumerate(graph.outputs):
            if any(symbols_of(d) & run_time for d in v.shape):  # its size is known too late for the caller's buffer
                outputs.append(Ref(Place("defined", _bytes(v.type), k)))
                late.append((v, outputs[-1]))
                continue
            ref = Ref(Place("output", _bytes(v.type), k))
            outputs.append(ref)
            root = self._source(v)
            if root.node.op in ("kernel", "scan", "loop", "if_") and root not in targets:
                targets[root] = ref
            else:
                late.append((v, ref))
        steps = self._steps(graph, targets)
        for v, ref in late:
            source = self._ref(v)
            if ref.place.region == "defined":  # the caller copies it from the workspace when the run is over
                if source.place.region != "arena":
                    kept = self._new(v.type)
                    steps.append(Copy(source, kept, _bytes(v.type)))
                    source = kept
                source.place.last = 1 << 60
                outputs[ref.place.number] = source
            else:
                steps.append(Copy(self._use(source), ref, _bytes(v.type)))
        self.clock += 1
        for place in self.arena:
            place.last = min(place.last, self.clock)
        below, size = _layout(self.arena)
        packed = [(p.offset or 0, c) for alike in self.constants.values() for c, p in alike]
        return Program(graph, tuple(steps), self.arena, packed, self.constant_bytes, size, below, outputs, self.limits)

    def _run_time_symbols(self) -> frozenset[str]:
        return frozenset(n.attrs["symbol"] for n in self.graph.nodes if n.op == "bind_size")

    def _source(self, v: Value) -> Value:
        """The value whose memory a view names."""
        while v.node.op in ("reshape", "after"):
            v = v.node.inputs[0]
        return v

    def _ref(self, v: Value) -> Ref:
        root = self._source(v)
        if root not in self.refs:
            if root.node.op in ("const", "variable"):
                constant: Constant = root.node.attrs["value" if root.node.op == "const" else "init"]
                self.refs[root] = Ref(self._constant(constant))
            else:
                raise CodegenError(f"{root!r} is read before it is computed")
        return self.refs[root]

    def _constant(self, constant: Constant) -> Place:
        """Where a constant lies; equal ones lie in one place.  Only those that look alike are compared: it means hashing them."""
        alike = self.constants.setdefault((repr(constant.type), constant.array.flat[:16].tobytes()), [])
        for known, place in alike:
            if known == constant:
                return place
        nbytes = _bytes(constant.type)
        assert isinstance(nbytes, int)
        place = Place("const", nbytes, offset=self.constant_bytes)
        self.constant_bytes += -(-max(nbytes, 1) // ALIGN) * ALIGN
        alike.append((constant, place))
        return place

    def _use(self, ref: Ref) -> Ref:
        ref.place.last = max(ref.place.last, self.clock)
        self.used.append(ref.place)
        return ref

    def _new(self, t: TensorType) -> Ref:
        place = Place("arena", self._room(t), first=self.clock, last=self.clock)
        self.arena.append(place)
        return Ref(place)

    def _room(self, t: TensorType) -> Dim:
        """The most bytes that a value of the type takes.  Not negative, not even where sizes are that no run accepts."""
        most = [bounds(d, self.limits)[1] for d in t.shape]
        return dim_product(d if never_negative(d) else dim_max(d, 0) for d in most) * t.dtype.itemsize

    def _checks(self, node: Node) -> list[Step]:
        """What the node needs of sizes beyond what the signature says."""
        if not self.branches and not self.limits:
            return []
        steps: list[Step] = []
        for inner in node.attrs["body"].nodes if node.op == "kernel" else (node,):
            for zero, where in needs(inner, node.loc):
                late = self.branches or symbols_of(zero) & self.limits.keys()
                if late and not any(zero in known for known in self.checked):
                    self.checked[-1].add(zero)
                    steps.append(Check(zero, where))
        return steps

    def _ordered(self, graph: Graph) -> Sequence[Node]:
        """The nodes in the order of their steps.  Raises UnsupportedOp for a size that nothing defines."""
        nodes = run_order(graph.inputs + graph.roots)
        known = {*self.graph.symbols, *self.limits, *(n.attrs["symbol"] for n in nodes if n.op == "bind_size")}
        for node in nodes:
            unknown = sorted(mentioned(node) - known) if node.op != "input" else ()
            if unknown:
                raise UnsupportedOp(f"{node!r}: only a run that counts something knows the size {unknown[0]}, and none does")
        return nodes

    def _steps(self, graph: Graph, targets: Mapping[Value, Ref]) -> list[Step]:
        self.checked.append(set())
        steps: list[Step] = []
        for node in self._ordered(graph):
            self.clock += 1
            steps += self._checks(node)
            match node.op:
                case "kernel":
                    steps.append(self._kernel(node, targets))
                case "scan":
                    steps += self._scan(node, targets)
                case "if_":
                    steps += self._if(node, targets)
                case "loop":
                    steps += self._loop(node, targets)
                case "bind_size":
                    steps += self._bind(node)
                case "input" | "const" | "variable" | "reshape" | "after":
                    pass
                case _:
                    raise UnsupportedOp(f"{node!r} cannot be compiled")
        self.checked.pop()
        return steps

    def _target(self, v: Value, targets: Mapping[Value, Ref]) -> Ref:
        self.refs[v] = targets[v] if v in targets else self._new(v.type)
        return self.refs[v]

    def _kernel(self, node: Node, targets: Mapping[Value, Ref]) -> Kernel:
        body: Graph = node.attrs["body"]
        for inner in body.nodes:
            for t in inner.types:
                if t.dtype.name not in REGISTER_TYPES:
                    raise UnsupportedOp(f"{inner!r}: native code does not compute with values of dtype {t.dtype} yet")
        inputs = tuple(self._use(self._ref(v)) for v in node.inputs)
        outputs = tuple(self._use(self._target(v, targets)) for v in node.outputs)
        return Kernel(body, inputs, outputs, node.loc, *plain_sizes(body))

    def _scan(self, node: Node, targets: Mapping[Value, Ref]) -> list[Step]:
        """States are copied into buffers of their own, which the body reads and each iteration overwrites at its end."""
        body: Graph = node.attrs["body"]
        count, length = node.attrs["states"], node.attrs["length"]
        reverse = tuple(node.attrs.get("reverse") or ())
        number = self.loops = self.loops + 1
        start, uses = self.clock, len(self.used)
        steps: list[Step] = []
        index = body.inputs[0]
        counter = self._new(index.type)
        self.refs[index] = counter
        states = []
        for v, result, inner in zip(node.inputs[:count], node.outputs[:count], body.inputs[1 : 1 + count], strict=True):
            state = self._target(result, targets)
            steps.append(Copy(self._use(self._ref(v)), self._use(state), _bytes(v.type)))
            self.refs[inner] = state
            states.append(state)
        sequences = len(node.inputs) - count - node.attrs.get("captures", 0)
        for v, inner in zip(node.inputs[count + sequences :], body.inputs[1 + count + sequences :], strict=True):
            self.refs[inner] = self._use(self._ref(v))
        moved = zip(node.inputs[count : count + sequences], body.inputs[1 + count : 1 + count + sequences], strict=True)
        for k, (v, inner) in enumerate(moved):
            backwards = bool(reverse[k]) if k < len(reverse) else False
            self.refs[inner] = _moving(self._use(self._ref(v)), number, _bytes(inner.type), length, backwards)
        moving: dict[Value, Ref] = {}
        stacked = []
        for k, (result, inner) in enumerate(zip(node.outputs[count:], body.outputs[count:], strict=True)):
            position = sequences + k
            backwards = bool(reverse[position]) if position < len(reverse) else False
            ref = _moving(self._use(self._target(result, targets)), number, _bytes(inner.type), length, backwards)
            stacked.append((inner, ref))
            root = self._source(inner)
            if root.node.op in ("kernel", "scan", "loop", "if_") and root not in moving and root not in body.outputs[:count]:
                moving[root] = ref
        inside: list[Step] = [SetIndex(number, counter), *self._steps(body, moving)]
        for inner, ref in stacked:
            if self.refs.get(self._source(inner)) is not ref:
                inside.append(Copy(self._use(self._ref(inner)), ref, _bytes(inner.type)))
        inside += self._commit(list(zip(body.outputs[:count], states, strict=True)))
        self._keep(start, uses)
        self._use(counter)
        return [*steps, Loop(number, length, tuple(inside))]

    def _commit(self, pairs: Sequence[tuple[Value, Ref]]) -> list[Step]:
        """Copy next states into the states; a next state that is itself another state goes through a buffer first."""
        steps: list[Step] = []
        own = {id(ref.place) for _, ref in pairs}
        ready: list[tuple[Ref, Ref, Dim]] = []
        for v, state in pairs:
            source = self._use(self._ref(v))
            if source.place is state.place:
                continue
            if id(source.place) in own:
                spare = self._new(v.type)
                steps.append(Copy(source, spare, _bytes(v.type)))
                source = spare
            ready.append((source, state, _bytes(v.type)))
        self.clock += 1
        for source, state, nbytes in ready:
            steps.append(Copy(self._use(source), self._use(state), nbytes))
        return steps

    def _keep(self, start: int, uses: int) -> None:
        """What existed before a loop and is used in it (since there were `uses` uses) must survive all its iterations."""
        self.clock += 1
        for place in self.used[uses:]:
            if place.first <= start:
                place.last = max(place.last, self.clock)

    def _if(self, node: Node, targets: Mapping[Value, Ref]) -> list[Step]:
        condition = self._use(self._ref(node.inputs[0]))
        results = [self._target(v, targets) for v in node.outputs]
        for r in results:
            self._use(r)
        branches = []
        for name in ("then", "otherwise"):
            body: Graph = node.attrs[name]
            for v, inner in zip(node.inputs[1:], body.inputs, strict=True):
                self.refs[inner] = self._use(self._ref(v))
            self.branches += 1
            steps = self._steps(body, {})
            self.branches -= 1
            self.clock += 1
            for v, r in zip(body.outputs, results, strict=True):
                steps.append(Copy(self._use(self._ref(v)), self._use(r), _bytes(v.type)))
            branches.append(tuple(steps))
        return [Branch(condition, branches[0], branches[1])]

    def _loop(self, node: Node, targets: Mapping[Value, Ref]) -> list[Step]:
        body: Graph = node.attrs["body"]
        trips, condition, *rest = node.inputs
        count = len(node.outputs)
        if len(body.outputs) != count + 1:
            raise UnsupportedOp(f"{node!r}: a loop whose number of results depends on the data is not compiled yet")
        number = self.loops = self.loops + 1
        start, uses = self.clock, len(self.used)
        steps: list[Step] = []
        index, flag_in, *inner = body.inputs
        counter, flag = self._new(index.type), self._new(flag_in.type)
        self.refs[index], self.refs[flag_in] = counter, flag
        steps.append(Copy(self._use(self._ref(condition)), flag, 1))
        bound = self._use(self._ref(trips))
        states = []
        for v, result, inside in zip(rest[:count], node.outputs, inner[:count], strict=True):
            state = self._target(result, targets)
            steps.append(Copy(self._use(self._ref(v)), self._use(state), _bytes(v.type)))
            self.refs[inside] = state
            states.append(state)
        for v, inside in zip(rest[count:], inner[count:], strict=True):
            self.refs[inside] = self._use(self._ref(v))
        body_steps: list[Step] = [SetIndex(number, counter), *self._steps(body, {})]
        body_steps += self._commit([(body.outputs[0], flag), *zip(body.outputs[1:], states, strict=True)])
        self._keep(start, uses)
        for ref in (counter, flag, bound, *states):
            self._use(ref)
        return [*steps, Loop(number, 0, tuple(body_steps), flag, bound)]

    def _bind(self, node: Node) -> list[Step]:
        """Read the count into the symbol; along axis 0 the result is the start of the operand, else a copy."""
        x, count = node.inputs
        axis, name = node.attrs["axis"], node.attrs["symbol"]
        steps: list[Step] = []
        if name not in self.limits:  # several results may share one count
            self.limits[name] = bounds(x.shape[axis], self.limits)[1]
            steps.append(Define(name, self._use(self._ref(count)), x.shape[axis]))
        result = node.outputs[0]
        source = self._use(self._ref(x))
        if axis == 0:
            self.refs[result] = source
            return steps
        inner = input_value("x0", x.type)
        zeros, ones = (0,) * x.type.rank, (1,) * x.type.rank
        body = Graph("map", (inner,), (apply("slice", inner, starts=zeros, stops=result.shape, steps=ones),))
        self.refs[result] = self._new(result.type)
        return [*steps, Kernel(body, (source,), (self.refs[result],), node.loc, *plain_sizes(body))]


def _moving(ref: Ref, loop: int, stride: Dim, length: Dim, reverse: bool) -> Ref:
    return Ref(ref.place, (*ref.moves, (loop, stride, length, reverse)))


def _layout(places: Sequence[Place]) -> tuple[dict[Place, tuple[Place, ...]], int | None]:
    """Which places each one lies directly above, and the size of the arena.

    Greedy (as in Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020), on nominal sizes.
    """
    start = _nominal_offsets(places)
    above = _directly_above(places, start)
    below: dict[Place, tuple[Place, ...]] = {}
    for p in sorted(places, key=lambda p: (start[p], p.first)):
        below[p] = tuple(above[p])
        p.offset = _static_end(below[p])
    return below, _static_end(places)


def _nominal_offsets(places: Sequence[Place]) -> dict[Place, int]:
    """Where each place lies if symbols have nominal values, in an arena hardly larger than what lives at one time.

    The order in which places are put is all that there is to find: at first by bytes times steps; then whichever ended at the top, so
    that it alone made the arena larger, goes first, until nothing is wasted or after some attempts, of which the best counts.
    """
    sizes = {d: _nominal(d) for d in {p.nbytes for p in places}}
    order = sorted(places, key=lambda p: (-sizes[p.nbytes] * (p.last - p.first + 1), p.first))
    least = _largest_live(order, sizes)
    best: dict[Place, int] = {}
    best_size = -1
    for _ in range(max(1, min(ATTEMPTS, PLACED // max(1, len(order))))):
        starts = _stacked(order, sizes)
        ends = [start + sizes[p.nbytes] for start, p in zip(starts, order, strict=True)]
        size = max(ends, default=0)
        if best_size < 0 or size < best_size:
            best, best_size = dict(zip(order, starts, strict=True)), size
        if size <= least:
            break
        order.insert(0, order.pop(ends.index(size)))
    return best


def _largest_live(places: Sequence[Place], sizes: Mapping[Dim, int]) -> int:
    """The most bytes that live at one step: no arena is smaller."""
    changes: dict[int, int] = {}
    for p in places:
        changes[p.first] = changes.get(p.first, 0) + sizes[p.nbytes]
        changes[p.last + 1] = changes.get(p.last + 1, 0) - sizes[p.nbytes]
    return max(accumulate(changes[step] for step in sorted(changes)), default=0)


def _stacked(order: Sequence[Place], sizes: Mapping[Dim, int]) -> list[int]:
    """The start of each place, put one by one into the lowest gap between those before it that live beside it."""
    first, last = (np.array([getattr(p, end) for p in order], np.int64) for end in ("first", "last"))
    starts, ends = np.zeros((2, len(order)), np.int64)
    for k, p in enumerate(order):
        beside = np.flatnonzero((first[:k] <= p.last) & (last[:k] >= p.first))
        beside = beside[np.argsort(starts[beside])]
        floor = np.concatenate(([0], np.maximum.accumulate(ends[beside])))  # where a gap below each of them, or above all, begins
        gap = np.flatnonzero(starts[beside] - floor[:-1] >= sizes[p.nbytes])
        starts[k] = floor[gap[0] if gap.size else -1]
        ends[k] = starts[k] + sizes[p.nbytes]
    return starts.tolist()


def _directly_above(places: Sequence[Place], start: Mapping[Place, int]) -> dict[Place, dict[Place, None]]:
    """place -> its lower neighbours whenever one of both begins to live.  All others below it beside it are below one of these."""
    above: dict[Place, dict[Place, None]] = {p: {} for p in places}
    events = sorted([(p.first, 1, k) for k, p in enumerate(places)] + [(p.last + 1, 0, k) for k, p in enumerate(places)])
    live: list[tuple[int, int]] = []  # (start, place number) of those that live now
    for _, begins, k in events:
        at = bisect_left(live, (start[places[k]], k))
        if not begins:
            del live[at]  # its neighbours are neighbours now, but have it between them in `above`
            continue
        live.insert(at, (start[places[k]], k))
        for low, high in pairwise(live[max(0, at - 1) : at + 2]):
            above[places[high[1]]][places[low[1]]] = None
    return above


def _static_end(places: Sequence[Place]) -> int | None:
    """Where the last of these places ends, or None where only the run can tell."""
    end = 0
    for q in places:
        if q.offset is None or not isinstance(q.nbytes, int):
            return None
        end = max(end, q.offset + -(-q.nbytes // ALIGN) * ALIGN)
    return end


def _nominal(nbytes: Dim) -> int:
    value = evaluate_dim(nbytes, dict.fromkeys(symbols_of(nbytes), NOMINAL))
    return -(-min(max(value, 1), LARGEST) // ALIGN) * ALIGN


def weights(program: Program) -> np.ndarray:
    """The constants as the code expects them: one block of bytes, aligned so that nobody copies it."""
    size = max(program.constant_bytes, ALIGN)
    room = np.zeros(size + ALIGN, np.uint8)
    start = -room.ctypes.data % ALIGN
    block = room[start : start + size]
    for offset, constant in program.constants:
        data = np.ascontiguousarray(constant.array).reshape(-1).view(np.uint8)
        block[offset : offset + data.size] = data
    return block
