"""Which regions of a quantized network stay in floats because that is measured faster?

A region is a contraction, or several that one kernel computes.  What a region costs in either precision says where to look; what
counts is the time of the whole, side by side with and without a change, because a switch of precision costs the quantizing kernels
around it too.  Candidates that help together are taken together; if they do not, each half is tried alone (as in delta debugging),
and all again with the times of what was chosen, until nothing helps.

>>> fastest(regions, times, ratio)
frozenset({3, 4})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Kept = frozenset[int]  # numbers of the contractions that stay in floats
NONE: Kept = frozenset()
Times = Mapping[int, float]  # microseconds of the kernels of each contraction

NEAR = 0.9  # of its time in floats: what a region must take in int8, or it is tried in floats
WORTH = 0.99  # of the time before: what a change must take, or it is noise
ROUNDS = 4


def fastest(regions: Sequence[Kept], times: Callable[[Kept], Times], ratio: Callable[[Kept, Kept], float], start: Kept = NONE) -> Kept:
    """What should stay in floats, at least `start`: everything, where no choice is faster than that.

    times(kept): of every contraction, where `kept` stays in floats; ratio(a, b): time of the whole with a in floats over that with b.
    """
    every = start.union(*regions)
    floats = times(every)
    kept = start
    for _ in range(ROUNDS):
        better = _with_worthwhile(kept, _candidates(regions, kept, times(kept), floats), ratio)
        if better == kept:
            break
        kept = better
    return kept if kept == every or ratio(kept, every) < 1 else every


def _candidates(regions: Sequence[Kept], kept: Kept, now: Times, floats: Times) -> list[Kept]:
    """Regions that gain little or lose in int8, the one that loses most first."""

    def loss(region: Kept) -> float:
        return max(now.get(k, 0.0) - NEAR * floats.get(k, 0.0) for k in region)

    return sorted((r for r in regions if not r <= kept and loss(r) > 0), key=lambda r: (-loss(r), min(r)))


def _with_worthwhile(kept: Kept, candidates: Sequence[Kept], ratio: Callable[[Kept, Kept], float]) -> Kept:
    if not candidates:
        return kept
    together = kept.union(*candidates)
    if ratio(together, kept) < WORTH:
        return together
    if len(candidates) == 1:
        return kept
    half = len(candidates) // 2
    return _with_worthwhile(_with_worthwhile(kept, candidates[:half], ratio), candidates[half:], ratio)
