"""The int8 report: what it says of given figures, and one small run with a peer made up; no timing is judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from octavo.benchmarks import zoo
from octavo.benchmarks.feeds import Feeds
from octavo.benchmarks.int8 import __main__ as command
from octavo.benchmarks.int8.cases import F32, INT8, Case, Outcome, cases, measure, quantized, save_graph
from octavo.benchmarks.int8.results import LEAST_GAINS, Results, as_json, as_markdown
from octavo.benchmarks.peers import Recipe, reason
from octavo.compiler.bench import Measured
from octavo.ir.errors import OctavoError

MLP = Case(
    "mlp", "zoo", partial(save_graph, lambda: zoo.build("mlp", small=True)), lambda seed: zoo.feeds("mlp", 4, small=True, seed=seed)
)


def measured(runtime: str, ms: float, int8_ms: float) -> Measured:
    return Measured(runtime, "1.0", 5.0, 2 * ms, ms, ms, ms, ms, ms, 0.03, 10, 1e3 / ms, 50.0, int8_ms / ms)


def outcome(name: str, int8: float, f32: float, **peers: float) -> Outcome:
    others = (measured(f"onnxruntime {peer}", ms, int8) for peer, ms in peers.items())
    results = (measured(INT8, int8, int8), measured(F32, f32, int8), *others)
    return Outcome(name, "zoo", {"x": "float32[1, 4]"}, results, {"openvino int8": "nncf is not installed"}, "core 0")


def met(*outcomes: Outcome) -> list[bool | None]:
    return [target.met for target in Results.of(outcomes, {}, 1.0).targets]


def test_the_faster_of_a_peers_models_is_the_one_to_beat() -> None:
    found = outcome("mlp", 1.0, 3.0, u8s8=2.0, s8s8=1.25)
    assert found.fastest is not None
    assert found.fastest.runtime == "onnxruntime s8s8"
    assert found.fastest.ratio == pytest.approx(0.8)
    assert found.gain == pytest.approx(3.0)


def test_targets_are_met_or_missed_one_by_one() -> None:
    good = [outcome(name, 1.0, least + 0.01, u8s8=1.26) for name, least in LEAST_GAINS.items()]
    assert met(*good) == [True] * 6
    slower_than_a_peer = outcome("odd", 1.0, 2.0, u8s8=0.9)
    assert met(*good, slower_than_a_peer)[:2] == [False, False]
    slower_than_f32 = outcome("odd", 1.0, 0.9, u8s8=2.0)
    assert met(*good, slower_than_f32) == [True, True, True, True, True, False]
    assert met(outcome("resnet50", 1.0, 3.2, u8s8=2.0)) == [True, True, False, None, None, True]
    assert met(outcome("alone", 1.0, 3.2)) == [None, None, None, None, None, True]


def test_the_page_has_times_ratios_targets_and_what_is_missing() -> None:
    results = Results.of([outcome("resnet50", 1.0, 3.2, u8s8=2.0)], {"lost": "no network"}, 1.0)
    text = as_markdown(results)
    assert "| resnet50 | zoo | float32[1, 4] | 3.2 | 1 | 2 | - | - | - | 0.50 | 3.20 | 3% |" in text
    assert "| f32 over int8 of resnet50, at least 3.3 | 3.20 | missed |" in text
    assert "| f32 over int8 of bert_base, at least 2.8 | - | not measured |" in text
    assert "warning: lost was not measured: no network" in text
    assert "warning: resnet50: openvino int8 is left out: nncf is not installed" in text
    data = json.loads(json.dumps(as_json(results)))
    assert data["outcomes"][0]["fastest_peer"] == "onnxruntime u8s8"
    assert [t["met"] for t in data["targets"]] == [True, True, False, None, None, True]


def test_what_a_peer_said_names_no_folder() -> None:
    assert reason(RuntimeError("cannot read /tmp/x1/model.onnx")) == "RuntimeError: cannot read model.onnx"
    assert reason(ModuleNotFoundError(name="nncf")) == "nncf is not installed"


def test_every_case_makes_inputs_that_differ_by_seed() -> None:
    for case in cases().values():
        a, b = case.feed(0), case.feed(1)
        assert {n: (x.shape, x.dtype) for n, x in a.items()} == {n: (x.shape, x.dtype) for n, x in b.items()}
        assert any(not np.array_equal(a[n], b[n]) for n in a), case.name


def test_a_peers_model_is_made_once_for_each_model_recipe_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    made = []

    def make(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
        made.append(onnx.read_text())
        output.write_text("a")
        output.with_suffix(".bin").write_text("b")

    onnx = tmp_path / "a.onnx"
    onnx.write_text("one")
    feeds = [{"x": np.zeros(2, np.float32)}]
    recipe = Recipe("a", "onnxruntime", make, ".xml")
    path = quantized(recipe, onnx, feeds, False)
    assert (path.read_text(), path.with_suffix(".bin").read_text()) == ("a", "b")
    assert quantized(recipe, onnx, feeds, False) == path
    assert len(made) == 1
    assert quantized(Recipe("b", "onnxruntime", make), onnx, feeds, False) != path
    assert quantized(recipe, onnx, [{"x": np.ones(2, np.float32)}], False) != path
    onnx.write_text("two")
    assert quantized(recipe, onnx, feeds, False) != path
    assert len(made) == 4
    assert sorted(p.name[0] for p in path.parents[1].iterdir() if p.name.startswith(".")) == []


def test_a_model_is_measured_beside_peers_and_those_that_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))

    def copy(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
        shutil.copy(onnx, output)

    def fail(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
        raise ValueError("no such model")

    recipes = (
        Recipe("copy", "onnxruntime", copy),
        Recipe("bad", "onnxruntime", fail),
        Recipe("rnn", "onnxruntime", copy, dynamic=True),
    )
    found = measure(MLP, 0.01, recipes)
    assert [r.runtime for r in found.results] == [INT8, F32, "copy"]
    assert found.failures == {"bad": "ValueError: no such model"}
    assert found.inputs == {"x": "float32[4, 20]"}


def test_the_command_writes_whole_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(case: Case, seconds: float) -> Outcome:
        if case.name == "mnist":
            raise OctavoError("no network")
        return outcome(case.name, 1.0, 4.0, u8s8=2.0)

    monkeypatch.setattr(command, "measure", fake)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    done = CliRunner().invoke(command.main, ["--only", "resnet50", "--json"])
    assert done.exit_code == 0, done.output
    assert not list(tmp_path.iterdir())
    done = CliRunner().invoke(command.main, [])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["int8.json", "int8.md"]
    assert "mnist was not measured: no network" in (tmp_path / "int8.md").read_text()
    assert CliRunner().invoke(command.main, ["--only", "nothing"]).exit_code == 1


def test_a_missed_target_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure", lambda case, seconds: outcome(case.name, 1.0, 4.0, u8s8=0.5))
    assert CliRunner().invoke(command.main, ["--only", "resnet50"]).exit_code == 3
