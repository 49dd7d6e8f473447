"""Tuning, with a clock and times that are made up: what is measured, when it stops, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import octavo
import pytest
from octavo.backends.lower.schedule import Schedule
from octavo.backends.target import Target, find_target
from octavo.backends.tune import recorded
from octavo.compiler.driver import compile_native, tune_model
from octavo.compiler.tune import Contest, contests, gain, race, tune
from octavo.ir.errors import OctavoError, TargetError
from octavo.ir.text import parse

NATIVE = find_target("native")
SMALL, LARGE = "f32[n,16] = matmul(f32[n,8], f32[8,16])", "f32[n,64] = matmul(f32[n,16], f32[16,64])"


class Clock:
    """Seconds that pass only when something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Times:
    """A timer that says that a schedule takes as long as `us` says."""

    def __init__(self, schedules: Sequence[Schedule], us: Callable[[Schedule], float], clock: Clock):
        self.schedules, self.us, self.clock = schedules, us, clock

    def seconds(self, number: int, least: float) -> float:
        self.clock.now += 0.01
        return self.us(self.schedules[number]) / 1e6


def fewest_rows(s: Schedule) -> float:
    return 10.0 + s.rows


def made_up(clock: Clock, us: Callable[[Schedule], float] = fewest_rows, seen: list[str] | None = None):
    def timer(contest: Contest, schedules: Sequence[Schedule], target: Target) -> Times:
        if seen is not None:
            seen.append(contest.signature)
        return Times(schedules, us, clock)

    return timer


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_TUNE", str(tmp_path / "best.json"))
    return tmp_path / "best.json"


def two_layers() -> octavo.Graph:
    rng = np.random.default_rng(0)
    w, v = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((8, 16), (16, 64)))

    def layers(x):
        y = octavo.ops.relu(octavo.ops.matmul(x, w))
        return octavo.ops.matmul(y, v)

    return octavo.trace(layers, octavo.spec("f32", ("n", 8)))


def test_the_fastest_is_kept_and_the_most_work_comes_first():
    clock, seen = Clock(), []
    rows = tune(two_layers(), NATIVE, 60, clock=clock, timer=made_up(clock, seen=seen))
    assert seen == [LARGE, SMALL]
    known = recorded(NATIVE)
    assert set(known) == {LARGE, SMALL}
    assert known[LARGE].best.rows < known[LARGE].first.rows
    assert [r.kernel for r in rows] == seen
    assert rows[0].ratio == pytest.approx(rows[0].first_us / rows[0].best_us)
    assert gain(rows) > 1


def test_a_first_guess_that_nothing_beats_clearly_stays():
    clock = Clock()
    (row, *_) = tune(two_layers(), NATIVE, 60, clock=clock, timer=made_up(clock, lambda s: 100 - s.rows / 1000))
    assert row.best == row.first
    assert row.ratio == 1


def test_what_the_record_has_is_not_measured_again():
    clock, seen = Clock(), []
    tune(two_layers(), NATIVE, 60, clock=clock, timer=made_up(clock))
    assert tune(two_layers(), NATIVE, 60, clock=clock, timer=made_up(clock, seen=seen)) == []
    assert seen == []


def test_it_ends_when_the_time_is_over_and_goes_on_later():
    clock, seen = Clock(), []
    first = tune(two_layers(), NATIVE, 0.4, clock=clock, timer=made_up(clock, seen=seen))
    assert [r.kernel for r in first] == seen == [LARGE]
    assert clock.now < 1.0, "it stopped between rounds"
    second = tune(two_layers(), NATIVE, 60, clock=clock, timer=made_up(clock, seen=seen))
    assert [r.kernel for r in second] == [SMALL]


def test_ctrl_c_keeps_the_best_so_far():
    clock = Clock()

    def interrupted(s: Schedule) -> float:
        if clock.now > 0.5:
            raise KeyboardInterrupt
        return fewest_rows(s)

    heard = []
    rows = tune(two_layers(), NATIVE, 60, tell=lambda *step: heard.append(step[0]), clock=clock, timer=made_up(clock, interrupted))
    assert [r.kernel for r in rows] == list(recorded(NATIVE)) == [LARGE]
    assert recorded(NATIVE)[LARGE].best.rows < recorded(NATIVE)[LARGE].first.rows
    assert heard[-1] == "interrupted: what was found is kept"


def test_progress_says_how_far_and_how_much_was_gained():
    clock, heard = Clock(), []
    tune(two_layers(), NATIVE, 60, tell=lambda *step: heard.append(step), clock=clock, timer=made_up(clock))
    stages, done, totals = zip(*heard, strict=True)
    assert stages[0].startswith("tune kernel 1 of 2, ")
    assert stages[-1].endswith("less time in them so far")
    assert "0.0%" not in stages[-1]
    assert set(totals) == {60}
    assert list(done) == sorted(done)


def test_a_compile_uses_what_was_found_and_computes_the_same():
    graph, clock = two_layers(), Clock()
    x = np.random.default_rng(1).uniform(-1, 1, (5, 8)).astype(np.float32)
    before = octavo.compile(graph)(x)
    tune(graph, NATIVE, 60, clock=clock, timer=made_up(clock))
    tiles = [n.attrs.get("tile") for b in compile_native(graph).built[0].bodies.values() for n in b.nodes if n.op == "matmul"]
    assert sorted(tiles) == sorted(t.best.tile for t in recorded(NATIVE).values())
    np.testing.assert_array_equal(octavo.compile(graph)(x), before)


def test_kernels_really_run():
    contest, *_ = contests(two_layers(), NATIVE, {"n": 40})
    assert contest.constants == (False, True) or contest.constants == (True, False)
    timer = race(contest, [Schedule(4, 2), Schedule(6, 1)], NATIVE)
    assert all(0 < timer.seconds(k, 1e-5) < 0.1 for k in (0, 1))


def test_tuning_a_model_keeps_what_it_measured(record: Path):
    model = octavo.compile(two_layers(), tune=1e-9)
    assert model(np.zeros((2, 8), np.float32)).shape == (2, 64)
    assert not record.exists(), "there was no time for a round"
    tuned = tune_model(two_layers(), 60, sizes={"n": 2})
    assert {row.kernel for row in tuned[NATIVE.name]} == set(recorded(NATIVE)) == {LARGE, SMALL}


def test_a_model_without_contractions_has_nothing_to_tune():
    assert tune(parse("graph g(%x: f32[n]) -> (%y) {\n%y = relu(%x)\n}"), NATIVE, 60) == []


def test_what_cannot_be_tuned_is_refused(monkeypatch: pytest.MonkeyPatch):
    foreign = "aarch64" if NATIVE.name != "aarch64" else "x86-64-v3"
    with pytest.raises(TargetError, match=f"schedules for '{foreign}' can only be measured on a processor that runs it"):
        tune_model(two_layers(), 1, target=foreign)
    monkeypatch.delenv("OCTAVO_TUNE")
    monkeypatch.setenv("OCTAVO_CACHE", "0")
    with pytest.raises(OctavoError, match=r"nowhere to keep what is measured: .*; name a file in OCTAVO_TUNE"):
        tune_model(two_layers(), 1)
