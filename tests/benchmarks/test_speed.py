"""The speed report: what it says of given figures, and one small run; no timing is judged."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from octavo.benchmarks.c_runner import CRunner
from octavo.benchmarks.speed.__main__ import main
from octavo.benchmarks.speed.cases import Outcome, case_names, geomean
from octavo.benchmarks.speed.chart import as_svg
from octavo.benchmarks.speed.floors import Floors, ten_ops
from octavo.benchmarks.speed.results import Results, as_json, as_markdown
from octavo.compiler.bench import BenchReport, Measured
from octavo.compiler.driver import compile
from octavo.compiler.machine import describe_machine
from octavo.frontend.tracing import spec, trace
from octavo.ir.errors import OctavoError


def measured(runtime: str, ms: float, ratio: float) -> Measured:
    return Measured(runtime, "1.0", 5.0, 2 * ms, ms, ms, ms, ms, ms, 0.03, 10, 1e3 / ms, 50.0, ratio)


def outcome(name: str, threads: int, *peers: tuple[str, float]) -> Outcome:
    ours = measured("octavo", 1.0, 1.0)
    results = (ours, *(measured(peer, ms, 1.0 / ms) for peer, ms in peers))
    report = BenchReport(f"{name}.onnx", {"x": "float32[1, 4]"}, threads, describe_machine(), "core 0", results, {})
    return Outcome(name, "zoo", report, 10.0, 2.0)


FLOORS = Floors(200.0, 180.0, 0.9, 7.5, 0.25, 4.5, 0.6, 0.2, 9.5, 9.9, "core 0")


@pytest.fixture
def results() -> Results:
    found = [outcome("resnet50", t, ("onnxruntime", 2.0), ("openvino", 1.25)) for t in (1, 2)]
    return Results.of([*found, outcome("<odd>", 1, ("onnxruntime", 0.5)), outcome("alone", 1)], FLOORS, {"lost": "no network"}, 1.0)


def test_the_fastest_peer_is_the_one_to_beat(results: Results) -> None:
    first = results.outcomes[0]
    assert first.fastest.runtime == "openvino"
    assert first.ratio == pytest.approx(0.8)
    assert math.isnan(results.outcomes[-1].ratio)
    data = json.loads(json.dumps(as_json(results)["summary"]))
    assert data["1"] == {"geomean": pytest.approx(math.sqrt(0.8 * 2.0)), "worst": 2.0, "worst_model": "<odd>", "models": 2}
    assert data["2"]["geomean"] == pytest.approx(0.8)


def test_the_page_has_machine_versions_spread_and_floors(results: Results) -> None:
    text = as_markdown(results)
    assert "| resnet50 | zoo | float32[1, 4] | 1 | 2 | 1.25 | 0.80 | 3% |" in text
    assert "| alone | zoo | float32[1, 4] | 1 | - | - | - | 3% |" in text
    assert describe_machine().cpu in text
    assert "octavo 1.0, onnxruntime 1.0, openvino 1.0" in text
    assert "180 GFLOP/s, 90% of the peak" in text
    assert "| 0.60 us, 0.20 us |" in text
    assert "| two threads on resnet50 | 1.00 times as fast as one |" in text
    assert "warning: lost was not measured: no network" in text


def test_the_chart_is_well_formed_and_leaves_out_what_has_no_ratio(results: Results) -> None:
    svg = ET.fromstring(as_svg(results))
    words = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"resnet50", "<odd>", "0.80", "2.00"} <= set(words)
    assert "alone" not in words


def test_the_geometric_mean_ignores_what_is_no_number() -> None:
    assert geomean([0.5, 2.0, math.nan]) == pytest.approx(1.0)
    assert math.isnan(geomean([math.nan]))


def test_ten_ops_are_ten() -> None:
    graph = trace(ten_ops, spec("f32", ("batch", 4)))
    assert sum(n.op not in ("input", "const", "broadcast_to") for n in graph.nodes) == 10


def test_a_run_of_one_model_writes_where_it_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    asked = ["--only", "mlp_small", "--against", "onnxruntime", "--seconds", "0.02", "--output", str(tmp_path), "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "speed.json").read_text())
    assert data["outcomes"][0]["fastest_peer"] == "onnxruntime"
    assert data["outcomes"][0]["weights_mb"] > 2
    assert data["floors"] is None
    assert {p.name for p in tmp_path.iterdir()} == {"speed.json", "speed.md", "speed.svg"}


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    done = CliRunner().invoke(main, ["--only", "alexnet"])
    assert done.exit_code == 1
    assert "there is no benchmark 'alexnet'" in done.stderr
    assert "mlp x64" in case_names()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_calls_from_c_are_timed_and_give_the_result(tmp_path: Path) -> None:
    model = compile(trace(ten_ops, spec("f32", ("batch", 4))))
    model.save(tmp_path / "ten.octavo")
    program, feeds = CRunner(tmp_path / "ten.octavo", tmp_path), {"x": np.ones((2, 4), np.float32)}
    assert program.seconds(feeds, 10) > 0
    assert np.array_equal(program(feeds)[0], model(feeds["x"]))
    with pytest.raises(OctavoError, match="0 is not a number of calls"):
        program.seconds(feeds, 0)
