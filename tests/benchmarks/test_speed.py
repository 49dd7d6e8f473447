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
from octavo.benchmarks.speed.cases import Outcome, case_names, geomean, is_close
from octavo.benchmarks.speed.chart import as_svg, sweep_as_svg
from octavo.benchmarks.speed.floors import Floors, subnormal_ratio, ten_ops
from octavo.benchmarks.speed.limits import Limits, Share
from octavo.benchmarks.speed.results import Results, as_json, as_markdown
from octavo.benchmarks.speed.sweep import AXES, Sweep, steepest, sweep_times
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


FLOORS = Floors(7.5, 0.25, 4.5, 0.6, 0.2, 9.5, 9.9, {"inputs": 1.01, "weights": 1.02}, "core 0")
KERNEL = Share("conv to 1 x 8 x 8 x 4, sums of 36", 150.0, 200.0, 0.75, 3)
LIMITS = Limits((Share("1024 x 1024 x 1024", 180.0, 200.0, 0.9),), {"resnet50": (KERNEL,)}, (Share("relu", 19.0, 20.0, 0.95),), 768.0)
SWEEP = Sweep({axis: tuple(100.0 * size for size in range(1, 71)) for axis in AXES}, 1.25, "n = 16 and 17")


@pytest.fixture
def results() -> Results:
    found = [outcome("resnet50", t, ("onnxruntime", 2.0), ("openvino", 1.25)) for t in (1, 2)]
    outcomes = [*found, outcome("<odd>", 1, ("onnxruntime", 0.5)), outcome("alone", 1)]
    return Results.of(outcomes, {"lost": "no network"}, 1.0, floors=FLOORS, limits=LIMITS, sweep=SWEEP)


def test_the_fastest_peer_is_the_one_to_beat(results: Results) -> None:
    first = results.outcomes[0]
    assert first.fastest.runtime == "openvino"
    assert first.ratio == pytest.approx(0.8)
    assert math.isnan(results.outcomes[-1].ratio)
    data = json.loads(json.dumps(as_json(results)["summary"]))
    assert data["1"] == {"geomean": pytest.approx(math.sqrt(0.8 * 2.0)), "worst": 2.0, "worst_model": "<odd>", "models": 2}
    assert data["2"]["geomean"] == pytest.approx(0.8)


def test_a_slow_compiler_is_measured_again_only_where_it_may_be_the_fastest() -> None:
    assert is_close("torch", outcome("near", 1, ("onnxruntime", 2.0), ("torch", 2.9)))
    assert is_close("torch", outcome("ahead", 1, ("onnxruntime", 2.0), ("torch", 1.0)))
    assert not is_close("torch", outcome("far", 1, ("onnxruntime", 2.0), ("torch", 3.1)))
    assert not is_close("torch", outcome("failed", 1, ("onnxruntime", 2.0)))
    page = as_markdown(Results.of([outcome("near", t, ("torch", 2.0)) for t in (1, 2)], {}, 1.0))
    assert page.count("Torch took part only where") == 1


def test_the_page_has_machine_versions_spread_and_floors(results: Results) -> None:
    text = as_markdown(results)
    assert "| resnet50 | zoo | float32[1, 4] | 1 | 2 | 1.25 | 0.80 | 3% |" in text
    assert "| alone | zoo | float32[1, 4] | 1 | - | - | - | 3% |" in text
    assert describe_machine().cpu in text
    assert "octavo 1.0, onnxruntime 1.0, openvino 1.0" in text
    assert "| 0.60 us, 0.20 us |" in text
    assert "| 1024 x 1024 x 1024 | 180 | 200 | 90% |" in text
    assert "| conv to 1 x 8 x 8 x 4, sums of 36 | 3 | 150 | 200 | 75% |" in text
    assert "| relu | 19 | 20 | 95% |" in text
    assert "1.25 between n = 16 and 17" in text
    assert "| subnormal weights over normal ones | 1.02 |" in text
    assert "(speed-sizes.svg)" in text
    assert "| two threads on resnet50 | 1.00 times as fast as one |" in text
    assert "warning: lost was not measured: no network" in text


def test_the_chart_is_well_formed_and_leaves_out_what_has_no_ratio(results: Results) -> None:
    svg = ET.fromstring(as_svg(results))
    words = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"resnet50", "<odd>", "0.80", "2.00"} <= set(words)
    assert "alone" not in words


def test_results_for_a_target_say_who_is_kept_to_it() -> None:
    found = Results.of([outcome("resnet50", 1, ("onnxruntime", 2.0))], {}, 1.0, "x86-64-v3")
    text = as_markdown(found)
    assert "code for x86-64-v3; peers are kept to its instructions, but onnxruntime, which knows no such limit, is not" in text
    assert "(speed-x86-64-v3.svg)" in text
    assert as_json(found)["target"] == "x86-64-v3"


def test_a_cliff_is_found_where_the_time_leaps_and_vectors_do_not() -> None:
    flat = tuple(10_000.0 * -(-size // 8) for size in range(1, 71))  # eight lanes: one more vector, as much more time
    assert steepest({"n": flat}, 8)[0] == pytest.approx(1.0)
    leap = (*flat[:40], 3 * flat[40], *flat[41:])
    assert steepest({"n": leap}, 8) == (pytest.approx(3.0), "n = 41 and 42")


def test_the_sizes_are_drawn_as_a_line_for_each_axis() -> None:
    svg = ET.fromstring(sweep_as_svg(SWEEP))
    lines = list(svg.iter("{http://www.w3.org/2000/svg}polyline"))
    assert [len(line.get("points").split()) for line in lines] == [70] * len(AXES)


def test_figures_of_octavo_alone_are_found() -> None:
    assert 0 < subnormal_ratio("native", 1, 1e-40, 1.0) < math.inf
    assert {shape[:2] for shape, ns in sweep_times([(1, 2, 3), (5, 7, 16)], "native") if ns > 0} == {(1, 2), (5, 7)}


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
