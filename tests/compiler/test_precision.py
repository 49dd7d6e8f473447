"""`octavo.quantize` with a budget, a speed to reach and layers that are timed: with clocks and metrics that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import octavo
import pytest
from click.testing import CliRunner, Result
from octavo.compiler.cli import main
from octavo.compiler.layer_times import LayerTimes
from octavo.compiler.model import Model
from octavo.compiler.precision import Precisions, choose_precision
from octavo.frontend.onnx import export_model
from octavo.ir.errors import GateError, QuantError, QuantWarning
from octavo.ir.graph import Graph, Node
from octavo.ir.text import to_text
from octavo.passes.quantize.profile import Profile
from octavo.tests.passes.quantize.networks import images, residual_network

F32_US = 10.0


@pytest.fixture(scope="module")
def model() -> tuple[Graph, Profile]:
    graph = residual_network()
    return graph, octavo.calibrate(graph, images(2))


def choose(model: tuple[Graph, Profile], int8_us: Sequence[float] = (), **options: Any) -> Precisions:
    """By a clock on which each layer takes 10 us in f32 and these in int8; programs are timed by the contractions in them."""
    by_loc = dict(zip(("first", "second", "third", "head"), int8_us, strict=False))

    def layer_timer(
        name: str, graph: Graph, nodes: Sequence[Node], sample: Mapping[str, np.ndarray], seconds: float, threads: int
    ) -> LayerTimes:
        us = {k: _us(n, by_loc) for k, n in enumerate(nodes)}
        return LayerTimes(us, dict.fromkeys(us, ()), sum(us.values()), 0.0)

    def stopwatch(a: Model, b: Model, feeds: Mapping[str, np.ndarray], threads: int) -> tuple[float, float]:
        return seconds[id(a)], seconds[id(b)]

    seconds: dict[int, float] = {}
    models: list[Model] = []  # their numbers stay theirs

    def compiled(graph: Graph, **options: Any) -> Model:
        result = octavo.compile(graph, threads=1)
        models.append(result)
        seconds[id(result)] = sum(_us(n, by_loc) for n in graph.nodes if n.op in ("conv", "matmul")) / 1e6
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("octavo.compiler.precision.compile", compiled)
        return choose_precision(*model, layer_timer=layer_timer, stopwatch=stopwatch, **options)


def _us(n: Node, int8_us: Mapping[str, float]) -> float:
    return int8_us[n.loc] if n.inputs[1].node.op == "dequantize" else F32_US


def in_floats(graph: Graph) -> list[str]:
    return [n.loc for n in graph.nodes if n.op in ("conv", "matmul") and n.inputs[1].is_const]


def test_layers_that_lose_in_int8_stay_in_floats(model: tuple[Graph, Profile]) -> None:
    found = choose(model, (4, 12, 4, 11), time=True)
    assert in_floats(found.graph) == ["second", "head"]
    assert [(x.loc, x.why, x.f32_us, x.int8_us) for x in found.kept] == [("second", "time", 10, 12), ("head", "time", 10, 11)]
    assert found.quantized == 2
    assert found.speedup == pytest.approx(40 / 28)


def test_the_choice_is_what_exclude_makes_of_it(model: tuple[Graph, Profile]) -> None:
    found = choose(model, (4, 12, 4, 4), time=True)
    expected = octavo.quantize(*model, exclude=[x.value for x in found.kept])
    assert to_text(found.graph) == to_text(expected)


def test_a_model_that_int8_makes_slower_stays_as_it_is(model: tuple[Graph, Profile]) -> None:
    with pytest.warns(QuantWarning, match="all of it stays in f32"):
        found = choose(model, (12, 12, 12, 12), time=True)
    assert len(in_floats(found.graph)) == 4
    assert found.quantized == 0


def test_a_speed_that_is_not_reached_names_the_slow_layers(model: tuple[Graph, Profile]) -> None:
    with pytest.raises(GateError, match=r"int8 is 1\.25 times as fast as f32 on this machine, not 3 times") as caught:
        choose(model, (2, 9, 12, 9), require_speedup=3)
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == ["conv third", "conv second", "matmul head"]
    assert "conv third: f32 10.0 us, int8 12.0 us" in str(caught.value)
    assert "first" not in str(caught.value)
    assert choose(model, (2, 9, 12, 9), require_speedup=1.2).quantized == 4


# The budget


def needs(graph: Graph, data: list[dict[str, np.ndarray]]) -> Any:
    """A metric: how near the outputs are to those in f32."""
    exact = octavo.compile(graph, threads=1)
    expected = [exact.run(None, sample)[0] for sample in data]
    return lambda outputs, number: -float(np.abs(next(iter(outputs.values())) - expected[number]).mean())


def test_a_budget_is_kept_with_some_layers_in_int8(model: tuple[Graph, Profile]) -> None:
    data = images(2, seed=9)
    metric = needs(model[0], data)
    drop = -(choose_precision(*model, metric=metric, data=data, max_drop=100).metric or 0)
    found = choose_precision(*model, metric=metric, data=data, max_drop=0.8 * drop)
    assert 0 < len(found.kept) < 4
    assert {x.why for x in found.kept} == {"accuracy"}
    assert max(x.gain or 0 for x in found.kept) > 0
    assert found.metric_f32 == 0
    assert found.metric_int8 == -drop
    assert -0.8 * drop <= (found.metric or 0) < 0
    compiled = octavo.compile(found.graph, threads=1)
    values = [metric({"y": compiled.run(None, sample)[0]}, k) for k, sample in enumerate(data)]
    assert np.mean(values) == found.metric


def test_a_budget_of_nothing_cannot_be_met(model: tuple[Graph, Profile]) -> None:
    data = images(1, seed=9)
    with pytest.raises(GateError, match=r"the budget cannot be met: the metric is 0 in f32 and -0\.\d+ in int8"):
        octavo.quantize(*model, metric=needs(model[0], data), data=data, max_drop=0)


def test_what_stays_for_time_is_not_blamed_on_the_metric(model: tuple[Graph, Profile]) -> None:
    data = images(1, seed=9)
    found = choose(model, (4, 12, 4, 4), time=True, metric=needs(model[0], data), data=data, max_drop=100)
    assert [(x.loc, x.why) for x in found.kept] == [("second", "time")]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_drop": 1}, "give both max_drop and metric"),
        ({"max_drop": 1, "metric": len}, "give data"),
        ({"max_drop": 1, "metric": len, "data": []}, "there are no samples for the metric: data was empty"),
        ({"max_drop": float("nan"), "metric": len, "data": [{}]}, "max_drop is a finite number that is not negative, not nan"),
        ({"time": True, "data": [{"x": np.full((4, 3, 16, 16), np.nan, np.float32)}]}, "sample 1: input 'x' holds nan"),
        ({"time": True, "data": [{"x": np.ones((4, 9, 16, 16), np.float32)}]}, "sample 1: "),
        ({"require_speedup": "2"}, "require_speedup is a finite number that is not negative, not '2'"),
        ({"max_drop": 1, "metric": lambda o, k: None, "data": images(1)}, "the metric failed on sample 0: TypeError"),
    ],
)
def test_options_that_say_nothing_are_refused(model: tuple[Graph, Profile], options: dict[str, Any], text: str) -> None:
    with pytest.raises(QuantError, match=text):
        octavo.quantize(*model, **options)


def test_only_one_sample_is_read_to_time_on(model: tuple[Graph, Profile]) -> None:
    read: list[int] = []

    def data() -> Iterator[dict[str, np.ndarray]]:
        for k, sample in enumerate(images(3)):
            read.append(k)
            yield sample

    choose(model, (4, 4, 4, 4), time=True, data=data())
    assert read == [0]


# The commands


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: tuple[Graph, Profile]) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("budget")
    path = folder / "net.onnx"
    path.write_bytes(export_model(model[0]).SerializeToString())
    octavo.calibrate(path, images(2)).save(folder / "net.qprof")
    np.savez(folder / "data.npz", x=np.stack([s["x"] for s in images(2, seed=9)]))
    (folder / "budget_metric.py").write_text("def peak(outputs, number):\n    return -float(abs(next(iter(outputs.values()))).max())\n")
    return path, folder / "net.qprof", folder / "data.npz"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)), prog_name="octavo")


def test_a_budget_on_the_command_line(files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(files[0].parent)
    budget = ("--no-time", "--data", files[2], "--metric", "budget_metric:peak", "--max-drop", "10")
    result = run("quantize", *files[:2], "-o", tmp_path / "q.onnx", *budget, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["precision"]
    assert facts["metric_f32"] - facts["metric"] <= 10
    assert (facts["quantized"], facts["kept"], facts["speedup"]) == (4, [], None)
    assert (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("command", ["quantize", "compile"])
def test_a_missed_gate_exits_with_3_and_leaves_nothing(files: tuple[Path, Path, Path], tmp_path: Path, command: str) -> None:
    model = (files[0], files[1]) if command == "quantize" else (files[0], "--int8", files[1])
    result = run(command, *model, "-o", tmp_path / "never", "--no-time", "--require-speedup", "1000")
    assert result.exit_code == 3, result.output
    assert "times as fast as f32 on this machine, not 1000 times; what is too slow for that" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = ("-o", tmp_path / "never")
    for args, text in (
        (("quantize", *files[:2], "--max-drop", "1"), "a budget takes --max-drop, --metric and --data"),
        (("quantize", files[0], "--weight-only", "int8", "--time"), "--weight-only quantizes all large weights"),
        (("compile", files[0], "--require-speedup", "2"), "add --int8 and a profile"),
        (("compile", files[0], "--int8", files[1], "--target", "x86-64-v3", "--time"), "cannot be timed here"),
    ):
        result = run(*args, *out)
        assert result.exit_code == 2
        assert text in result.stderr


def test_another_target_is_not_timed_and_that_is_said(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = run("compile", files[0], "--int8", files[1], "--target", "x86-64-v3", "-o", tmp_path / "v3")
    assert result.exit_code == 0, result.output
    assert "x86-64-v3 is not this machine: every layer is quantized" in result.stderr
