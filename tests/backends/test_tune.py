"""The record of measured schedules: what is kept is found again, and what is damaged or of other code counts for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from octavo.backends.lower.schedule import Schedule
from octavo.backends.target import find_target
from octavo.backends.tune import Tuned, recorded, remember, schedules

V3, V4 = find_target("x86-64-v3"), find_target("x86-64-v4")
A, B = "f32[n,8] = matmul(f32[n,4], f32[4,8])", 'f32[1,"8"] = matmul(f32[1,4], f32[4,8])'
TUNED = Tuned(Schedule(6, 2), 20.5, Schedule(12, 1), 30.75)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "best.json"
    monkeypatch.setenv("OCTAVO_TUNE", str(path))
    return path


def test_what_is_remembered_is_found_again(record: Path):
    remember(V4, {A: TUNED})
    remember(V4, {B: TUNED})
    remember(V3, {A: Tuned(Schedule(4, 3), 1.0, Schedule(4, 3), 1.0)})
    assert recorded(V4) == {A: TUNED, B: TUNED}
    assert schedules(V3) == {A: Schedule(4, 3)}
    assert TUNED.ratio == 1.5


def test_the_file_is_json_that_people_can_read(record: Path):
    remember(V4, {A: TUNED})
    assert json.loads(record.read_text())["targets"] == {
        "x86-64-v4": {A: {"tile": [6, 2], "us": 20.5, "first": [12, 1], "first_us": 30.75}}
    }
    assert list(record.parent.iterdir()) == [record], "nothing temporary is left"


def test_without_a_file_nothing_is_known(record: Path):
    assert recorded(V4) == {}


def test_without_a_place_nothing_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", "0")
    monkeypatch.delenv("OCTAVO_TUNE", raising=False)
    remember(V4, {A: TUNED})
    assert recorded(V4) == {}


def test_the_cache_folder_has_it_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OCTAVO_TUNE", raising=False)
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    remember(V4, {A: TUNED})
    assert (tmp_path / "schedules.json").exists()


def test_a_record_of_other_code_counts_no_more(record: Path):
    remember(V4, {A: TUNED})
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "version": "older"}))
    assert recorded(V4) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace("[6, 2]", "[600, 2]"),
        lambda text: text.replace("[6, 2]", "[6]"),
        lambda text: text.replace("[6, 2]", '["6", 2]'),
        lambda text: text.replace("20.5", "-1"),
        lambda text: text.replace('"us"', '"them"'),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_record_is_ignored_with_a_warning_and_replaced(record: Path, damage):
    remember(V4, {A: TUNED})
    record.write_bytes(damage(record.read_text()).encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match=r"best\.json is damaged and ignored .*; remove it"):
        assert recorded(V4) == {}
    with pytest.warns(UserWarning, match="damaged"):
        remember(V4, {B: TUNED})
    assert recorded(V4) == {B: TUNED}
