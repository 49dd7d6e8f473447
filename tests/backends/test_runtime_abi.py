"""The C interface: a C program with two models, and every misuse as a status instead of a crash."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from octavo.backends.runtime import link
from octavo.backends.runtime.abi import abi_ir, identifier
from octavo.backends.runtime.assembly import assemble
from octavo.backends.runtime.header import header
from octavo.backends.runtime.library import build_library
from octavo.backends.runtime.native import NativeProgram, Variant
from octavo.backends.runtime.signature import Signature, TensorSpec
from octavo.backends.runtime.status import TEXTS, Status
from octavo.ir.errors import CodegenError, TargetError

from .handmade import TRIPLE, affine, checked, positive, two_levels

SOURCE = Path(__file__).with_name("two_models.c")
ARM = "aarch64-unknown-linux-gnu"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def write(folder: Path, program: NativeProgram) -> Path:
    folder.mkdir()
    (folder / "model.so").write_bytes(build_library(program))
    (folder / "model.h").write_text(header(program.signature))
    (folder / "weights.bin").write_bytes(bytes(program.weights_array))
    return folder


@pytest.fixture(scope="module")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = tool("cc")
    folder = tmp_path_factory.mktemp("c")
    first, second = write(folder / "first", two_levels("first")), write(folder / "second", positive("second model"))
    libraries = [str(first / "model.so"), str(second / "model.so")]
    flags = ["-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", f"-I{folder}"]
    program = str(folder / "two_models")
    subprocess.run([compiler, *flags, str(SOURCE), *libraries, "-o", program], check=True)
    return [program, str(first / "weights.bin"), str(second / "weights.bin")]


def test_a_c_program_runs_two_models_from_several_threads(c_program: list[str]):
    assert subprocess.run(c_program, capture_output=True, text=True, check=True).stdout == "ok\n"


def test_the_c_program_is_clean_under_valgrind(c_program: list[str]):
    checks = [
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--errors-for-leak-kinds=all",
        "--fair-sched=yes",
    ]
    done = subprocess.run([tool("valgrind"), *checks, *c_program], capture_output=True, text=True)
    if "Unrecognised instruction" in done.stderr:
        pytest.skip("this valgrind does not know the processor's instructions")
    assert done.returncode == 0, done.stderr
    assert "ERROR SUMMARY: 0 errors" in done.stderr


def test_headers_are_c_and_c_plus_plus(tmp_path: Path):
    write(tmp_path / "first", affine("first"))
    write(tmp_path / "second", positive("int"))
    source = tmp_path / "both.c"
    source.write_text('#include "first/model.h"\n#include "second/model.h"\n#include "first/model.h"\nint main(void) { return 0; }\n')
    for command in (["cc", "-std=c99"], ["c++", "-x", "c++", "-std=c++11"]):
        strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
        subprocess.run([tool(command[0]), *command[1:], *strict, str(source)], check=True)


def test_names_never_break_out_of_the_header(tmp_path: Path):
    names = ['*/ #error "out"', "int", "x\n#error", "1", "数", "handle", "a b", "a_b", "octavo_run", ""]
    signature = Signature(
        '*/\n#error "name"\\',
        tuple(TensorSpec(n, "f32", ("n", "max(n,3)", "n//2", "n%2", "2*n-1")) for n in names),
        tuple(TensorSpec(n, "i4", ()) for n in names),
        ("n",),
    )
    (tmp_path / "model.c").write_text(header(signature) + "int main(void) { return 0; }\n")
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    subprocess.run([tool("cc"), *strict, str(tmp_path / "model.c")], check=True)


def test_a_library_needs_libc_alone_and_exports_the_interface_alone(tmp_path: Path):
    folder = write(tmp_path / "m", affine("alone"))
    needed = subprocess.run([tool("ldd"), str(folder / "model.so")], capture_output=True, text=True).stdout
    assert all(any(word in line for word in ("libc.", "ld-linux", "vdso", "statically linked")) for line in needed.splitlines())
    symbols = subprocess.run([tool("nm"), "-D", "--defined-only", str(folder / "model.so")], capture_output=True, text=True).stdout
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert names
    assert all(name.startswith("octavo_") for name in names)
    assert {"octavo_run", "octavo_alone_run", "octavo_query", "octavo_abi_version"} <= set(names)


def test_the_same_program_gives_the_same_bytes():
    assert build_library(affine("same")) == build_library(affine("same"))
    assert header(affine("same").signature) == header(affine("same").signature)


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("shape", ctypes.c_void_p), ("rank", ctypes.c_int32), ("dtype", ctypes.c_int32)]


class Call:
    """A correct call of a library's octavo_run on y[n,3] = x[n,3] * 2 + 1, to be spoiled in one place."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p):
        self.library, self.handle = library, handle
        self.x, self.y = np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32)
        self.x_shape, self.y_shape = (ctypes.c_int64 * 2)(4, 3), (ctypes.c_int64 * 2)(4, 3)
        self.input = Tensor(self.x.ctypes.data, ctypes.addressof(self.x_shape), 2, 1)
        self.output = Tensor(self.y.ctypes.data, ctypes.addressof(self.y_shape), 2, 1)
        self.memory = np.zeros(256, np.uint8)
        self.workspace = -(-self.memory.ctypes.data // 64) * 64
        self.bytes, self.counts = 64, [1, 1]
        self.inputs: Any = ctypes.byref(self.input)
        self.outputs: Any = ctypes.byref(self.output)
        self.threads: Any = None

    def run(self) -> int:
        return self.library.octavo_run(
            self.handle, self.inputs, self.counts[0], self.outputs, self.counts[1], ctypes.c_void_p(self.workspace),
            ctypes.c_int64(self.bytes), self.threads,
        )  # fmt: skip

    def workspace_size(self, out: Any) -> int:
        return self.library.octavo_workspace_size(self.handle, self.inputs, self.counts[0], self.threads, out)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[ctypes.CDLL, ctypes.c_void_p, Path]:
    folder = write(tmp_path_factory.mktemp("abi") / "m", affine("misuse"))
    library, handle = ctypes.CDLL(str(folder / "model.so")), ctypes.c_void_p()
    assert library.octavo_load(str(folder / "weights.bin").encode(), ctypes.byref(handle)) == Status.OK
    return library, handle, folder


@pytest.fixture
def call(opened: tuple[ctypes.CDLL, ctypes.c_void_p, Path]) -> Call:
    return Call(opened[0], opened[1])


def test_a_correct_call_works(call: Call):
    assert call.run() == Status.OK
    assert (call.y == 3).all()


SPOILERS: list[tuple[Status, Callable[[Call], object]]] = [
    (Status.NULL, lambda c: setattr(c, "handle", None)),
    (Status.NULL, lambda c: setattr(c, "inputs", None)),
    (Status.NULL, lambda c: setattr(c, "outputs", None)),
    (Status.NULL, lambda c: setattr(c, "workspace", 0)),
    (Status.NULL, lambda c: setattr(c.input, "data", None)),
    (Status.NULL, lambda c: setattr(c.output, "data", None)),
    (Status.NULL, lambda c: setattr(c.input, "shape", None)),
    (Status.NULL, lambda c: setattr(c, "threads", ctypes.byref((ctypes.c_int64 * 3)(0, 0, 2)))),
    (Status.HANDLE, lambda c: setattr(c, "handle", ctypes.byref((ctypes.c_int64 * 5)()))),
    (Status.COUNT, lambda c: setattr(c, "counts", [2, 1])),
    (Status.COUNT, lambda c: setattr(c, "counts", [1, 0])),
    (Status.COUNT, lambda c: setattr(c, "counts", [-1, 1])),
    (Status.DTYPE, lambda c: setattr(c.input, "dtype", 11)),
    (Status.DTYPE, lambda c: setattr(c.output, "dtype", 0)),
    (Status.RANK, lambda c: setattr(c.input, "rank", 3)),
    (Status.RANK, lambda c: setattr(c.output, "rank", -1)),
    (Status.SHAPE, lambda c: c.x_shape.__setitem__(1, 4)),
    (Status.SHAPE, lambda c: c.x_shape.__setitem__(0, -1)),
    (Status.SHAPE, lambda c: c.x_shape.__setitem__(0, 1 << 62)),
    (Status.SHAPE, lambda c: c.y_shape.__setitem__(0, 5)),
    (Status.SHAPE, lambda c: c.y_shape.__setitem__(1, 2)),
    (Status.ALIGNMENT, lambda c: setattr(c.input, "data", c.x.ctypes.data + 2)),
    (Status.ALIGNMENT, lambda c: setattr(c.output, "data", c.y.ctypes.data + 1)),
    (Status.ALIGNMENT, lambda c: setattr(c, "workspace", c.workspace + 8)),
    (Status.WORKSPACE, lambda c: setattr(c, "bytes", 7)),
    (Status.WORKSPACE, lambda c: setattr(c, "bytes", -1)),
]


@pytest.mark.parametrize(("status", "spoil"), SPOILERS, ids=[f"{k}-{s.name}" for k, (s, _) in enumerate(SPOILERS)])
def test_misuse_gives_a_status(call: Call, status: Status, spoil: Callable[[Call], object]):
    spoil(call)
    assert call.run() == status
    assert not call.y.any()


def test_no_rows_need_no_data(call: Call):
    call.x_shape[0] = call.y_shape[0] = 0
    call.input.data = call.output.data = None
    assert call.run() == Status.OK


def test_the_workspace_grows_with_the_threads(call: Call):
    nbytes = ctypes.c_int64()
    assert call.workspace_size(None) == Status.NULL
    assert call.workspace_size(ctypes.byref(nbytes)) == Status.OK
    assert nbytes.value == 8
    call.threads = ctypes.byref((ctypes.c_int64 * 3)(1, 1, 4))
    assert call.workspace_size(ctypes.byref(nbytes)) == Status.OK
    assert nbytes.value == 32


def test_weights_are_checked_when_they_are_loaded(opened: tuple[ctypes.CDLL, ctypes.c_void_p, Path], tmp_path: Path):
    library, _, folder = opened
    handle = ctypes.c_void_p()
    (tmp_path / "short").write_bytes(b"\0" * 63)
    assert library.octavo_load(str(tmp_path / "short").encode(), ctypes.byref(handle)) == Status.WEIGHTS
    assert library.octavo_load(str(tmp_path / "missing").encode(), ctypes.byref(handle)) == Status.FILE
    assert library.octavo_load(None, ctypes.byref(handle)) == Status.NULL
    assert library.octavo_load(str(folder / "weights.bin").encode(), None) == Status.NULL
    memory = np.zeros(256, np.uint8)
    start = -(-memory.ctypes.data // 64) * 64
    load = library.octavo_load_memory
    load.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    assert load(start, 63, ctypes.byref(handle)) == Status.WEIGHTS
    assert load(start + 4, 64, ctypes.byref(handle)) == Status.ALIGNMENT
    assert load(None, 64, ctypes.byref(handle)) == Status.NULL
    assert handle.value is None
    assert load(start, 64, ctypes.byref(handle)) == Status.OK
    library.octavo_free(handle)


def test_every_status_has_its_text(opened: tuple[ctypes.CDLL, ctypes.c_void_p, Path]):
    text = opened[0].octavo_error_string
    text.restype = ctypes.c_char_p
    assert [text(int(s)).decode() for s in Status] == [TEXTS[s] for s in Status]
    assert text(-1) == text(len(Status)) == b"unknown status code"


def test_expressions_are_checked_in_c_as_in_python(tmp_path: Path):
    folder = write(tmp_path / "m", checked())
    library, handle = ctypes.CDLL(str(folder / "model.so")), ctypes.c_void_p()
    assert library.octavo_load(None, ctypes.byref(handle)) == Status.OK
    memory = np.zeros(64)

    def status(*shapes: tuple[int, ...]) -> int:
        buffers = [(ctypes.c_int64 * len(s))(*s) for s in shapes]
        made = [Tensor(memory.ctypes.data, ctypes.addressof(b), len(b), d) for b, d in zip(buffers, (1, 7, 1, 1))]
        inputs, outputs = (Tensor * 3)(*made[:3]), (Tensor * 1)(made[3])
        return library.octavo_run(handle, inputs, 3, outputs, 1, None, ctypes.c_int64(0), None)

    assert status((2, 5), (2,), (1,), (2, 2)) == Status.OK
    assert status((2, 6), (2,), (1,), (2, 2)) == Status.SHAPE
    assert status((2, 5), (3,), (1,), (2, 2)) == Status.SHAPE
    assert status((2, 5), (2,), (2,), (2, 2)) == Status.SHAPE
    assert status((2, 5), (2,), (1,), (2, 5)) == Status.SHAPE
    assert status((4, 9), (4,), (1,), (4, 4)) == Status.OK
    assert status((5, 11), (5,), (1,), (5, 5)) == Status.SHAPE


def test_a_processor_without_the_features_is_told_so(tmp_path: Path):
    program = affine("demanding")
    impossible = [Variant(("sse4.2", f), TRIPLE, "v0", program.variants[0].objects) for f in ("avx512fp16",)]
    folder = write(tmp_path / "m", dataclasses.replace(program, variants=impossible))
    library = ctypes.CDLL(str(folder / "model.so"))
    handle = ctypes.c_void_p()
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = Status.OK if "avx512_fp16" in flags else Status.CPU
    assert library.octavo_load(str(folder / "weights.bin").encode(), ctypes.byref(handle)) == expected


def test_dispatch_agrees_with_the_kernel(tmp_path: Path):
    spelled = {"lzcnt": "abm", "sse3": "pni", "avx512vnni": "avx512_vnni", "avx512fp16": "avx512_fp16", "avxvnni": "avx_vnni"}
    features = ["fma", "avx2", "avx512f", *spelled]  # each word of cpuid that is read, with and without saved state
    flags = Path("/proc/cpuinfo").read_text().split()
    program = affine("features")
    for number, feature in enumerate(features):
        variant = Variant((feature,), TRIPLE, "v0", program.variants[0].objects)
        path = tmp_path / f"{number}.so"
        path.write_bytes(build_library(dataclasses.replace(program, variants=[variant])))
        status = ctypes.CDLL(str(path)).octavo_entry(ctypes.byref((ctypes.c_void_p * 5)()))
        assert (status == Status.OK) == (spelled.get(feature, feature) in flags), feature


def test_features_that_cannot_be_tested_are_refused():
    program = affine("strange")
    strange = dataclasses.replace(program, variants=[dataclasses.replace(program.variants[0], features=("amx-fp16",))])
    with pytest.raises(TargetError, match="whether a x86_64 has 'amx-fp16' cannot be tested at run time"):
        abi_ir(strange)


def test_arm_libraries_are_built_anywhere():
    library = build_library(affine("arm", triple=ARM, features=("neon", "dotprod")))
    assert int.from_bytes(library[18:20], "little") == 183  # EM_AARCH64
    assert set(link.open_symbols(library)) <= link.LIBC


def test_the_arm_library_runs_two_models_in_an_emulator(tmp_path: Path):
    """From object files, linked statically, so that the emulator needs no Arm system around it."""
    compiler, emulator = tool("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static") or tool("qemu-aarch64")
    programs = {
        "first": affine("first", triple=ARM, offset=7, prefix="first", features=("neon", "lse")),
        "second": positive("second model", ARM),
    }
    objects = []
    for name, program in programs.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.h").write_text(header(program.signature))
        (folder / "weights.bin").write_bytes(bytes(program.weights_array))
        for number, data in enumerate([assemble(abi_ir(program), ARM), *program.variants[0].objects]):
            objects.append(str(folder / f"{number}.o"))
            Path(objects[-1]).write_bytes(data)
    built = str(tmp_path / "two_models")
    subprocess.run([compiler, "-static", "-pthread", f"-I{tmp_path}", str(SOURCE), *objects, "-o", built], check=True)
    weights = [str(tmp_path / name / "weights.bin") for name in programs]
    assert subprocess.run([emulator, built, *weights], capture_output=True, text=True, check=True).stdout == "ok\n"


def test_variants_of_two_instruction_sets_do_not_mix():
    program = affine("mixed")
    mixed = dataclasses.replace(program, variants=[*program.variants, *affine(triple=ARM).variants])
    with pytest.raises(TargetError, match="are for different instruction sets; compile one artifact each"):
        build_library(mixed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("yolo-v8 (int8)", "yolo_v8_int8"), ("run", "run_model"), ("my_run", "my_run_model"), ("../etc", "etc"), ("数", "model")],
)
def test_models_of_any_name_get_an_identifier(name: str, expected: str):
    assert identifier(name) == expected


def test_metadata_is_json_whatever_the_names(tmp_path: Path):
    program = affine("数\0\"'\\")
    library = ctypes.CDLL(str(write(tmp_path / "m", program) / "model.so"))
    library.octavo_query.restype = ctypes.POINTER(ctypes.c_char_p)
    metadata = ctypes.cast(library.octavo_query(), ctypes.POINTER(ctypes.c_char_p))[4]
    assert json.loads(metadata or b"")["signature"]["name"] == program.name


def test_calls_outside_libc_are_found_when_linking():
    ir = "declare float @expf(float)\ndefine float @v0_main(float %x) {\n %y = call float @expf(float %x)\n ret float %y\n}"
    with pytest.raises(CodegenError, match="the machine code calls expf, which libc alone does not provide"):
        link.link_shared([assemble(ir, TRIPLE)], ["v0_main"], TRIPLE)


@pytest.mark.parametrize("command", [["cc"], ["ld.lld"]])
def test_every_kind_of_linker_works(command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    if command == ["ld.lld"]:
        pytest.importorskip("ziglang", reason="the ziglang package is not installed")
        monkeypatch.setattr(link.shutil, "which", lambda _: None)
    else:
        path = tool("cc")
        monkeypatch.setattr(link.shutil, "which", lambda name: path if name == "cc" else None)
    first, second = build_library(affine("linked")), build_library(affine("linked"))
    assert first == second
    (tmp_path / "model.so").write_bytes(first)
    assert ctypes.CDLL(str(tmp_path / "model.so")).octavo_abi_version() == 1


def test_without_a_linker_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link.shutil, "which", lambda _: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TargetError, match=r"install binutils \(apt install binutils\) or, without root, pip install ziglang"):
        build_library(affine())


def test_a_linker_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CodegenError, match="failed to link the model"):
        link.link_shared([b"not an object"], ["octavo_run"], TRIPLE)
