"""The C interface of a compiled model as LLVM IR: what stands between `octavo_run` and `PREFIX_main`.

Every function is called `octavo_MODEL_...`, so that several models link into one program, and has a weak alias `octavo_...` for
hosts that open one library at a time.  The wrapper trusts nothing that it is given: counts, dtypes, ranks, dims, pointers,
alignment and the workspace's size are checked before the model's code runs.  It keeps no state but the handle, allocates
nothing in `run`, and never aborts.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

from ...ir.dims import Dim
from ...ir.errors import TargetError
from ..instructions import string_constant
from .assembly import host_processor, pool_ir, processor_of, template
from .features import ARCH_PRCTL, ASK, Probe, probes_of
from .native import NativeProgram, Variant
from .signature import Signature, TensorSpec
from .status import ABI_VERSION, TEXTS, UNKNOWN, Status

ALIGNMENT = 64

# ONNX's TensorProto.DataType numbers.
DTYPE_CODES = {
    "f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "u32": 12,
    "u64": 13, "c64": 14, "c128": 15, "bf16": 16, "f8e4m3": 17, "f8e5m2": 19, "u4": 21, "i4": 22,
}  # fmt: skip

PUBLIC = (
    "abi_version", "query", "load", "load_memory", "free", "workspace_size", "run", "error_string", "threads_create",
    "threads_destroy", "entry",
)  # fmt: skip


def identifier(name: str) -> str:
    """A C identifier for a model of any name; `octavo_` is put before it, so keywords are no concern.

    >>> identifier("yolo-v8 (int8)"), identifier("run"), identifier("3d")
    ('yolo_v8_int8', 'run_model', '3d')
    """
    text = re.sub(r"[^A-Za-z0-9]+", "_", name)[:64].strip("_") or "model"
    clashes = any(text == public or text.endswith("_" + public) for public in (*PUBLIC, "workspace"))
    return text + "_model" if clashes else text


def exported(program: NativeProgram) -> list[str]:
    """The names of all public symbols of the model's library."""
    prefix = _prefix(program)
    return [prefix + public for public in PUBLIC] + ["octavo_" + public for public in PUBLIC]


def abi_ir(program: NativeProgram) -> str:
    """The wrapper and the thread pool as one LLVM module for the program's instruction set."""
    processor = processor_of(program.triple)
    if any(processor_of(v.triple) != processor for v in program.variants):
        raise TargetError(f"the variants of model {program.name!r} are for different instruction sets; compile one artifact each")
    if processor.name == "x86_64" and host_processor() != processor:
        raise TargetError("x86-64 artifacts can only be built on x86-64: this llvmlite has no assembler for other machines")
    prefix = _prefix(program)
    nbytes = program.weights_array.size
    fixed = template("abi.ll").substitute(
        {s.name: int(s) for s in Status},
        prefix=prefix,
        ABI_VERSION=ABI_VERSION,
        HAS_WEIGHTS="true" if nbytes else "false",
        WEIGHTS_BYTES=nbytes,
        STATUSES=len(TEXTS),
        probe=_PROBES[processor.name].replace("${prefix}", prefix),
    )
    signature = program.signature
    parts = [
        pool_ir(program.triple, prefix),
        fixed,
        _constants(program, prefix, nbytes),
        _dispatch(program.variants, processor.name, prefix),
        _bind_inputs(signature, prefix),
        _bind_outputs(signature, prefix),
        _workspace_size(signature, prefix),
        _run(signature, prefix),
    ]
    aliases = [f"@octavo_{name} = weak alias ptr, ptr @{prefix}{name}" for name in PUBLIC]
    return "\n".join(parts + aliases) + "\n"


def metadata_json(program: NativeProgram) -> str:
    """What `octavo_query` tells: the signature and whatever the compiler recorded, as JSON in ASCII."""
    return json.dumps({"signature": program.signature.to_json(), "metadata": program.metadata}, sort_keys=True)


def fold_dim(dim: Dim, leaf: Callable[[int | str], str], op: Callable[[str, str, str], str]) -> str:
    """A dim as code: `leaf` writes a number or a symbol, `op` one of add, mul, floordiv, mod, max, min of two texts."""
    if isinstance(dim, int):
        return leaf(dim)
    total = ""
    for monomial, coefficient in dim.terms:
        term = leaf(coefficient) if coefficient != 1 or not monomial else ""
        for atom in monomial:
            text = leaf(atom.args[0]) if atom.op == "symbol" else op(atom.op, *(fold_dim(a, leaf, op) for a in atom.args))
            term = op("mul", term, text) if term else text
        total = op("add", total, term) if total else term
    return total


def _prefix(program: NativeProgram) -> str:
    return f"octavo_{identifier(program.signature.name)}_"


class _Function:
    """Writes the text of one LLVM function; `require` leaves it with a status where a condition does not hold."""

    def __init__(self, head: str):
        self.lines = [head + " nounwind {", "entry:"]
        self._numbers = itertools.count()
        self._failures: set[Status] = set()

    def value(self, text: str) -> str:
        name = f"%v{next(self._numbers)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def at(self, base: str, index: int | str, type: str = "ptr") -> str:
        """The address of element `index` of an array of `type`."""
        return self.value(f"getelementptr {type}, ptr {base}, i64 {index}")

    def field(self, struct: str, base: str, index: int) -> str:
        return self.value(f"getelementptr {struct}, ptr {base}, i32 0, i32 {index}")

    def load(self, type: str, address: str) -> str:
        return self.value(f"load {type}, ptr {address}")

    def require(self, condition: str, status: Status) -> None:
        good = f"g{next(self._numbers)}"
        self._failures.add(status)
        self.line(f"br i1 {condition}, label %{good}, label %fail{status.value}")
        self.lines.append(f"{good}:")

    def require_ok(self, code: str) -> None:
        """Returns `code` unless it is zero."""
        good, bad = f"g{next(self._numbers)}", f"b{next(self._numbers)}"
        self.line(f"br i1 {self.value(f'icmp eq i32 {code}, 0')}, label %{good}, label %{bad}")
        self.lines += [f"{bad}:", f"  ret i32 {code}", f"{good}:"]

    def dim(self, dim: Dim, sizes: dict[str, str]) -> str:
        """The value of a dim whose symbols are in registers."""
        return fold_dim(dim, lambda d: str(d) if isinstance(d, int) else sizes[d], self._arithmetic)

    def _arithmetic(self, op: str, a: str, b: str) -> str:
        if op in ("max", "min"):
            return self.value(f"call i64 @llvm.s{op}.i64(i64 {a}, i64 {b})")
        if op in ("add", "mul"):
            return self.value(f"{op} i64 {a}, {b}")
        zero = self.value(f"icmp eq i64 {b}, 0")  # division by zero would trap; such a size fits nothing anyway
        divisor = self.value(f"select i1 {zero}, i64 1, i64 {b}")
        remainder = self.value(f"srem i64 {a}, {divisor}")
        signs = self.value(f"xor i64 {remainder}, {divisor}")
        below = self.value(f"icmp slt i64 {signs}, 0")
        some = self.value(f"icmp ne i64 {remainder}, 0")
        adjust = self.value(f"and i1 {below}, {some}")
        if op == "mod":
            return self.value(f"add i64 {remainder}, {self.value(f'select i1 {adjust}, i64 {divisor}, i64 0')}")
        quotient = self.value(f"sdiv i64 {a}, {divisor}")
        return self.value(f"sub i64 {quotient}, {self.value(f'zext i1 {adjust} to i64')}")

    def end(self, result: str = "i32 0") -> str:
        self.line(f"ret {result}")
        for status in sorted(self._failures):
            self.lines += [f"fail{status.value}:", f"  ret i32 {status.value}"]
        return "\n".join([*self.lines, "}", ""])


def _constants(program: NativeProgram, prefix: str, nbytes: int) -> str:
    signature = program.signature
    lines = [
        string_constant(f"{prefix}name", identifier(program.signature.name)),
        string_constant(f"{prefix}metadata", metadata_json(program)),
        string_constant(f"{prefix}unknown", UNKNOWN),
        *[string_constant(f"{prefix}text{s.value}", text) for s, text in TEXTS.items()],
        _table(f"{prefix}texts", [f"{prefix}text{s.value}" for s in TEXTS]),
        _table(f"{prefix}mains", [f"{v.prefix}_main" for v in program.variants]),
        _offsets(f"{prefix}offsets", program),
        _table(f"{prefix}workspaces", [f"{v.prefix}_workspace" for v in program.variants]),
        f"@{prefix}info = internal constant {{ i32, i32, i32, i32, i64, ptr, ptr }} {{ i32 {ABI_VERSION}, "
        f"i32 {len(signature.inputs)}, i32 {len(signature.outputs)}, i32 {len(signature.symbols)}, i64 {nbytes}, "
        f"ptr @{prefix}name, ptr @{prefix}metadata }}",
    ]
    for variant in program.variants:
        lines.append(f"declare hidden i32 @{variant.prefix}_main(ptr, ptr, ptr, ptr, ptr, ptr)")
        lines.append(f"declare hidden i64 @{variant.prefix}_workspace(ptr, i32)")
    return "\n".join(lines) + "\n"


def _table(name: str, members: list[str]) -> str:
    return f"@{name} = internal constant [{len(members)} x ptr] [{', '.join(f'ptr @{m}' for m in members)}]"


def _offsets(name: str, program: NativeProgram) -> str:
    values = ", ".join(f"i64 {variant.weights_offset}" for variant in program.variants)
    return f"@{name} = internal constant [{len(program.variants)} x i64] [{values}]"


def _dispatch(variants: list[Variant], processor: str, prefix: str) -> str:
    """The index of the first variant that this processor can run, or -1."""
    f = _Function(f"define internal i32 @{prefix}dispatch()")
    for k, variant in enumerate(variants):
        fits = "true"
        probes = probes_of(processor, variant.features)
        for word, mask in sorted(_masks(probes).items()):
            found = f.value(f"call i64 @{prefix}probe(i32 {_signed(word[0])}, i32 {word[1]}, i32 {word[2]})")
            fits = _and_mask(f, fits, found, mask)
        state = 0
        for probe in probes:
            state |= probe.state
        if state:
            fits = _and_mask(f, fits, f.value(f"call i64 @{prefix}saved_state()"), state)
        for component in sorted({probe.permission for probe in probes} - {0}):
            f.line(f"br i1 {fits}, label %ask{k}.{component}, label %after{k}")
            f.lines.append(f"ask{k}.{component}:")
            answer = f.value(f"call i64 (i64, ...) @syscall(i64 {ARCH_PRCTL}, i64 {ASK}, i64 {component})")
            fits = f.value(f"icmp eq i64 {answer}, 0")
        f.line(f"br i1 {fits}, label %take{k}, label %after{k}")
        f.lines += [f"take{k}:", f"  ret i32 {k}", f"after{k}:"]
    return f.end("i32 -1")


def _masks(probes: list[Probe]) -> dict[tuple[int, int, int], int]:
    masks: dict[tuple[int, int, int], int] = {}
    for probe in probes:
        word = (probe.leaf, probe.subleaf, probe.register)
        masks[word] = masks.get(word, 0) | 1 << probe.bit
    return masks


def _signed(leaf: int) -> int:
    return leaf - (1 << 32) if leaf >= 1 << 31 else leaf


def _and_mask(f: _Function, fits: str, found: str, mask: int) -> str:
    has = f.value(f"icmp eq i64 {f.value(f'and i64 {found}, {mask}')}, {mask}")
    return f.value(f"and i1 {fits}, {has}")


def _check(f: _Function, prefix: str, spec: TensorSpec, tensor: str) -> None:
    size = spec.type.itemsize
    alignment = 0 if spec.defined else min(size, 8)
    f.require_ok(
        f.value(
            f"call i32 @{prefix}check_tensor(ptr {tensor}, i32 {DTYPE_CODES[spec.dtype]}, i32 {len(spec.shape)}, "
            f"i64 {size}, i64 {alignment})"
        )
    )


def _bind_inputs(signature: Signature, prefix: str) -> str:
    """Checks the inputs, stores the symbols' values to `sizes` and the data pointers to `table`."""
    f = _Function(f"define internal i32 @{prefix}bind_inputs(ptr %tensors, ptr %sizes, ptr %table)")
    shapes = []
    for k, spec in enumerate(signature.inputs):
        tensor = f.at("%tensors", k, "%tensor")
        _check(f, prefix, spec, tensor)
        f.line(f"store ptr {f.load('ptr', tensor)}, ptr {f.at('%table', k)}")
        shapes.append(f.load("ptr", f.field("%tensor", tensor, 1)))
    sizes: dict[str, str] = {}
    for index, name in enumerate(signature.symbols):
        k, axis = next((k, s.shape.index(name)) for k, s in enumerate(signature.inputs) if name in s.shape)
        sizes[name] = f.load("i64", f.at(shapes[k], axis, "i64"))
        f.line(f"store i64 {sizes[name]}, ptr {f.at('%sizes', index, 'i64')}")
    for spec, shape in zip(signature.inputs, shapes):
        _require_dims(f, spec, shape, sizes)
    for requirement in signature.requirements:
        f.require(f.value(f"icmp eq i64 {f.dim(requirement.dim, sizes)}, 0"), Status.SHAPE)
    return f.end()


def _bind_outputs(signature: Signature, prefix: str) -> str:
    """Checks the outputs; `table` gets the data pointers, or the address of a slot where the run defines the size."""
    f = _Function(f"define internal i32 @{prefix}bind_outputs(ptr %tensors, ptr %sizes, ptr %table, ptr %slots)")
    sizes = {name: f.load("i64", f.at("%sizes", k, "i64")) for k, name in enumerate(signature.symbols)}
    for k, spec in enumerate(signature.outputs):
        tensor = f.at("%tensors", k, "%tensor")
        _check(f, prefix, spec, tensor)
        if spec.defined:
            f.line(f"store ptr {f.at('%slots', k)}, ptr {f.at('%table', k)}")
            continue
        f.line(f"store ptr {f.load('ptr', tensor)}, ptr {f.at('%table', k)}")
        if spec.shape:
            _require_dims(f, spec, f.load("ptr", f.field("%tensor", tensor, 1)), sizes)
    return f.end()


def _require_dims(f: _Function, spec: TensorSpec, shape: str, sizes: dict[str, str]) -> None:
    for axis, dim in enumerate(spec.dims):
        given = f.load("i64", f.at(shape, axis, "i64"))
        f.require(f.value(f"icmp eq i64 {given}, {f.dim(dim, sizes)}"), Status.SHAPE)


def _require_handle(f: _Function, prefix: str) -> None:
    f.require(f.value("icmp ne ptr %handle, null"), Status.NULL)
    f.require(f.value(f"icmp eq ptr {f.load('ptr', '%handle')}, @{prefix}info"), Status.HANDLE)


def _require_tensors(f: _Function, what: str, count: int) -> None:
    f.require(f.value(f"icmp eq i32 %{what}_count, {count}"), Status.COUNT)
    if count:
        f.require(f.value(f"icmp ne ptr %{what}, null"), Status.NULL)


def _workers(f: _Function, prefix: str) -> tuple[str, str]:
    """How many threads the caller offers, and whether it is more than one."""
    offered = f.value("icmp ne ptr %threads, null")
    usable = f.value(f"select i1 {offered}, ptr %threads, ptr @{prefix}no_threads")
    count = f.load("i32", f.field("%threads", usable, 2))
    several = f.value(f"icmp sgt i32 {count}, 1")
    return f.value(f"select i1 {several}, i32 {count}, i32 1"), several


def _needed(f: _Function, sizes: str, workers: str) -> str:
    code = f.load("ptr", f.field("%entries", f.field("%handle", "%handle", 3), 1))
    return f.value(f"call i64 {code}(ptr {sizes}, i32 {workers})")


def _words(signature: Signature) -> int:
    """The length of `sizes`: the symbols' values, and the address of a text that says what did not fit."""
    return len(signature.symbols) + len(signature.defined) + 1


def _workspace_size(signature: Signature, prefix: str) -> str:
    """int32_t workspace_size(handle, inputs, input_count, threads, int64_t *bytes)"""
    inputs = len(signature.inputs)
    f = _Function(f"define i32 @{prefix}workspace_size(ptr %handle, ptr %inputs, i32 %inputs_count, ptr %threads, ptr %bytes)")
    _require_handle(f, prefix)
    f.require(f.value("icmp ne ptr %bytes, null"), Status.NULL)
    _require_tensors(f, "inputs", inputs)
    sizes = f.value(f"alloca [{_words(signature)} x i64]")
    table = f.value(f"alloca [{inputs} x ptr]")
    f.require_ok(f.value(f"call i32 @{prefix}bind_inputs(ptr %inputs, ptr {sizes}, ptr {table})"))
    needed = _needed(f, sizes, _workers(f, prefix)[0])
    f.require(f.value(f"icmp sge i64 {needed}, 0"), Status.SHAPE)
    f.line(f"store i64 {needed}, ptr %bytes")
    return f"@{prefix}no_threads = internal constant %threads zeroinitializer\n" + f.end()


def _run(signature: Signature, prefix: str) -> str:
    """int32_t run(handle, inputs, input_count, outputs, output_count, workspace, workspace_bytes, threads)"""
    inputs, outputs = len(signature.inputs), len(signature.outputs)
    f = _Function(
        f"define i32 @{prefix}run(ptr %handle, ptr %inputs, i32 %inputs_count, ptr %outputs, i32 %outputs_count, "
        "ptr %workspace, i64 %workspace_bytes, ptr %threads)"
    )
    _require_handle(f, prefix)
    _require_tensors(f, "inputs", inputs)
    _require_tensors(f, "outputs", outputs)
    sizes = f.value(f"alloca [{_words(signature)} x i64]")
    input_table = f.value(f"alloca [{inputs} x ptr]")
    output_table = f.value(f"alloca [{outputs} x ptr]")
    slots = f.value(f"alloca [{outputs} x ptr]")
    f.require_ok(f.value(f"call i32 @{prefix}bind_inputs(ptr %inputs, ptr {sizes}, ptr {input_table})"))
    f.require_ok(f.value(f"call i32 @{prefix}bind_outputs(ptr %outputs, ptr {sizes}, ptr {output_table}, ptr {slots})"))
    workers, several = _workers(f, prefix)
    needed = _needed(f, sizes, workers)
    f.require(f.value(f"icmp sge i64 {needed}, 0"), Status.SHAPE)
    f.require(f.value(f"icmp sge i64 %workspace_bytes, {needed}"), Status.WORKSPACE)
    missing = f.value("icmp eq ptr %workspace, null")
    wanted = f.value(f"icmp ne i64 {needed}, 0")
    f.require(f.value(f"xor i1 {f.value(f'and i1 {missing}, {wanted}')}, true"), Status.NULL)
    low = f.value(f"and i64 {f.value('ptrtoint ptr %workspace to i64')}, {ALIGNMENT - 1}")
    f.require(f.value(f"icmp eq i64 {low}, 0"), Status.ALIGNMENT)
    pool = f.value(f"select i1 {several}, ptr %threads, ptr null")
    loop = f.load("ptr", f.value(f"select i1 {several}, ptr %threads, ptr %handle"))  # the handle's first field is not null
    f.require(f.value(f"icmp ne ptr {loop}, null"), Status.NULL)
    code = f.field("%handle", "%handle", 3)
    offset = f.load("i64", f.field("%entries", code, 2))
    weights = f.at(f.load("ptr", f.field("%handle", "%handle", 1)), offset, "i8")
    main = f.load("ptr", code)
    f.require_ok(
        f.value(f"call i32 {main}(ptr {input_table}, ptr {output_table}, ptr {sizes}, ptr {weights}, ptr %workspace, ptr {pool})")
    )
    _report_defined(f, signature, sizes, slots)
    return f.end()


def _report_defined(f: _Function, signature: Signature, sizes: str, slots: str) -> None:
    """Tells the caller where in the workspace the outputs of run-time size lie, and their shapes."""
    if not signature.defined:
        return
    values = {n: f.load("i64", f.at(sizes, k, "i64")) for k, n in enumerate((*signature.symbols, *signature.defined))}
    for k, spec in enumerate(signature.outputs):
        if spec.defined:
            tensor = f.at("%outputs", k, "%tensor")
            f.line(f"store ptr {f.load('ptr', f.at(slots, k))}, ptr {tensor}")
            shape = f.load("ptr", f.field("%tensor", tensor, 1))
            for axis, dim in enumerate(spec.dims):
                f.line(f"store i64 {f.dim(dim, values)}, ptr {f.at(shape, axis, 'i64')}")


_PROBES = {
    "x86_64": """
; A register of cpuid, or 0 where the processor does not know the leaf.
define internal i64 @${prefix}probe(i32 %leaf, i32 %subleaf, i32 %register) nounwind {
entry:
  %base = and i32 %leaf, -2147483648
  %top = call { i32, i32, i32, i32 } asm "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}"(i32 %base, i32 0)
  %most = extractvalue { i32, i32, i32, i32 } %top, 0
  %known = icmp ule i32 %leaf, %most
  br i1 %known, label %ask, label %none
ask:
  %all = call { i32, i32, i32, i32 } asm "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}"(i32 %leaf, i32 %subleaf)
  %a = extractvalue { i32, i32, i32, i32 } %all, 0
  %b = extractvalue { i32, i32, i32, i32 } %all, 1
  %c = extractvalue { i32, i32, i32, i32 } %all, 2
  %d = extractvalue { i32, i32, i32, i32 } %all, 3
  %low = icmp ult i32 %register, 2
  %even = and i32 %register, 1
  %odd = icmp ne i32 %even, 0
  %ab = select i1 %odd, i32 %b, i32 %a
  %cd = select i1 %odd, i32 %d, i32 %c
  %chosen = select i1 %low, i32 %ab, i32 %cd
  %wide = zext i32 %chosen to i64
  ret i64 %wide
none:
  ret i64 0
}

; The register state that the operating system saves (XCR0), or 0 where it saves none.
define internal i64 @${prefix}saved_state() nounwind {
entry:
  %c = call i64 @${prefix}probe(i32 1, i32 0, i32 2)
  %bit = and i64 %c, 134217728                        ; OSXSAVE
  %has = icmp ne i64 %bit, 0
  br i1 %has, label %read, label %none
read:
  %state = call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)
  %low = extractvalue { i32, i32 } %state, 0
  %wide = zext i32 %low to i64
  ret i64 %wide
none:
  ret i64 0
}
""",
    "aarch64": """
declare i64 @getauxval(i64)
define internal i64 @${prefix}probe(i32 %leaf, i32 %subleaf, i32 %register) nounwind {
  %wide = zext i32 %leaf to i64
  %word = call i64 @getauxval(i64 %wide)
  ret i64 %word
}
""",
}
