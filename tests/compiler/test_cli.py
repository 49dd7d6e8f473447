"""The command line: what goes to which stream, exit codes, and each command on a small model."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import octavo
import onnx
import pytest
from click.testing import CliRunner, Result
from octavo.backends.target import TARGETS, runnable
from octavo.compiler.cli import main
from octavo.compiler.cli.options import Duration
from octavo.compiler.emit import emit
from onnx import TensorProto, helper


def write_model(path: Path, op: str = "Relu", domain: str = "") -> Path:
    """y = op(x @ w) with x f32[batch, 4] and w f32[4, 3]."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.linspace(-1, 1, 12).astype(np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node(op, ["h"], ["y"], name="second", domain=domain),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "tiny", [x], [y], [weights])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.onnx")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write_model(tmp_path / "broken.onnx", "Frobnicate", "com.example")


def octavo_cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args], prog_name="octavo")


def ok(*args: object) -> str:
    result = octavo_cli(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def x_file(folder: Path, batch: int = 2) -> tuple[Path, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)
    np.save(folder / "x.npy", x)
    return folder / "x.npy", x


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), 0)


# Streams and codes


def test_help_teaches_with_examples() -> None:
    text = ok("--help")
    assert "octavo compile model.onnx -o model.octavo" in text
    for name in ("compile", "run", "bench", "verify", "inspect", "calibrate", "quantize", "debug", "check"):
        assert f"octavo {name} " in ok(name, "--help").split("Options:")[0].partition("\n")[2], f"{name} --help has no example"


def test_version() -> None:
    assert ok("--version") == f"octavo, version {octavo.__version__}\n"


@pytest.mark.parametrize(
    "args",
    [["nonsense"], ["run", "no-such-file.onnx"], ["bench", "--threads", "0", "{model}"], ["compile", "{model}"]],
    ids=lambda a: " ".join(a),
)
def test_wrong_usage_exits_with_2(model: Path, args: list[str]) -> None:
    result = octavo_cli(*(a.format(model=model) for a in args))
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("text", ["batch", "batch=x", "=3", "batch=-1"])
def test_a_malformed_dimension_is_wrong_usage(model: Path, text: str) -> None:
    result = octavo_cli("inspect", model, "--dim", text)
    assert result.exit_code == 2
    assert f"'{text}' is not NAME=SIZE, for example batch=1" in result.stderr


def test_a_refused_model_exits_with_1_and_no_traceback(broken: Path, tmp_path: Path) -> None:
    result = octavo_cli("compile", broken, "-o", tmp_path / "out.octavo")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "second" in result.stderr
    assert "Frobnicate" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.octavo").exists()


def test_verbose_shows_the_traceback(broken: Path, tmp_path: Path) -> None:
    assert "Traceback" in octavo_cli("compile", broken, "-o", tmp_path / "out.octavo", "-v").stderr


def test_an_error_is_json_too(broken: Path, tmp_path: Path) -> None:
    result = octavo_cli("compile", broken, "-o", tmp_path / "out.octavo", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["kind"] == "UnsupportedOp"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\xff\xfe not a protobuf")
    result = octavo_cli("check", junk)
    assert result.exit_code == 1
    assert "is not an ONNX model" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = octavo_cli("compile", model, "-o", tmp_path / "file" / "out.s", "--emit", "asm")
    assert result.exit_code == 1
    assert "file" in result.stderr
    assert "fault" not in result.stderr


# Commands


def test_check_lists_every_unsupported_node(model: Path, broken: Path) -> None:
    assert ok("check", model) == "tiny.onnx: every node can be compiled\n"
    result = octavo_cli("check", broken, "--json")
    assert result.exit_code == 1
    (missing,) = json.loads(result.stdout)["unsupported"]
    assert missing["node"] == "second"
    assert "Frobnicate" in missing["op"]


LEVELS_ELSEWHERE = [t for t in TARGETS.values() if t.triple.startswith(platform.machine()) and t not in runnable()]


@pytest.mark.skipif(not LEVELS_ELSEWHERE, reason="this processor runs every level of its kind")
def test_compile_for_a_processor_that_this_one_is_not(model: Path, tmp_path: Path) -> None:
    level = LEVELS_ELSEWHERE[0]
    result = octavo_cli("compile", model, "-o", tmp_path / "out", "--target", level.name)
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["variants"] == [sorted(level.requires)]


def test_compile_then_run(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.octavo"
    facts = json.loads(ok("compile", model, "-o", artifact, "--json"))
    assert {"model.so", "model.h", "weights.bin", "manifest.json"} <= set(facts["files"])
    file, x = x_file(tmp_path)
    for source in (artifact, model):
        outputs = tmp_path / "y.npz"
        ok("run", source, "--input", f"x={file}", "--output", outputs)
        np.testing.assert_allclose(np.load(outputs)["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_run_prints_what_it_got(model: Path, tmp_path: Path) -> None:
    file, x = x_file(tmp_path)
    described = json.loads(ok("run", model, "--input", f"x={file}", "--json"))["outputs"]["y"]
    assert described["shape"] == [2, 3]
    assert described["max"] == pytest.approx(float(expected(x).max()), rel=1e-5)
    assert "float32" in ok("run", model, "--input", f"x={file}")


def test_run_takes_all_inputs_from_one_npz(model: Path, tmp_path: Path) -> None:
    _, x = x_file(tmp_path)
    np.savez(tmp_path / "feeds.npz", x=x)
    assert json.loads(ok("run", model, "--input", tmp_path / "feeds.npz", "--json"))["outputs"]["y"]["shape"] == [2, 3]


def test_run_without_an_input_names_it(model: Path) -> None:
    result = octavo_cli("run", model)
    assert result.exit_code == 1
    assert "without x: f32[batch,4]" in result.stderr


def test_a_pickled_array_is_not_loaded(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    result = octavo_cli("run", model, "--input", f"x={tmp_path / 'x.npy'}")
    assert result.exit_code == 2
    assert "cannot be read as a NumPy file" in result.stderr


def test_a_dimension_can_be_fixed(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.octavo"
    ok("compile", model, "-o", artifact, "--dim", "batch=2")
    assert json.loads(ok("inspect", artifact, "--json"))["inputs"] == {"x": "f32[2,4]"}


@pytest.mark.parametrize(("form", "sign"), [("graph", b"kernel("), ("llvm", b"define "), ("asm", b"_main:"), ("o", b"ELF")])
def test_emit_writes_one_file(model: Path, tmp_path: Path, form: str, sign: bytes) -> None:
    out = tmp_path / "out"
    ok("compile", model, "-o", out, "--emit", form)
    assert sign in out.read_bytes()


def test_emit_ptx_needs_a_gpu_target(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ptx"
    ok("compile", model, "-o", out, "--emit", "ptx", "--target", "sm_90a")
    assert ".target sm_90a" in out.read_text()
    result = octavo_cli("compile", model, "-o", out, "--emit", "ptx")
    assert result.exit_code == 1
    assert "has no form 'ptx'; ptx is for sm_80, sm_90a" in result.stderr


def test_emit_names_its_forms(model: Path) -> None:
    with pytest.raises(octavo.TargetError, match="no form is called 'loops'; there are graph, "):
        emit(str(model), "loops")


@pytest.mark.parametrize("per_node", [False, True])
def test_verify_agrees_with_the_reference(model: Path, per_node: bool) -> None:
    data = json.loads(ok("verify", model, "--size", "batch=3", "--json", *(["--per-node"] if per_node else [])))
    assert data["ok"]
    assert data["inputs"] == {"x": "float32[3, 4]"}
    assert [row["op"] for row in data["rows"]] == (["matmul", "relu"] if per_node else ["relu"])


def test_verify_exits_with_3_when_a_value_is_off(model: Path) -> None:
    result = octavo_cli("verify", model, "--tolerance", "-1")
    assert result.exit_code == 3
    assert "1 of 1 values are off, first y (relu)" in result.stdout


def test_verify_against_onnxruntime(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert "all values agree" in ok("verify", model, "--against", "onnxruntime")


def test_inspect_summarises(model: Path) -> None:
    data = json.loads(ok("inspect", model, "--kernels", "--memory", "--json"))
    assert data["inputs"] == {"x": "f32[batch,4]"}
    assert data["ops"] == {"matmul": 1, "relu": 1}
    assert data["constants"] == 12
    assert [k["anchor"] for k in data["kernels"]] == ["matmul"]
    text = ok("inspect", model, "--kernels")
    assert "x: f32[batch,4]" in text
    assert "matmul" in text


def test_inspect_prints_the_graph_after_a_pass(model: Path) -> None:
    assert "matmul(%x, " in ok("inspect", model, "--after", "import")
    assert "kernel(" in ok("inspect", model, "--after", "fuse")


def test_bench_measures_and_compares(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    data = json.loads(ok("bench", model, "--against", "onnxruntime", "--seconds", "0.05", "--rounds", "2", "--json"))
    assert [r["runtime"] for r in data["results"]] == ["octavo", "onnxruntime"]
    for r in data["results"]:
        assert 0 < r["min_ms"] <= r["median_ms"] <= r["p90_ms"] <= r["p99_ms"]
        assert r["runs"] >= 6
        assert r["load_ms"] > 0
        assert r["peak_rss_mb"] > 1
    assert data["results"][0]["ratio"] == pytest.approx(1.0)
    artifact = tmp_path / "tiny.octavo"
    ok("compile", model, "-o", artifact)
    assert "runs/s" in ok("bench", artifact, "--seconds", "0.02", "--rounds", "1")


def test_bench_of_an_artifact_has_nothing_to_compare_with(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.octavo"
    ok("compile", model, "-o", artifact)
    result = octavo_cli("bench", artifact, "--against", "onnxruntime")
    assert result.exit_code == 1
    assert "a comparison needs the ONNX file" in result.stderr


def test_bench_names_the_runtimes_it_knows(model: Path) -> None:
    result = octavo_cli("bench", model, "--against", "tensorflow")
    assert result.exit_code == 1
    assert "there is no runtime 'tensorflow' to measure against; known: onnxruntime, openvino" in result.stderr


def test_bench_profiles_every_kernel(model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    brief = ("--profile", "--seconds", "0.02", "--rounds", "1")
    data = json.loads(ok("bench", model, *brief, "--trace", trace, "--size", "batch=4", "--json"))
    assert [k["template"] for k in data["kernels"]] == ["contract"]
    assert data["kernels"][0]["flops"] == 2 * 4 * 4 * 3 + 4 * 3
    assert data["peak_gflops"] > 0
    assert "traceEvents" in json.loads(trace.read_text())
    text = ok("bench", model, *brief)
    assert "of peak" in text
    assert "GFLOP/s of f32 multiply-adds" in text


def test_bench_profiles_octavo_alone_and_from_the_onnx_file(model: Path, tmp_path: Path) -> None:
    result = octavo_cli("bench", model, "--profile", "--against", "onnxruntime")
    assert result.exit_code == 2
    assert "leave out --against" in result.stderr
    artifact = tmp_path / "tiny.octavo"
    ok("compile", model, "-o", artifact)
    result = octavo_cli("bench", artifact, "--profile")
    assert result.exit_code == 1
    assert "give the ONNX file that tiny.octavo was made from" in result.stderr


# As a process


def process(*args: object, **kwargs: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "octavo.compiler.cli", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)  # type: ignore


def test_no_colour_reaches_a_pipe(model: Path) -> None:
    out, err = process("check", model, env={**os.environ, "NO_COLOR": "1"}).communicate()
    assert out == "tiny.onnx: every node can be compiled\n"
    assert "\x1b" not in out + err


def test_an_interruption_leaves_no_partial_file(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "out" / "tiny.octavo"
    waiting = process("compile", model, "-o", artifact, env={**os.environ, "OCTAVO_CACHE": ""})
    time.sleep(0.6)  # inside the imports, the compiler or the linker: wherever it is, nothing partial may stay
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    left = list(artifact.parent.rglob("*")) if artifact.parent.exists() else []
    if waiting.returncode == 0:
        assert (artifact / "manifest.json").exists()
    else:
        assert left == [], err


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("2m", 120), ("1.5h", 5400), ("90", 90), (" 0.5s ", 0.5)])
def test_a_duration_has_a_unit_or_counts_seconds(text: str, seconds: float):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["soon", "", "-5s", "0", "60x", "1e9999", "inf", "2m30"])
def test_what_is_no_duration_is_wrong_usage(model: Path, tmp_path: Path, text: str):
    result = octavo_cli("compile", model, "-o", tmp_path / "m.octavo", "--tune", text)
    assert result.exit_code == 2
    assert f"{text!r} is not a time such as 60s, 2m or 1h" in result.stderr


def test_compile_tunes_first_and_says_what_it_found(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_TUNE", str(tmp_path / "best.json"))
    command = ("compile", model, "-o", tmp_path / "m.octavo", "--tune", "60s", "--size", "batch=3")
    found = json.loads(ok(*command, "--json"))
    ((row,),) = found["tuning"].values()
    assert row["kernel"] == "f32[n,3] = matmul(f32[n,4], f32[4,3])"
    assert row["ratio"] == pytest.approx(row["first_us"] / row["best_us"])
    assert row["loc"] == "onnx:second"
    assert "nothing left to tune" in ok(*command)


def test_a_size_without_tuning_is_wrong_usage(model: Path, tmp_path: Path):
    result = octavo_cli("compile", model, "-o", tmp_path / "m.octavo", "--size", "batch=3")
    assert result.exit_code == 2
    assert "--size says for which sizes to measure schedules; add --tune" in result.stderr


def test_a_damaged_record_of_schedules_is_a_warning(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "best.json").write_text("{")
    monkeypatch.setenv("OCTAVO_TUNE", str(tmp_path / "best.json"))
    result = octavo_cli("compile", model, "-o", tmp_path / "m.octavo")
    assert result.exit_code == 0
    assert "warning: the record of tuned schedules" in result.stderr
    assert "best.json is damaged and ignored" in result.stderr.replace("\n", "")
