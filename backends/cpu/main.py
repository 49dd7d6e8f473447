"""A program -> the LLVM module of its entry points: one native call runs the whole model.

    i32 PREFIX_main(ptr inputs[], ptr outputs[], ptr sizes[], ptr weights, ptr workspace, ptr threads)
    i64 PREFIX_workspace(ptr sizes[], i32 workers)

`main` evaluates the sizes and offsets that depend on symbols, then runs the steps in order.  The workspace holds the arena and,
after it, each worker's scratch memory.  Where a check fails it returns Status.SIZES, and the word after the last of `sizes` is the
address of a text that names the node.  The workspace's size is -1 where it is more than can be addressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...ir.dims import Atom, Dim, DimExpr, dim_max
from ...ir.loops import size_expr
from ...ir.types import bool_, f64, i64
from ..instructions import Val, string_constant
from ..llvm import Emitter
from ..program import ALIGN, Branch, Check, Copy, Define, Kernel, Loop, Place, Program, Ref, SetIndex, Step
from ..runtime.status import Status

ADDRESSABLE = 1 << 47  # bytes


class MainEmitter(Emitter):
    """Emits the steps of a program."""

    def __init__(self, program: Program, symbols: Sequence[str], names: Mapping[int, str], scratch: Dim):
        super().__init__()
        self.program, self.names, self.scratch = program, names, scratch
        self.order = list(symbols)
        self.symbols = {}
        for k, s in enumerate(symbols):
            self.put(f"%size{k} = getelementptr inbounds i64, ptr %sizes, i64 {k}")
            self.symbols[s] = self.define(f"load i64, ptr %size{k}", i64)
        self.places: dict[Place, str] = {}
        self.counters: dict[int, str] = {}
        self.texts: list[str] = []  # of checks

    def dim(self, d: Dim) -> Val:
        return self.value(size_expr(d))

    def bytes_of(self, place: Place) -> Val:
        """The size of a place, rounded up to the alignment."""
        size = place.nbytes
        if isinstance(size, int):
            return Val(str(-(-size // ALIGN) * ALIGN), i64)
        up = self.define(f"add i64 {self.dim(size).text}, {ALIGN - 1}", i64)
        return self.define(f"and i64 {up.text}, {-ALIGN}", i64)

    def largest(self, values: Sequence[Val]) -> Val:
        """The greatest of i64 values, 0 if there are none."""
        best = values[0] if values else Val("0", i64)
        for v in values[1:]:
            best = self.operation("max", [best, v], i64)
        return best

    def arena(self) -> tuple[dict[Place, Val], Val]:
        """The offset of every place of the arena, and the arena's size."""
        offsets: dict[Place, Val] = {}
        ends: dict[Place, Val] = {}
        for place, under in self.program.below.items():
            known = place.offset
            offsets[place] = Val(str(known), i64) if known is not None else self.largest([ends[q] for q in under])
            size = self.bytes_of(place)
            if known is not None and not size.text.startswith("%"):
                ends[place] = Val(str(known + int(size.text)), i64)
            else:
                ends[place] = self.define(f"add i64 {offsets[place].text}, {size.text}", i64)
        if self.program.arena is not None:
            return offsets, Val(str(self.program.arena), i64)
        return offsets, self.largest(list(ends.values()))

    def scratch_stride(self) -> Val:
        """Bytes of scratch memory for each worker."""
        up = self.define(f"add i64 {self.dim(self.scratch).text}, {ALIGN - 1}", i64)
        return self.define(f"and i64 {up.text}, {-ALIGN}", i64)

    def magnitude(self, d: Dim) -> Val:
        """An f64 that is at least |d| and any partial result of it; unlike these it cannot wrap around."""
        total = Val(self.literal(0.0, f64), f64)
        for monomial, coefficient in d.terms if isinstance(d, DimExpr) else (((), d),):
            term = Val(self.literal(abs(float(coefficient)), f64), f64)
            for atom in monomial:
                term = self.operation("mul", [term, self._atom_magnitude(atom)], f64)
            total = self.operation("add", [total, term], f64)
        return total

    def _atom_magnitude(self, atom: Atom) -> Val:
        match atom.op:
            case "symbol":
                return self.cast(self.symbols[atom.args[0]], f64)
            case "floordiv":
                return self.magnitude(atom.args[0])
            case "mod":
                return self.magnitude(atom.args[1])
            case "min" if any(isinstance(a, int) for a in atom.args):  # a limit makes nothing larger
                return self.magnitude(next(a for a in atom.args if not isinstance(a, int)))
            case _:
                return self.operation("add", [self.magnitude(a) for a in atom.args], f64)

    def address_of(self, ref: Ref) -> str:
        place = ref.place
        if place not in self.places:
            source = {"input": "%inputs", "output": "%outputs"}.get(place.region)
            name = self.fresh("base")
            assert source is not None or place.region == "const"
            if source is None:
                line = f"  {name} = getelementptr inbounds i8, ptr %weights, i64 {place.offset}"
                self.entry.append(line)
            else:
                slot = self.fresh("slot")
                self.entry.append(f"  {slot} = getelementptr inbounds ptr, ptr {source}, i64 {place.number}")
                self.entry.append(f"  {name} = load ptr, ptr {slot}")
            self.places[place] = name
        pointer = self.places[place]
        for loop, stride, length, reverse in ref.moves:
            count = self.define(f"load i64, ptr {self.counters[loop]}", i64)
            if reverse:
                last = self.define(f"sub i64 {self.dim(length).text}, 1", i64)
                count = self.define(f"sub i64 {last.text}, {count.text}", i64)
            moved = self.define(f"mul i64 {count.text}, {self.dim(stride).text}", i64)
            name = self.fresh("at")
            self.put(f"{name} = getelementptr inbounds i8, ptr {pointer}, i64 {moved.text}")
            pointer = name
        return pointer

    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.statement = {}
            match step:
                case Kernel():
                    self.call(step)
                case Copy():
                    self.copy(step)
                case SetIndex():
                    count = self.define(f"load i64, ptr {self.counters[step.loop]}", i64)
                    self.put(f"store i64 {count.text}, ptr {self.address_of(step.target)}")
                case Loop():
                    self.repeat(step)
                case Branch():
                    self.branch(step)
                case Define():
                    self.define_size(step)
                case Check():
                    self.check(step)

    def call(self, step: Kernel) -> None:
        for k, ref in enumerate((*step.inputs, *step.outputs)):
            pointer = self.address_of(ref)
            slot = self.fresh("arg")
            self.put(f"{slot} = getelementptr inbounds ptr, ptr %arguments, i64 {k}")
            self.put(f"store ptr {pointer}, ptr {slot}")
        for k, size in enumerate(step.sizes):
            value = self.dim(size).text
            slot = self.fresh("sym")
            self.put(f"{slot} = getelementptr inbounds i64, ptr %symbols, i64 {k}")
            self.put(f"store i64 {value}, ptr {slot}")
        name = self.names[id(step)]
        self.declarations.add(f"declare void @{name}(ptr, ptr, ptr, ptr, i64)")
        self.put(f"call void @{name}(ptr %arguments, ptr %symbols, ptr %threads, ptr %scratch, i64 %stride)")

    def copy(self, step: Copy) -> None:
        self.declarations.add("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        source, target = self.address_of(step.source), self.address_of(step.target)
        self.put(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {self.dim(step.nbytes).text}, i1 false)")

    def define_size(self, step: Define) -> None:
        """The symbol's value is what the run has counted, kept between 0 and its limit, and reported in `sizes`."""
        count = self.define(f"load i64, ptr {self.address_of(step.source)}", i64)
        count = self.operation("min", [count, self.dim(step.limit)], i64)
        self.symbols[step.symbol] = self.operation("max", [count, Val("0", i64)], i64)
        self.forget()  # sizes that mention the symbol are to be computed anew
        slot = self.fresh("size")
        self.put(f"{slot} = getelementptr inbounds i64, ptr %sizes, i64 {self.order.index(step.symbol)}")
        self.put(f"store i64 {self.symbols[step.symbol].text}, ptr {slot}")

    def check(self, step: Check) -> None:
        """Leave with the text where the dim is not 0."""
        fits = self.define(f"icmp eq i64 {self.dim(step.zero).text}, 0", bool_)
        good, bad = self.new_label("fits"), self.new_label("misfit")
        self.put(f"br i1 {fits.text}, label %{good}, label %{bad}")
        self.label(bad)
        slot = self.fresh("text")
        self.put(f"{slot} = getelementptr inbounds i64, ptr %sizes, i64 {len(self.order)}")
        self.put(f"store ptr @misfit{len(self.texts)}, ptr {slot}")
        self.put("br label %misfit")
        self.label(good)
        self.texts.append(step.where)

    def report(self, outputs: Sequence[Ref]) -> None:
        """Tell the caller where outputs lie whose sizes the run has defined."""
        for k, ref in enumerate(outputs):
            if ref.place.region == "output":
                continue
            pointer = self.address_of(ref)
            slot, target = self.fresh("slot"), self.fresh("target")
            self.put(f"{slot} = getelementptr inbounds ptr, ptr %outputs, i64 {k}")
            self.put(f"{target} = load ptr, ptr {slot}")
            self.put(f"store ptr {pointer}, ptr {target}")

    def repeat(self, step: Loop) -> None:
        counter = self.fresh("counter")
        self.entry.append(f"  {counter} = alloca i64")
        self.counters[step.number] = counter
        length: Val = self.dim(step.length)
        if step.trips is not None:
            length = self.define(f"load i64, ptr {self.address_of(step.trips)}", i64)
        self.put(f"store i64 0, ptr {counter}")
        head, inside, done = self.new_label("next"), self.new_label("body"), self.new_label("done")
        self.put(f"br label %{head}")
        self.label(head)
        self.enter()
        count = self.define(f"load i64, ptr {counter}", i64)
        more = self.define(f"icmp slt i64 {count.text}, {length.text}", i64).text
        if step.condition is not None:
            flag = self.define(f"load i8, ptr {self.address_of(step.condition)}", i64)
            go = self.define(f"icmp ne i8 {flag.text}, 0", i64)
            more = self.define(f"and i1 {more}, {go.text}", i64).text
        self.put(f"br i1 {more}, label %{inside}, label %{done}")
        self.label(inside)
        self.steps(step.steps)
        count = self.define(f"load i64, ptr {counter}", i64)
        following = self.define(f"add i64 {count.text}, 1", i64)
        self.put(f"store i64 {following.text}, ptr {counter}")
        self.put(f"br label %{head}")
        self.leave()
        self.label(done)

    def branch(self, step: Branch) -> None:
        flag = self.define(f"load i8, ptr {self.address_of(step.condition)}", i64)
        go = self.define(f"icmp ne i8 {flag.text}, 0", i64)
        then, otherwise, done = self.new_label("then"), self.new_label("else"), self.new_label("end")
        self.put(f"br i1 {go.text}, label %{then}, label %{otherwise}")
        for label, steps in ((then, step.then), (otherwise, step.otherwise)):
            self.label(label)
            self.enter()
            self.steps(steps)
            self.leave()
            self.put(f"br label %{done}")
        self.label(done)


# Subnormal numbers count as zero while a model runs: they cost a hundred times what others do and carry nothing that a network uses.
# (what to put before the steps, what to put after, declarations); the caller's mode comes back at the end, workers copy it from us.
_FLUSH = {
    "x86_64": (
        """  %mode = alloca i32
  %flush = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %mode)
  %was = load i32, ptr %mode
  %now = or i32 %was, 32832
  store i32 %now, ptr %flush
  call void @llvm.x86.sse.ldmxcsr(ptr %flush)""",
        "  call void @llvm.x86.sse.ldmxcsr(ptr %mode)",
        {"declare void @llvm.x86.sse.stmxcsr(ptr)", "declare void @llvm.x86.sse.ldmxcsr(ptr)"},
    ),
    "aarch64": (
        """  %was = call i64 @llvm.aarch64.get.fpcr()
  %now = or i64 %was, 16777216
  call void @llvm.aarch64.set.fpcr(i64 %now)""",
        "  call void @llvm.aarch64.set.fpcr(i64 %was)",
        {"declare i64 @llvm.aarch64.get.fpcr()", "declare void @llvm.aarch64.set.fpcr(i64)"},
    ),
}


def emit_main(
    program: Program,
    prefix: str,
    symbols: Sequence[str],
    names: Mapping[int, str],
    scratch: Dim,
    processor: str,
    emitter: type[MainEmitter] = MainEmitter,
) -> str:
    """The LLVM module text of a program's entry points.

    symbols: the order of `sizes`; names: id(Kernel step) -> the symbol of its code; scratch: bytes that the greediest kernel needs;
    processor: "x86_64" or "aarch64"; emitter: what emits the steps.
    """
    main = emitter(program, symbols, names, scratch)
    flush, restore, mode = _FLUSH[processor]
    main.declarations |= mode
    offsets, size = main.arena()
    main.put(f"%scratch = getelementptr inbounds i8, ptr %workspace, i64 {size.text}")
    main.put(f"%stride = add i64 {main.scratch_stride().text}, 0")
    for place, offset in offsets.items():
        main.places[place] = main.fresh("place")
        main.put(f"{main.places[place]} = getelementptr inbounds i8, ptr %workspace, i64 {offset.text}")
    main.steps(program.steps)
    main.report(program.outputs)
    kernels = program.kernels()
    most = max((len(k.inputs) + len(k.outputs) for k in kernels), default=0)
    sizes = max((len(k.sizes) for k in kernels), default=0)
    entry = [f"  %arguments = alloca [{max(1, most)} x ptr]", f"  %symbols = alloca [{max(1, sizes)} x i64]", *main.entry]
    parameters = "ptr %inputs, ptr %outputs, ptr %sizes, ptr %weights, ptr %workspace, ptr %threads"
    text = [f"define i32 @{prefix}_main({parameters}) {{", "entry:", flush, *entry, *main.lines, restore, "  ret i32 0"]
    if main.texts:
        text += ["misfit:", restore, f"  ret i32 {int(Status.SIZES)}"]
    text += ["}", *(string_constant(f"misfit{k}", t) for k, t in enumerate(main.texts)), ""]
    room = MainEmitter(program, symbols, names, scratch)
    _, size = room.arena()
    room.put("%count = sext i32 %workers to i64")
    room.put(f"%each = mul i64 %count, {room.scratch_stride().text}")
    room.put(f"%total = add i64 %each, {size.text}")
    whole = Val(room.literal(0.0, f64), f64)
    for d in sorted({p.nbytes for p in program.below if isinstance(p.nbytes, DimExpr)} | {scratch}, key=str):
        whole = room.operation("add", [whole, room.magnitude(d)], f64)
    fits = room.operation("lt", [whole, Val(room.literal(float(ADDRESSABLE), f64), f64)], bool_)
    room.put(f"%needed = select i1 {fits.text}, i64 %total, i64 -1")
    text += [
        f"define i64 @{prefix}_workspace(ptr %sizes, i32 %workers) {{",
        "entry:",
        *room.entry,
        *room.lines,
        "  ret i64 %needed",
        "}",
        "",
    ]
    return "\n".join([*text, *sorted(main.declarations | room.declarations), ""])


def most_scratch(sizes: Iterable[Dim]) -> Dim:
    """The greatest scratch memory of any kernel."""
    most: Dim = 0
    for s in sorted(sizes, key=str):
        most = dim_max(most, s)
    return most
