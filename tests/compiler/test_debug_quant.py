"""Which layer loses accuracy in int8: networks of which the worst is known, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import octavo
import pytest
from click.testing import CliRunner, Result
from octavo.compiler.cli import main
from octavo.compiler.debug_quant import QuantReport, clipped_share, debug_quant, decibels
from octavo.compiler.quant_page import page
from octavo.frontend.onnx import export_model
from octavo.ir.errors import QuantError
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type
from octavo.passes.quantize.profile import BINS, Profile, Stats

WIDTH = 16
OUTLIER = 1000.0


def layer(x: Value, w: np.ndarray, loc: str) -> Value:
    return apply("relu", apply("matmul", x, const_value(w.astype(np.float32)), loc=loc), loc=loc)


def network(worst: int | None = 1, count: int = 4) -> Graph:
    """Matmuls "layer0" and so on.  The operand of number `worst` has a channel 1000 times as large as the others, which that layer
    alone ignores."""
    rng = np.random.default_rng(2)
    x = v = input_value("x", parse_type(f"f32[n,{WIDTH}]"))
    for k in range(count):
        w = rng.standard_normal((WIDTH, WIDTH)) / 4
        if worst is not None and k == worst - 1:
            w[:, 3] = np.abs(w[:, 3]) * OUTLIER
        if k == worst:
            w[3] = 0
        v = layer(v, w, f"layer{k}")
    return Graph("network", (x,), (v,), ("y",))


def samples(count: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": np.abs(rng.standard_normal((32, WIDTH))).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> tuple[Graph, Profile]:
    graph = network()
    return graph, octavo.calibrate(graph, samples())


def nearness(graph: Graph, data: list[dict[str, np.ndarray]]) -> Callable[[dict[str, np.ndarray], int], float]:
    """A metric: how near the outputs are to those in f32."""
    exact = octavo.compile(graph, threads=1)
    expected = [exact.run(None, sample)[0] for sample in data]
    return lambda outputs, number: -float(np.square(outputs["y"] - expected[number]).mean())


@pytest.mark.parametrize("worst", [1, 2, 3])
def test_the_layer_that_reads_an_outlier_adds_most_error(worst: int) -> None:
    graph = network(worst)
    report = debug_quant(graph, octavo.calibrate(graph, samples()), samples(seed=5), seconds=0, equalize=False)
    first = report.layers[0]
    assert first.loc == f"layer{worst}"
    assert first.number == worst
    assert first.added > 100 * report.layers[1].added
    assert sorted(x.number for x in report.layers) == [0, 1, 2, 3]
    assert [x.added for x in report.layers] == sorted((x.added for x in report.layers), reverse=True)


def test_later_layers_inherit_its_error(model: tuple[Graph, Profile]) -> None:
    report = debug_quant(*model, samples(seed=5), seconds=0, equalize=False)
    first, worst, third, fourth = sorted(report.layers, key=lambda x: x.number)
    assert first.inherited == 0
    assert worst.inherited < 0.1 * worst.added
    for x in (third, fourth):
        assert x.inherited > 100 * x.added
        assert x.error == x.added + x.inherited
    assert first.sqnr_db > 30 > worst.sqnr_db
    assert report.outputs == {"y": fourth.sqnr_db}
    assert report.samples == 4


def test_errors_are_those_of_the_compiled_int8_model(model: tuple[Graph, Profile]) -> None:
    data = samples(seed=5)
    report = debug_quant(*model, data, seconds=0)
    exact, int8 = octavo.compile(model[0], threads=1), octavo.compile(octavo.quantize(*model), threads=1)
    a, b = (np.concatenate([m(s["x"]) for s in data]).astype(np.float64) for m in (exact, int8))
    assert report.outputs["y"] == pytest.approx(decibels(np.square(a - b).sum() / np.square(a).sum()), abs=0.1)


def test_an_outlier_leaves_few_levels_to_most_elements() -> None:
    graph = network(None)
    data = samples()
    data[0]["x"] = data[0]["x"].copy()
    data[0]["x"][0, 0] = OUTLIER
    profile = octavo.calibrate(graph, data)
    by_number = {x.number: x for x in debug_quant(graph, profile, samples(seed=5), seconds=0).layers}
    assert (by_number[0].used or 1) < 0.02
    assert by_number[0].clipped == 0
    by_number = {x.number: x for x in debug_quant(graph, profile, data, seconds=0, method="percentile", percent=99.9).layers}
    assert (by_number[0].used or 0) > 0.5
    assert 1 <= (by_number[0].clipped or 0) * 4 * 32 * WIDTH <= 3


def test_clipped_elements_are_those_beyond_the_levels() -> None:
    bins = [0] * BINS
    bins[1024] = 90  # from 0 to 1/1024
    bins[1024 + 1000] = 7  # near 1
    bins[1023 - 500] = 3  # near -0.5
    stats = Stats(100, -0.489, 0.977, 0, tuple(bins))
    assert clipped_share(stats, 2 / 255, 128) == 0
    assert clipped_share(stats, 1 / 255, 128) == 0.07  # to 0.498
    assert clipped_share(stats, 1 / 255, 0) == 0.03
    assert clipped_share(stats, 0.5 / 255, 128) == 0.1


def test_the_metric_gains_most_from_the_worst_layer_in_floats(model: tuple[Graph, Profile]) -> None:
    data = samples(seed=5)
    report = debug_quant(*model, data, metric=nearness(model[0], data), seconds=0, equalize=False)
    gains = [x.gain or 0 for x in report.layers]
    assert report.metric_f32 == 0
    assert max(gains) == gains[0] > 0
    assert gains[0] == pytest.approx(-(report.metric_int8 or 0), rel=0.1)


def test_an_outlier_that_equalization_takes_care_of_does_no_harm(model: tuple[Graph, Profile]) -> None:
    data = samples(seed=5)
    equal, unequal = (debug_quant(*model, data, seconds=0, equalize=e) for e in (True, False))
    assert equal.outputs["y"] > unequal.outputs["y"] + 10
    assert [x.value for x in sorted(equal.layers, key=lambda x: x.number)] == [
        x.value for x in sorted(unequal.layers, key=lambda x: x.number)
    ]
    assert {x.loc for x in equal.layers if x.used is None} == {"layer1"}


def test_the_metric_of_equalized_layers_is_that_of_the_model(model: tuple[Graph, Profile]) -> None:
    data = samples(seed=5)
    report = debug_quant(*model, data, metric=nearness(model[0], data), top=1, seconds=0)
    assert report.metric_f32 == 0
    assert report.layers[0].gain is not None


def test_the_metric_is_tried_on_the_first_layers_only(model: tuple[Graph, Profile]) -> None:
    seen: list[int] = []

    def metric(outputs: dict[str, np.ndarray], number: int) -> float:
        seen.append(number)
        assert list(outputs) == ["y"]
        return 1.0

    report = debug_quant(*model, iter(samples(3)), metric=metric, top=1, seconds=0)
    assert [x.gain for x in report.layers] == [0, None, None, None]
    assert seen == [0, 1, 2] * 3  # f32, int8, without the worst


def test_the_only_layer_gains_all_there_is() -> None:
    graph, data = network(None, 1), samples(1)
    report = debug_quant(graph, octavo.calibrate(graph, data), data, metric=nearness(graph, data), seconds=0)
    assert report.layers[0].gain == -(report.metric_int8 or 0) > 0


def assert_accounted(report: QuantReport) -> None:
    """Every layer has a time, and times of layers and of the rest are all there is."""
    for layers, times in (("f32_us", report.f32_times), ("int8_us", report.int8_times)):
        each = [getattr(x, layers) for x in report.layers]
        assert times is not None
        assert min(each) > 0
        assert sum(each) + times.other_us == pytest.approx(times.total_us)


def test_times_are_of_the_kernels_that_compute_the_layer(model: tuple[Graph, Profile]) -> None:
    report = debug_quant(*model, samples(1), seconds=0.02)
    assert_accounted(report)
    assert all(x.f32_with == x.int8_with == () for x in report.layers)


def test_a_kernel_of_several_layers_is_said_to_be_one() -> None:
    x = input_value("x", parse_type("f32[2,32,16]"))
    rng = np.random.default_rng(0)
    keys, values = (const_value(rng.standard_normal(shape).astype(np.float32)) for shape in ((2, 16, 32), (2, 32, 16)))
    graph = Graph("attend", (x,), (apply("matmul", apply("softmax", apply("matmul", x, keys), axis=2), values),))
    data = [{"x": rng.standard_normal((2, 32, 16)).astype(np.float32)}]
    report = debug_quant(graph, octavo.calibrate(graph, data), data, seconds=0.02)
    a, b = sorted(report.layers, key=lambda x: x.number)
    assert (a.f32_with, b.f32_with) == ((1,), (0,))
    assert a.f32_us == b.f32_us
    assert "* the kernel computes other layers of the table too" in page(report)


def test_layers_at_one_place_have_times_of_their_own() -> None:
    x = v = input_value("x", parse_type(f"f32[64,{WIDTH}]"))
    for n in (WIDTH, 512, WIDTH):
        v = layer(v, np.random.default_rng(n).standard_normal((int(str(v.shape[1])), n)), "here")
    graph, data = Graph("same", (x,), (v,)), [{"x": np.ones((64, WIDTH), np.float32)}]
    report = debug_quant(graph, octavo.calibrate(graph, data), data, seconds=0.02)
    assert [x.loc for x in report.layers] == ["here"] * 3
    assert_accounted(report)


# What is refused


def failing(outputs: dict[str, np.ndarray], number: int) -> float:
    raise KeyError("label")


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        ([], {}, "there are no samples to compare on: data was empty"),
        ({"x": np.ones((1, WIDTH))}, {}, "data must be an iterable of samples"),
        ([np.ones((1, WIDTH))], {}, r"sample 1 is a ndarray, not {input name: array}"),
        ([{"z": np.ones((1, WIDTH), np.float32)}], {}, r"sample 1: model 'network' has no input 'z'"),
        ([{"x": np.full((1, WIDTH), np.nan, np.float32)}], {}, r"sample 1: input 'x' holds nan at \[0, 0\]"),
        (samples(1), {"exclude": ["matmul"]}, "nothing can be quantized"),
        (samples(1), {"method": "guess"}, "there is no method 'guess' to find a range"),
        (samples(1), {"metric": failing}, "the metric failed on sample 0: KeyError: 'label'"),
        (samples(1), {"metric": lambda outputs, number: math.nan}, "the metric gave nan for sample 0; it must give a finite number"),
        (samples(1), {"metric": lambda outputs, number: None}, "the metric failed on sample 0: TypeError"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_compared_is_refused(model: tuple[Graph, Profile], data: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(QuantError, match=text):
        debug_quant(*model, data, seconds=0, **options)


def test_a_profile_of_another_graph_is_refused(model: tuple[Graph, Profile]) -> None:
    with pytest.raises(QuantError, match="the profile is of another graph"):
        debug_quant(network(3), model[1], samples(1))
    with pytest.raises(QuantError, match=r"a profile is what octavo\.calibrate returns, or the path of its file, not a dict"):
        debug_quant(network(3), {}, samples(1))  # type: ignore[arg-type]


# The command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The model, its profile and data."""
    path = tmp_path / "net.onnx"
    path.write_bytes(export_model(network()).SerializeToString())
    octavo.calibrate(path, samples()).save(tmp_path / "net.qprof")
    np.savez(tmp_path / "data.npz", x=np.stack([s["x"] for s in samples(seed=5)]))
    return path, tmp_path / "net.qprof", tmp_path / "data.npz"


def run(files: tuple[Path, Path, Path], *args: object) -> Result:
    model, profile, data = map(str, files)
    return CliRunner().invoke(
        main, ["debug", "quant", model, profile, "--data", data, "--seconds", "0", *map(str, args)], prog_name="octavo"
    )


def test_the_table_begins_with_the_worst_layer(files: tuple[Path, Path, Path]) -> None:
    result = run(files)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split()[:2] == ["layer", "op"]
    assert "gain" not in head
    assert [row.split()[1] for row in rows[:4]] == ["matmul"] * 4
    assert "4 layers in int8 beside f32 on 4 samples; SQNR of outputs: y " in result.stdout
    worst = json.loads(run(files, "--json", "--samples", 2).stdout)
    assert worst["samples"] == 2
    assert worst["layers"][0]["number"] == 1
    assert worst["layers"][0].keys() >= {"sqnr_db", "added", "inherited", "clipped", "used", "f32_us", "int8_us", "gain"}
    assert rows[0].split()[0] == worst["layers"][0]["loc"].removeprefix("onnx:")


def test_the_page_holds_every_layer_and_loads_nothing(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = run(files, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "page.html").read_text()
    assert all(f'id="layer{k}"' in text and f'href="#layer{k}"' in text for k in range(4))
    assert not any(word in text for word in ("http", "src=", "<script", "@import", "url("))


def test_names_in_the_page_are_escaped() -> None:
    graph, data = network(None, 1), samples(1)
    v = layer(graph.outputs[0], np.eye(WIDTH), "<b>&bold")
    graph = Graph("a<b", graph.inputs, (v,))
    text = page(debug_quant(graph, octavo.calibrate(graph, data), data, seconds=0))
    assert all(name in text for name in ("&lt;b&gt;&amp;bold", "a&lt;b"))
    assert "<b>" not in text


def test_a_metric_from_a_module_is_shown(files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric.py").write_text("def least(outputs, number):\n    return float(outputs['y'].min()) + number\nLIMIT = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = run(files, "--metric", "my_metric:least", "--top", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[-1] == "gain"
    assert "metric: f32 " in result.stdout
    for name, text in (
        ("my_metric:LIMIT", "my_metric:LIMIT is a int, not a function"),
        ("my_metric:most", "my_metric:most cannot be imported: AttributeError"),
        ("nonsense", "'nonsense' is not module:name"),
    ):
        result = run(files, "--metric", name)
        assert result.exit_code == 1
        assert text in result.stderr


def test_top_without_a_metric_is_wrong_usage(files: tuple[Path, Path, Path]) -> None:
    result = run(files, "--top", 3)
    assert result.exit_code == 2
    assert "give --metric too" in result.stderr


def test_a_failure_leaves_no_page(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = run(files, "--exclude", "matmul", "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "nothing can be quantized" in result.stderr
    assert not (tmp_path / "page.html").exists()
