"""The comparison of first guesses with tuned schedules: what a model's ratio is, and the page about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from octavo.benchmarks import tuning
from octavo.compiler.machine import describe_machine
from octavo.compiler.tune import Row

A = Row("f32[8,8] = matmul(f32[8,8], f32[8,8])", "", 3, "6x4", 10.0, "6x4", 10.0, 1.0)
B = Row("f32[9,9] = matmul(f32[9,9], f32[9,9])", "", 1, "6x4", 40.0, "9x3", 30.0, 4 / 3)


def test_a_models_ratio_counts_every_call():
    assert tuning.Outcome("m", (A, B)).ratio == pytest.approx(70 / 60)


def test_the_page_shows_each_model_and_its_worst_kernel():
    page = tuning.as_markdown([tuning.Outcome("m", (A, B))], describe_machine(), "x86-64-v4", 10)
    assert "| m | 2 | 70 | 60 | 1.167 | 1.33: f32[9,9] = matmul(f32[9,9], f32[9,9]), 6x4 instead of 9x3 |" in page


@pytest.mark.parametrize(("rows", "code"), [((A,), 0), ((A, B), 3)])
def test_a_guess_beyond_the_limit_fails(rows: tuple[Row, ...], code: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "measure", lambda name, target, most: tuning.Outcome(name, rows))
    assert CliRunner().invoke(tuning.main, ["--only", "m"]).exit_code == code


def test_a_model_is_measured_without_a_trace_in_the_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("OCTAVO_TUNE", str(tmp_path / "best.json"))
    build = tuning.zoo.build
    monkeypatch.setattr(tuning.zoo, "build", lambda name: build(name, small=True))
    outcome = tuning.measure("mlp_small", most=2)
    assert [r.calls for r in outcome.rows] == [1, 1]
    assert not (tmp_path / "best.json").exists()
