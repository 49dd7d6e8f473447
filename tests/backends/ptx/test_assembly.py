"""NVIDIA's assembler takes every kernel, keeps it in registers, and finds in the text what the text promises."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from octavo.backends.lower.grid import on_grid
from octavo.backends.lower.kernel import const
from octavo.backends.lower.legalize import legalize
from octavo.backends.program import plan
from octavo.backends.ptx.build import Built, build
from octavo.backends.ptx.build import assemble as ptx_of
from octavo.backends.ptx.kernel import emit_kernels
from octavo.backends.target import find_target
from octavo.benchmarks.zoo.registry import MODELS
from octavo.ir.dims import symbol
from octavo.ir.errors import UnsupportedOp
from octavo.ir.graph import Graph, input_value
from octavo.ir.interpret import interpret
from octavo.ir.loops import Alloc, Buf, Load, LoopFunction, Names, Store
from octavo.ir.ops.registry import apply
from octavo.ir.scalar import LOOPS
from octavo.ir.types import f32, i32, parse_type
from octavo.passes.fuse import fuse
from octavo.passes.pipeline import optimize

from .models import KINDS

TARGETS = ("sm_80", "sm_90a")


def ptxas() -> str:
    """The assembler on the path, or that of the package nvidia-cuda-nvcc-cu12."""
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        tool = Path(folder) / "cuda_nvcc/bin/ptxas"
        if tool.exists():
            return str(tool)
    found = shutil.which("ptxas")
    if not found:
        pytest.skip("there is no ptxas; install octavo[test]")
    return found


@cache
def built(graph: Graph, target: str) -> Built:
    chosen = find_target(target)
    return build(plan(fuse(legalize(optimize(graph), chosen), attention=False)), chosen)


def assemble(text: str, target: str, tmp_path: Path) -> str:
    """What `ptxas -v` says."""
    source = tmp_path / "module.ptx"
    source.write_text(text)
    command = [ptxas(), "-v", f"-arch={target}", str(source), "-o", str(tmp_path / "module.cubin")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr


def check(code: Built, tmp_path: Path) -> None:
    said = assemble(code.text, code.target.name, tmp_path)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    kernels = sum(len(f.body) for f in code.functions.values())
    assert len(spills) == kernels == code.text.count(".visible .entry")
    assert set(spills) == {("0", "0")}, said
    threads = max(e.threads for launch in code.launches.values() for e in launch)
    registers = max(map(int, re.findall(r"Used (\d+) registers", said)))
    assert registers * threads <= 65536, "a block needs more registers than there are"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("name", ["mlp", "conv3x3", "matmul", "bert_small"])
def test_the_kernels_of_a_model_assemble_without_spills(name: str, size: str, target: str, tmp_path: Path):
    model = MODELS[name]
    check(built(model.make(**model.sizes(size == "small")), target), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_kernel_assembles_without_spills(kind: str, target: str, tmp_path: Path):
    check(built(KINDS[kind](), target), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_addressed_in_its_space(kind: str):
    text = built(KINDS[kind](), "sm_80").text
    assert re.search(r"\bld\.global", text)
    assert not re.search(r"\b(ld|st)\.(volatile\.)?[bfsu]\d", text), "a load or store through a generic address"


def test_shared_memory_is_declared_and_met_at_barriers():
    text = built(KINDS["contract"](), "sm_80").text
    assert text.count(".shared .align") == 2
    assert "ld.shared" in text
    assert "bar.sync" in text or "barrier.sync" in text


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_written_as_fused_is_fused(kind: str):
    """An operation without a rounding mode is one that ptxas may contract with its neighbours."""
    text = built(KINDS[kind](), "sm_80").text
    assert not re.search(r"\b(add|sub|mul|mad)(\.ftz)?\.f(32|64)\b", text)


def test_subnormal_numbers_count_as_zero_as_on_a_cpu():
    text = built(KINDS["contract"](), "sm_80").text
    assert "fma.rn.ftz.f32" in text
    assert "fma.rn.f32" not in text


def test_launches_follow_the_sizes():
    code = built(KINDS["map"](), "sm_80")
    ((entry,),) = code.launches.values()
    assert entry.threads == 256
    assert int(interpret(entry.blocks, {"s0": 1})) == 2  # 300 elements
    assert int(interpret(entry.blocks, {"s0": 64})) == 75


def test_the_text_lists_the_launches():
    lines = built(KINDS["concat"](), "sm_80").text.splitlines()
    launches = [line for line in lines if "<<<" in line and "kernel<<<" not in line]
    assert [line.partition("<<<")[2] for line in launches] == [
        "(-1 * ((-5 * s0) // 256)), 256>>>",
        "(-1 * ((-9 * s0) // 256)), 256>>>",
    ]


def test_names_of_nodes_stay_inside_their_comment(tmp_path: Path):
    x = input_value("x", parse_type("f32[4]"))
    y = apply("relu", x, loc="evil\n}\u2028\0name")
    code = built(Graph("named", (x,), (y,)), "sm_80")
    assert "evil?}??name\n" in code.text
    check(code, tmp_path)


def test_the_same_program_gives_the_same_text():
    target = find_target("sm_90a")
    texts = {build(plan(fuse(legalize(optimize(KINDS["row"]()), target))), target).text for _ in range(2)}
    assert len(texts) == 1


def test_a_program_without_kernels_is_an_empty_module(tmp_path: Path):
    x = input_value("x", parse_type("f32[4]"))
    code = built(Graph("view", (x,), (apply("reshape", x, shape=(2, 2)),)), "sm_80")
    assemble(code.text, "sm_80", tmp_path)


def test_four_products_of_bytes_are_one_instruction(tmp_path: Path):
    a, b, c = (Buf(name, i32) for name in "abc")
    names, i = Names(), const(0)
    store = Store(c, i, LOOPS.dot4(Load(a, i), Load(b, i), Load(c, i)))
    text = ptx_of("f", LoopFunction("f", (a, b, c), 2, (), tuple(on_grid(names, [store]))), find_target("sm_80"))
    assert "dp4a.u32.s32" in text
    assemble(text, "sm_80", tmp_path)


def test_scratch_memory_of_unknown_size_is_refused():
    buf = Buf("keys", f32, "local", symbol("n"))
    function = LoopFunction("f", (), 0, ("n",), tuple(on_grid(Names(), [Alloc(buf)])))
    with pytest.raises(UnsupportedOp, match=r"scratch memory of a known size, not keys: f32\[n\]; pin the dims"):
        emit_kernels(function, "f", find_target("sm_80"))
