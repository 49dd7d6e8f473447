"""The prepared graph, which of its values are observed, and the profile as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from octavo.ir.errors import QuantError
from octavo.ir.text import digest, parse
from octavo.passes.quantize.profile import BINS, Profile, Stats, observed, prepared, value_names

BLOCK = """graph block(%x: f32[n,4,8,8]) -> (%6) {
  %1 = conv(%x, const<f32[4,4,1,1] [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]>, dilations=[1,1], pads=[[0,0],[0,0]], strides=[1,1])
  %2 = add(%1, const<f32[1,4,1,1] [1,2,3,4]>)
  %3 = relu(%2)
  %4 = conv(%3, const<f32[4,4,1,1] [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,2]>, dilations=[1,1], pads=[[0,0],[0,0]], strides=[1,1])
  %5 = add(%4, %x)
  %6 = relu(%5)
}"""


def stats(low: float, high: float, exponent: int, bins: dict[int, int]) -> Stats:
    return Stats(sum(bins.values()), low, high, exponent, tuple(bins.get(k, 0) for k in range(BINS)))


def test_a_prepared_graph_is_prepared() -> None:
    graph = prepared(parse(BLOCK))
    assert prepared(graph) is graph


def test_what_stays_in_registers_is_not_observed() -> None:
    graph = prepared(parse(BLOCK))
    names = value_names(graph)
    assert [(names[v], v.node.op) for v in observed(graph)] == [
        ("x", "input"),
        ("%1", "conv"),
        ("%3", "relu"),
        ("%4", "conv"),
        ("%6", "relu"),
    ]


def test_a_profile_survives_the_file(tmp_path: Path) -> None:
    x = Stats(3, -1.5, 0.1, 1, tuple({256: 1, 1024: 1, 1075: 1}.get(k, 0) for k in range(BINS)), (1.5, 0.0), (-(3 << 147), 5))
    profile = Profile(digest(parse(BLOCK)), 2, {"x": x})
    profile.save(tmp_path / "p.qprof")
    loaded = Profile.load(tmp_path / "p.qprof")
    assert loaded.values["x"].bins == x.bins
    assert loaded.values["x"].channel_sum == x.channel_sum
    assert loaded.values["x"].high == float(np.float32(0.1))


def test_a_profile_of_another_graph_is_refused() -> None:
    profile = Profile("0" * 32, 1, {})
    with pytest.raises(QuantError, match=r"is of another graph .* calibrate this very model"):
        profile.check(prepared(parse(BLOCK)))


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_every_method_gives_a_range_within_what_was_seen(method: str) -> None:
    profile = Profile("0" * 32, 1, {"x": stats(-0.5, 3.0, 2, {1024 - 128: 5, 1024: 900, 1300: 90, 1791: 1})})
    low, high = profile.range("x", method)
    assert -0.5 <= low <= 0 < high <= 3.0
