"""Which regions stay in floats so that a metric drops by no more than a budget, at the least cost in speed?

Sensitivity first: what the metric gains if one region alone stays in floats.  Regions are ranked by that gain for each microsecond
that floats cost, and a binary search over prefixes of the ranking finds the shortest that keeps within the budget, by the metric of
the whole (Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training Quantization", 2023).  Gains do not add up, so a
last pass makes bytes again of each region that turns out not to be needed, the worst bargain first.

>>> within_budget(regions, metric, cost, least=0.91)
Found(kept=frozenset({7}), metric=0.914, gains={frozenset({7}): 0.02, frozenset({8}): 0.0})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .fastest import NONE, Kept

Tell = Callable[[str, int, int], None]  # (stage, done, total)
FREE = 1e-3  # microseconds: the least that floats are taken to cost


@dataclass(frozen=True)
class Found:
    """kept: what stays in floats; metric: of that; gains: of each region alone, {} where the budget was kept without."""

    kept: Kept
    metric: float
    gains: Mapping[Kept, float]


def within_budget(
    regions: Sequence[Kept],
    metric: Callable[[Kept], float],
    cost: Callable[[Kept], float],
    least: float,
    *,
    start: Kept = NONE,
    tell: Tell = lambda stage, done, total: None,
) -> Found | None:
    """The choice, or None where the metric is below `least` however few regions are quantized, down to one.

    regions: what may be quantized; start: what stays in floats anyway.  metric(kept): higher is better.  cost(region): microseconds
    that the region takes longer in floats.
    """
    tell("metric int8", 0, 1)
    now = metric(start)
    open_regions = [r for r in regions if not r <= start]
    if now >= least:
        return Found(start, now, {})
    gains: dict[Kept, float] = {}
    for k, region in enumerate(open_regions):
        tell("sensitivity", k, len(open_regions))
        gains[region] = metric(start | region) - now if len(open_regions) > 1 else 0.0
    ranked = sorted(open_regions, key=lambda r: (-_bargain(gains[r], cost(r)), min(r)))

    known: dict[int, float] = {0: now}

    def prefix(n: int) -> Kept:
        return start.union(*ranked[:n])

    def good(n: int) -> bool:
        if n not in known:
            known[n] = metric(prefix(n))
        return known[n] >= least

    low, high = 0, len(ranked) - 1  # the metric of `low` is too low; at `high` one region alone is left in int8
    steps = max(1, math.ceil(math.log2(high + 1)) + 1)
    tell("search", 0, steps)
    if high < 1 or not good(high):
        return None
    done = 1
    while high - low > 1:
        tell("search", done, steps)
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
        done += 1
    kept, reached = prefix(high), known[high]
    for k, region in enumerate(reversed(ranked[: high - 1])):  # without the last the budget was missed
        tell("trim", k, high - 1)
        value = metric(kept - region)
        if value >= least:
            kept, reached = kept - region, value
    return Found(kept, reached, gains)


def _bargain(gain: float, cost: float) -> float:
    """Gain for a microsecond; what harms comes last, and the more so the less it costs."""
    return gain / max(cost, FREE)
