"""Searches for precisions, on costs and gains that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from octavo.passes.quantize.budget import within_budget
from octavo.passes.quantize.fastest import NONE, Kept, fastest

SINGLE = [Kept((k,)) for k in range(6)]


def additive(drops: list[float], seen: list[Kept] | None = None) -> Callable[[Kept], float]:
    """A metric that is 1 in floats, of which each region in int8 takes a part."""

    def metric(kept: Kept) -> float:
        if seen is not None:
            seen.append(kept)
        return 1 - sum(d for k, d in enumerate(drops) if k not in kept)

    return metric


def test_a_budget_that_is_kept_costs_one_measurement() -> None:
    seen: list[Kept] = []
    found = within_budget(SINGLE, additive([0.01] * 6, seen), lambda r: 1, 0.9)
    assert found is not None
    assert (found.kept, found.gains, seen) == (NONE, {}, [NONE])


def test_the_region_that_a_metric_needs_stays_in_floats() -> None:
    found = within_budget(SINGLE, additive([0, 0, 0.3, 0, 0.01, 0]), lambda r: 1, 0.98)
    assert found is not None
    assert found.kept == {2}
    assert found.metric == pytest.approx(0.99)
    assert found.gains[Kept((2,))] == pytest.approx(0.3)


def test_of_two_that_help_alike_the_one_that_costs_less_time_stays_in_floats() -> None:
    cost = {Kept((k,)): 100.0 if k == 1 else 1.0 for k in range(6)}
    found = within_budget(SINGLE, additive([0, 0.1, 0, 0, 0.1, 0]), cost.__getitem__, 0.85)
    assert found is not None
    assert found.kept == {4}


def test_what_turns_out_not_to_be_needed_is_quantized_again() -> None:
    """0 comes first, as it costs nothing, but 3 alone suffices."""
    cost = {Kept((k,)): 0.01 if k == 0 else 1.0 for k in range(6)}
    found = within_budget(SINGLE, additive([0.1, 0, 0, 0.5, 0, 0]), cost.__getitem__, 0.89)
    assert found is not None
    assert found.kept == {3}


def test_what_stays_in_floats_anyway_is_not_tried() -> None:
    seen: list[Kept] = []
    found = within_budget(SINGLE, additive([0.1] * 6, seen), lambda r: 1, 0.75, start=Kept((5,)))
    assert found is not None
    assert 5 in found.kept
    assert len(found.kept) == 4
    assert all(5 in kept for kept in seen)


def test_a_budget_that_takes_everything_in_floats_cannot_be_met() -> None:
    assert within_budget(SINGLE, additive([0.1] * 6), lambda r: 1, 0.95) is None
    assert within_budget(SINGLE[:1], additive([0.1]), lambda r: 1, 0.95) is None


def test_each_step_of_a_search_is_counted() -> None:
    told: list[tuple[str, int, int]] = []
    within_budget(SINGLE, additive([0.1] * 6), lambda r: 1, 0.65, tell=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "sensitivity"] == [("sensitivity", k, 6) for k in range(6)]
    assert {name for name, _, _ in told} == {"metric int8", "sensitivity", "search", "trim"}
    assert all(done < total for _, done, total in told)


# By time


class Machine:
    """Microseconds of regions, and of each change of precision between neighbours."""

    def __init__(self, f32: list[float], int8: list[float], switch: float):
        self.f32, self.int8, self.switch = f32, int8, switch

    def times(self, kept: Kept) -> dict[int, float]:
        return {k: self.f32[k] if k in kept else self.int8[k] for k in range(len(self.f32))}

    def total(self, kept: Kept) -> float:
        changes = sum((k in kept) != (k + 1 in kept) for k in range(len(self.f32) - 1))
        return sum(self.times(kept).values()) + self.switch * changes

    def ratio(self, a: Kept, b: Kept) -> float:
        return self.total(a) / self.total(b)


def chosen(f32: list[float], int8: list[float], switch: float = 0, start: Kept = NONE) -> Kept:
    machine = Machine(f32, int8, switch)
    return fastest(SINGLE[: len(f32)], machine.times, machine.ratio, start)


def test_a_region_that_loses_stays_in_floats() -> None:
    assert chosen([10, 10, 10, 10], [4, 12, 4, 13]) == {1, 3}


def test_a_region_that_wins_less_than_a_switch_costs_is_not_changed() -> None:
    assert chosen([10, 10, 10], [4, 12, 4], switch=3) == NONE
    assert chosen([10, 10, 10], [4, 18, 4], switch=3) == {1}


def test_a_candidate_that_does_not_pay_does_not_keep_others_from_it() -> None:
    assert chosen([10, 10, 10, 10, 10], [4, 12, 4, 4, 30], switch=8) == {4}


def test_nothing_in_int8_is_chosen_that_is_slower_than_floats() -> None:
    assert chosen([10, 10], [9.5, 9.5], switch=0) == NONE
    assert chosen([10, 10, 10], [12, 12, 12]) == {0, 1, 2}
    assert chosen([10, 1, 10], [12, 0.5, 12], switch=3) == {0, 1, 2}


def test_what_has_to_stay_in_floats_does() -> None:
    assert chosen([10, 10, 10], [4, 4, 12], start=Kept((0,))) == {0, 2}
