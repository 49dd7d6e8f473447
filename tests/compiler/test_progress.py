"""Progress: reported always, heard by those who listen, shown on the right stream."""

from __future__ import annotations

import json
import re

import pytest
from octavo.compiler.cli import terminal as terminal_module
from octavo.compiler.cli.terminal import Terminal
from octavo.compiler.progress import PARTS, Step, listening, part, report


def test_reports_reach_the_listener_of_the_block_only() -> None:
    heard: list[Step] = []
    report("before")
    with listening(heard.append):
        report("kernels", 1, 3)
    report("after")
    assert heard == [Step("kernels", 1, 3)]


def test_parts_count_to_the_end_of_the_whole() -> None:
    heard: list[Step] = []
    with listening(heard.append), part("second", 1, 4):
        report("kernels", 1, 2)
        with part("inner", 1, 2):
            report("kernels", 1, 2)
    assert [(step.stage, step.done / PARTS) for step in heard] == [
        ("second: start", 1.0),
        ("second: kernels", 1.5),
        ("second: inner: start", 1.5),
        ("second: inner: kernels", 1.75),
    ]
    assert {step.total for step in heard} == {4 * PARTS}


def test_progress_is_plain_lines_on_stderr_when_it_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_module, "PATIENCE", 0.0)
    with Terminal().progress("compile"):
        report("kernels", 0, 4)
        report("kernels", 1, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first == "compile: kernels 0/4"
    assert re.fullmatch(r"compile: kernels 1/4, \d+ s left", second)


def test_progress_is_json_lines_with_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "PATIENCE", 0.0)
    with Terminal(json=True).progress("compile"):
        report("kernels", 2, 4)
    line = json.loads(capsys.readouterr().err)
    assert (line["progress"], line["stage"], line["done"], line["total"]) == ("compile", "kernels", 2, 4)


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress("compile"):
        report("kernels", 1, 4)
    assert capsys.readouterr().err == ""


def test_json_has_no_bare_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(json=True).emit({"error": float("inf"), "rows": [float("nan"), 1.5]}, lambda out: None)
    assert json.loads(capsys.readouterr().out) == {"error": "inf", "rows": ["nan", 1.5]}
