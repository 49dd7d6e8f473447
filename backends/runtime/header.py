"""model.h: the C interface of one model, with a typed function so that a C program writes no tensor structs.

The typed function is `static inline` over `octavo_MODEL_run`, which checks all that the machine code relies on.  Headers of
several models can be included together.  Names from the model reach the text only as identifiers or as escaped comments.
"""

from __future__ import annotations

import json
import re

from ...ir.dims import Dim
from .abi import ALIGNMENT, DTYPE_CODES, fold_dim, identifier
from .signature import Signature, TensorSpec
from .status import ABI_VERSION, TEXTS

_C_TYPES = {
    "f32": "float", "f64": "double", "i8": "int8_t", "u8": "uint8_t", "i16": "int16_t", "u16": "uint16_t", "i32": "int32_t",
    "u32": "uint32_t", "i64": "int64_t", "u64": "uint64_t", "bool": "uint8_t", "i4": "int8_t", "u4": "uint8_t",
    "f16": "uint16_t", "bf16": "uint16_t", "f8e4m3": "uint8_t", "f8e5m2": "uint8_t", "c64": "float", "c128": "double",
}  # fmt: skip
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double else
        enum explicit export extern false float for friend goto if inline int long mutable namespace new not nullptr operator or
        private protected public register restrict return short signed sizeof static struct switch template this throw true try
        typedef typeof union unsigned using virtual void volatile while xor
        handle workspace workspace_bytes threads inputs outputs status""",
    )
)

_COMMON = """#ifndef OCTAVO_ABI_H
#define OCTAVO_ABI_H
#include <stddef.h>
#include <stdint.h>

#define OCTAVO_ABI_VERSION $VERSION
#define OCTAVO_WORKSPACE_ALIGNMENT $ALIGNMENT

/* What every function returns; octavo_MODEL_error_string says it in words. */
enum {
$STATUSES
};

/* Element types, numbered as in ONNX; f16 and bf16 travel as uint16_t, complex numbers as two reals. */
enum {
$DTYPES
};

/* A dense row-major tensor aligned to its element size. */
typedef struct octavo_tensor {
  void *data;
  int64_t *shape;
  int32_t rank;
  int32_t dtype;
} octavo_tensor;

/* How a model runs on several threads: parallel_for calls body(context, begin, end, worker) over disjoint chunks of 0..n, from
   at most `workers` threads with different numbers 0 <= worker < workers, and returns when all is done.  NULL: one thread. */
typedef void octavo_body(void *context, int64_t begin, int64_t end, int32_t worker);
typedef struct octavo_threads {
  void (*parallel_for)(void *pool, octavo_body *body, void *context, int64_t n);
  void *pool;
  int32_t workers;
} octavo_threads;

typedef struct octavo_info {
  int32_t abi_version, inputs, outputs, symbols;
  int64_t weights_bytes;
  const char *name;
  const char *metadata; /* JSON */
} octavo_info;

typedef struct octavo_handle octavo_handle;

static inline int64_t octavo_floordiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
static inline int64_t octavo_mod(int64_t a, int64_t b) { return a - b * octavo_floordiv(a, b); }
static inline int64_t octavo_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t octavo_min(int64_t a, int64_t b) { return a < b ? a : b; }
#endif
"""

_MODEL = """
#ifdef __cplusplus
extern "C" {
#endif

/* A program that opens one library at a time finds the same functions without the model's name: octavo_load, octavo_run, ... */
int32_t $P_abi_version(void);
const octavo_info *$P_query(void);
const char *$P_error_string(int32_t status);

/* Maps the weights (weights.bin; NULL where the model has none) and chooses the code for this processor.  One handle serves any
   number of threads at the same time. */
int32_t $P_load(const char *weights_path, octavo_handle **handle);
/* As load, for weights in memory at a multiple of 64 bytes, which must outlive the handle. */
int32_t $P_load_memory(const void *weights, int64_t bytes, octavo_handle **handle);
void $P_free(octavo_handle *handle);

/* The scratch memory that run needs, aligned to 64 bytes and used by one call at a time. */
int32_t $P_workspace_size(const octavo_handle *handle, const octavo_tensor *inputs, int32_t input_count,
    const octavo_threads *threads, int64_t *bytes);
/* Outputs must not overlap inputs.  Never aborts; keeps no state; allocates nothing. */
int32_t $P_run(const octavo_handle *handle, const octavo_tensor *inputs, int32_t input_count, octavo_tensor *outputs,
    int32_t output_count, void *workspace, int64_t workspace_bytes, const octavo_threads *threads);

/* A pool of threads, the calling one included, for programs that bring none. */
int32_t $P_threads_create(int32_t count, octavo_threads *threads);
void $P_threads_destroy(octavo_threads *threads);

#ifdef __cplusplus
}
#endif
"""


def header(signature: Signature) -> str:
    """The text of model.h."""
    name = identifier(signature.name)
    prefix = f"octavo_{name}"
    statuses = "\n".join(f"  OCTAVO_{'OK' if s == 0 else f'ERROR_{s.name}'} = {s.value}, /* {t} */" for s, t in TEXTS.items())
    dtypes = "\n".join(f"  OCTAVO_{dtype.upper()} = {code}," for dtype, code in DTYPE_CODES.items())
    common = (
        _COMMON.replace("$VERSION", str(ABI_VERSION))
        .replace("$ALIGNMENT", str(ALIGNMENT))
        .replace("$STATUSES", statuses)
        .replace("$DTYPES", dtypes)
    )
    guard = f"OCTAVO_MODEL_{name.upper()}_H"
    return "\n".join(
        [
            f"/* The model {_comment(signature.name)}, compiled by Octavo. */",
            f"#ifndef {guard}\n#define {guard}\n",
            common + _MODEL.replace("$P", prefix),
            _typed(signature, prefix),
            f"#endif /* {guard} */\n",
        ]
    )


def _typed(signature: Signature, prefix: str) -> str:
    """The workspace query and the call with one C parameter for each symbol and tensor."""
    names = _parameters(signature)
    symbols = {name: names[("symbol", name)] for name in (*signature.symbols, *signature.defined)}
    sizes = [f"int64_t {symbols[s]}" for s in signature.symbols]
    inputs = [f"const {_C_TYPES[s.dtype]} *{names[('input', s.name)]}" for s in signature.inputs]
    outputs = [
        f"{'const ' if s.defined else ''}{_C_TYPES[s.dtype]} *{'*' if s.defined else ''}{names[('output', s.name)]}"
        for s in signature.outputs
    ]
    found = [f"int64_t *{symbols[s]}" for s in signature.defined]
    lines = ["/* The scratch memory that the call below needs. */"]
    lines += _signature_line(f"{prefix}_workspace", ["const octavo_handle *handle", *sizes, _THREADS, "int64_t *workspace_bytes"])
    lines += _tensors("inputs", signature.inputs, symbols, names)
    lines.append(f"  return {prefix}_workspace_size(handle, inputs, {len(signature.inputs)}, threads, workspace_bytes);\n}}\n")
    lines.append("/* Runs the model." + _listing("Inputs", signature.inputs) + _listing("Outputs", signature.outputs))
    if signature.defined:
        lines.append("   Outputs of a size that the run finds out point into the workspace afterwards.")
    lines.append("*/")
    scratch = ["void *workspace", "int64_t workspace_bytes", _THREADS]
    lines += _signature_line(prefix, ["const octavo_handle *handle", *sizes, *inputs, *outputs, *found, *scratch])
    lines += _tensors("inputs", signature.inputs, symbols, names, "input")
    lines += _tensors("outputs", signature.outputs, symbols, names, "output")
    lines.append(
        f"  int32_t status = {prefix}_run(handle, inputs, {len(signature.inputs)}, outputs, {len(signature.outputs)}, "
        "workspace, workspace_bytes, threads);"
    )
    lines += _read_back(signature, symbols, names)
    lines.append("  return status;\n}\n")
    return "\n".join(lines)


_THREADS = "const octavo_threads *threads"


def _signature_line(name: str, parameters: list[str]) -> list[str]:
    return [f"static inline int32_t {name}({', '.join(parameters)}) {{"]


def _listing(title: str, specs: tuple[TensorSpec, ...]) -> str:
    return f"\n   {title}: " + (", ".join(f"{_comment(s.name)} {s.text}" for s in specs) or "none")


def _tensors(
    array: str, specs: tuple[TensorSpec, ...], symbols: dict[str, str], names: dict[tuple[str, str], str], kind: str = ""
) -> list[str]:
    """The array of octavo_tensor; without `kind` for their shapes alone, with data that is never read."""
    lines = []
    for k, spec in enumerate(specs):
        if spec.shape:
            dims = ["0" if spec.defined else _c_dim(d, symbols) for d in spec.dims]
            lines.append(f"  int64_t {array}_shape{k}[] = {{{', '.join(dims)}}};")
    rows = []
    for k, spec in enumerate(specs):
        given = names.get((kind, spec.name))
        data = "NULL" if spec.defined else f"(void *)(uintptr_t){given}" if given else "(void *)64"
        shape = f"{array}_shape{k}" if spec.shape else "NULL"
        rows.append(f"{{{data}, {shape}, {len(spec.shape)}, OCTAVO_{spec.dtype.upper()}}}")
    if not rows:
        return [*lines, f"  octavo_tensor *{array} = NULL;"]
    return [*lines, f"  octavo_tensor {array}[] = {{{', '.join(rows)}}};"]


def _read_back(signature: Signature, symbols: dict[str, str], names: dict[tuple[str, str], str]) -> list[str]:
    if not signature.defined:
        return []
    lines = ["  if (status == OCTAVO_OK) {"]
    for k, spec in enumerate(signature.outputs):
        if spec.defined:
            name = names[("output", spec.name)]
            lines.append(f"    if ({name}) *{name} = (const {_C_TYPES[spec.dtype]} *)outputs[{k}].data;")
    for symbol in signature.defined:
        home = next(((k, s.shape.index(symbol)) for k, s in enumerate(signature.outputs) if symbol in s.shape), None)
        if home:
            lines.append(f"    if ({symbols[symbol]}) *{symbols[symbol]} = outputs_shape{home[0]}[{home[1]}];")
    return [*lines, "  }"]


def _c_dim(dim: Dim, symbols: dict[str, str]) -> str:
    calls = {"floordiv", "mod", "max", "min"}
    return fold_dim(
        dim,
        lambda d: f"INT64_C({d})" if isinstance(d, int) else symbols[d],
        lambda op, a, b: f"octavo_{op}({a}, {b})" if op in calls else f"({a} {'+' if op == 'add' else '*'} {b})",
    )


def _parameters(signature: Signature) -> dict[tuple[str, str], str]:
    """A different C name for each symbol, input and output."""
    taken = set(_RESERVED)
    names: dict[tuple[str, str], str] = {}
    wanted = [("symbol", s) for s in (*signature.symbols, *signature.defined)]
    wanted += [("input", s.name) for s in signature.inputs] + [("output", s.name) for s in signature.outputs]
    for kind, name in wanted:
        base = re.sub(r"[^A-Za-z0-9]+", "_", name)[:64].strip("_")
        if not base or base[0].isdigit() or re.match(r"octavo_|OCTAVO_|(in|out)puts_shape", base):
            base = f"{kind}_{base}"
        text, number = base, 1
        while text in taken:
            number += 1
            text = f"{base}_{kind}{number if number > 2 else ''}"
        taken.add(text)
        names[(kind, name)] = text
    return names


def _comment(name: str) -> str:
    """Any text as a quoted ASCII string that cannot end a comment."""
    return json.dumps(name[:200]).replace("*/", "*\\/").replace("/*", "/\\*")
