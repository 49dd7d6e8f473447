"""Cross compilation to Arm: whole models compile there, and compute the same bits as here under an emulator."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import octavo
import pytest
from octavo.backends.target import runnable
from octavo.benchmarks.c_runner import CRunner
from octavo.benchmarks.zoo import build, feeds
from octavo.compiler.artifact import save
from octavo.compiler.driver import compile, compile_native
from octavo.ir.graph import Graph

EMULATOR, COMPILER, LIBRARIES = "qemu-aarch64-static", "aarch64-linux-gnu-gcc", "/usr/aarch64-linux-gnu"
HAVE_EMULATOR = shutil.which(EMULATOR) and shutil.which(COMPILER) and Path(LIBRARIES).is_dir()
MODELS = ["mlp", "mobilenet_v2", "bert_small", "lstm", "yolo"]


@cache
def model(name: str) -> Graph:
    return build(name, small=True)


@pytest.mark.parametrize("name", MODELS)
def test_object_code_is_for_arm(name: str) -> None:
    (variant,) = compile_native(model(name), target="aarch64").native.variants
    assert variant.features == ("neon",)
    assert all(code[:4] == b"\x7fELF" and code[18] == 183 for code in variant.objects)  # e_machine: AArch64


@pytest.mark.skipif(not HAVE_EMULATOR, reason=f"needs {EMULATOR}, {COMPILER} and {LIBRARIES}")
@pytest.mark.skipif(not runnable(), reason="this processor runs none of our levels to compare with")
@pytest.mark.parametrize("name", MODELS)
def test_arm_computes_the_same_bits(name: str, tmp_path: Path) -> None:
    here = compile(model(name), threads=1)
    save(compile_native(model(name), target="aarch64").native, tmp_path / "arm.octavo")
    launcher = (EMULATOR, "-L", LIBRARIES)
    arm = CRunner(tmp_path / "arm.octavo", tmp_path, COMPILER, launcher, (here.inputs, here.outputs))
    given = feeds(name, 2, small=True)
    for expected, actual in zip(here.run(None, given), arm(given), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.skipif(not HAVE_EMULATOR, reason=f"needs {EMULATOR}, {COMPILER} and {LIBRARIES}")
@pytest.mark.skipif(not runnable(), reason="this processor runs none of our levels to compare with")
@pytest.mark.parametrize("level", ["aarch64", "aarch64-dotprod", "aarch64-i8mm"])
@pytest.mark.parametrize("name", ["mlp", "mobilenet_v2", "bert_small"])
def test_arm_sums_products_of_bytes_to_the_same_bits(name: str, level: str, tmp_path: Path) -> None:
    quantized = octavo.quantize(model(name), octavo.calibrate(model(name), [feeds(name, 2, small=True)]))
    here = compile(quantized, threads=1)
    save(compile_native(quantized, target=level).native, tmp_path / "arm.octavo")
    arm = CRunner(tmp_path / "arm.octavo", tmp_path, COMPILER, (EMULATOR, "-L", LIBRARIES), (here.inputs, here.outputs))
    given = feeds(name, 2, small=True)
    for expected, actual in zip(here.run(None, given), arm(given), strict=True):
        np.testing.assert_array_equal(actual, expected)
