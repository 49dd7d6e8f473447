"""The level of AMX: when it is chosen, what an artifact asks the system for, and that its emulator refuses what a processor refuses."""

from __future__ import annotations

import ctypes
import math
import warnings
from dataclasses import replace
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends import target as targets
from octavo.backends.cpu import peak
from octavo.backends.cpu.build import compile_module
from octavo.backends.cpu.peak import Peaks
from octavo.backends.runtime.abi import abi_ir
from octavo.backends.runtime.features import probes_of
from octavo.backends.runtime.native import link_in_process
from octavo.backends.target import find_target
from octavo.compiler.artifact import save
from octavo.compiler.driver import compile_native
from octavo.ir.errors import ArtifactError
from octavo.ir.graph import Graph, const_value, input_value
from octavo.tests.backends.amx import FEATURES, HERE, LEVEL, Emulator, runnable

from .handmade import affine

TARGET = find_target(LEVEL)
HAS = dict.fromkeys(TARGET.requires, True)


@pytest.mark.parametrize("permitted", [True, False])
def test_it_is_native_where_the_system_permits_it(monkeypatch: pytest.MonkeyPatch, permitted: bool):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: HAS | dict.fromkeys(find_target("x86-64-v3").requires, True))
    monkeypatch.setattr(targets, "permitted", lambda component: permitted)
    monkeypatch.setattr(targets, "host_features", targets.host_features.__wrapped__)
    monkeypatch.setattr(targets, "runnable", runnable)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        name = find_target("native").name
    assert name == (LEVEL if permitted else "x86-64-v4-vnni")
    assert bool(seen) != permitted
    assert all("has AMX, which the system does not let this process use" in str(w.message) for w in seen)


def test_an_artifact_asks_for_the_tiles():
    """ARCH_REQ_XCOMP_PERM of XTILEDATA, where all else fits."""
    probes = probes_of("x86_64", TARGET.requires)
    assert {p.permission for p in probes} == {0, 18}
    assert all(p.state == 0x60000 for p in probes if p.permission)
    program = affine("model")
    (variant,) = program.variants
    asking, other = (
        abi_ir(replace(program, variants=[replace(variant, features=t.requires)])) for t in (TARGET, find_target("x86-64-v3"))
    )
    question = "@syscall(i64 158, i64 4131, i64 18)"
    assert asking.count(question) == 1
    assert question not in other


@pytest.mark.skipif(HERE >= FEATURES, reason="this processor has AMX")
def test_an_artifact_runs_the_level_below_elsewhere(tmp_path: Path):
    x = input_value("x", octavo.spec("u8", (48, 64)))
    graph = Graph("g", (x,), (ops.matmul(x, const_value(np.eye(64, dtype=np.int8))),))
    save(compile_native(graph, target=(LEVEL, "x86-64-v3")).native, tmp_path / "two.octavo")
    given = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    np.testing.assert_array_equal(octavo.load(tmp_path / "two.octavo")(given), given)
    save(compile_native(graph, target=LEVEL).native, tmp_path / "one.octavo")
    with pytest.raises(ArtifactError, match=r"needs a processor with .*amx-int8.* --target"):
        octavo.load(tmp_path / "one.octavo")


def test_its_peak_is_of_its_products(amx: Emulator | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peak, "STEPS", 3)
    before = amx.products if amx else 0
    assert 0 < Peaks(TARGET).dots(repeats=2) < math.inf
    assert amx is None or amx.products - before == 2 * 3 * 4


INTRINSICS = """
@good = constant [64 x i8] c"\\01{0}\\40\\00\\40\\00\\20\\00{1}\\10\\10\\10{2}"
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tdpbusd(i8 immarg, i8 immarg, i8 immarg)
define void @wrong() {{
  {3}
  call void @llvm.x86.tilerelease()
  ret void
}}
"""
CONFIGURE = "call void @llvm.x86.ldtilecfg(ptr @good)"


def dot(*tiles: int) -> str:
    return f"call void @llvm.x86.tdpbusd({', '.join(f'i8 {t}' for t in tiles)})"


@pytest.mark.parametrize(
    ("code", "first_row", "problem"),
    [
        ("call void @llvm.x86.tilezero(i8 0)", 0, "#UD: tilezero of a tile that has no shape"),
        (f"{CONFIGURE}\n{dot(0, 1, 3)}", 0, "#UD: a product of a tile that has no shape"),
        (f"{CONFIGURE}\n{dot(0, 1, 1)}", 0, "#UD: a product of one tile with itself"),
        (f"{CONFIGURE}\n{dot(0, 1, 2)}", 0, "#UD: a product of shapes that do not fit"),
        (CONFIGURE, 1, "#GP: ldtilecfg of start row"),
    ],
)
def test_its_emulator_refuses_what_a_processor_does(code: str, first_row: int, problem: str, amx: Emulator | None):
    if amx is None:
        pytest.skip("this processor has AMX, and would end the process")
    bytes_ = [f"\\{first_row:02d}" + "\\00" * 14, "\\00" * 26, "\\00" * 13]
    address, owner = link_in_process([compile_module(INTRINSICS.format(*bytes_, code), TARGET)], ["wrong"])
    ctypes.CFUNCTYPE(None)(address)()
    with pytest.raises(AssertionError, match=problem):
        amx.check()
    amx.check()
    del owner


PRODUCT = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.sttilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tileloaddt164(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.NAME(i8 immarg, i8 immarg, i8 immarg)
define void @product(ptr %shapes, ptr %sums, ptr %a, ptr %b, ptr %back) {
  call void @llvm.x86.ldtilecfg(ptr %shapes)
  call void @llvm.x86.tileloadd64(i8 7, ptr %sums, i64 20)
  call void @llvm.x86.tileloadd64(i8 3, ptr %a, i64 12)
  call void @llvm.x86.tileloaddt164(i8 5, ptr %b, i64 20)
  call void @llvm.x86.NAME(i8 7, i8 3, i8 5)
  call void @llvm.x86.tilestored64(i8 7, ptr %sums, i64 20)
  call void @llvm.x86.sttilecfg(ptr %back)
  call void @llvm.x86.tilerelease()
  ret void
}
"""


@pytest.mark.parametrize("name", ["tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"])
def test_products_of_either_sign(name: str, amx: Emulator | None):
    """Sums of 7 x 5, of 3 words each: natively this tests the test."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile, (rows, words) in {7: (7, 5), 3: (7, 3), 5: (3, 5)}.items():
        shapes[16 + 2 * tile], shapes[48 + tile] = 4 * words, rows
    rng = np.random.default_rng(1)
    a, b = (rng.choice([0, 1, 127, 128, 255], shape).astype(np.uint8) for shape in ((7, 12), (3, 20)))
    old = rng.integers(-(1 << 31), 1 << 31, (7, 5)).astype(np.int32)
    sums, back = old.copy(), np.full(64, 77, np.uint8)
    address, owner = link_in_process([compile_module(PRODUCT.replace("NAME", name), TARGET)], ["product"])
    arrays = (shapes, sums, a, b, back)
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(address)(*(x.ctypes.data for x in arrays))
    signs = [np.int8 if sign == "s" else np.uint8 for sign in name[4:6]]
    left, right = a.view(signs[0]).astype(np.int64), b.view(signs[1]).astype(np.int64)
    expected = old + left @ right.reshape(3, 5, 4).swapaxes(1, 2).reshape(12, 5)
    np.testing.assert_array_equal(sums, expected.astype(np.int32))
    np.testing.assert_array_equal(back, shapes)
    del owner
