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


def test_a_profile_is_text_with_a_value_on_each_line(tmp_path: Path) -> None:
    x = Stats(3, -1.5, 0.1, 1, tuple({256: 1, 1024: 1, 1025: 1}.get(k, 0) for k in range(BINS)), (1.5, 0.0), (-(3 << 147), 1 << 148))
    Profile("5a0d", 2, {"x": x, "%3": stats(0, 0, -116, {1024: 2})}).save(tmp_path / "p.qprof")
    assert (
        (tmp_path / "p.qprof").read_text()
        == """{"octavo profile": 1,
 "graph": "5a0d",
 "samples": 2,
 "values": {
  "x": {"count": 3, "low": -1.5, "high": 0.1, "exponent": 1, "bins": [[256, 1], [1024, 1, 1]], "channel_max": [1.5, 0.0], \
"channel_sum": {"exponent": -2, "sums": [-3, 2]}},
  "%3": {"count": 2, "low": 0.0, "high": 0.0, "exponent": -116, "bins": [[1024, 2]]}
}}
"""
    )


def test_merging_widens_the_narrower_histogram() -> None:
    a = stats(-0.25, 0.25, -1, {1024 - 512: 1, 1024: 5, 1024 + 513: 2})
    b = stats(-1.5, 0.0, 1, {1024 - 769: 1, 1024: 3})
    both = a.merge(b)
    assert both == b.merge(a) == stats(-1.5, 0.25, 1, {1024 - 769: 1, 1024 - 128: 1, 1024: 8, 1024 + 128: 2})


def test_merging_is_associative() -> None:
    parts = [stats(-(2.0**e), 2.0**e / 3, e + 1, {1024 - 513: 1, 1023: e + 9, 1024: 1, 1024 + 341: 1}) for e in (-3, 4, 0, 20)]
    a, b, c, d = parts
    assert a.merge(b).merge(c).merge(d) == a.merge(b.merge(c.merge(d))) == d.merge(b).merge(a.merge(c))


def test_means_are_exact_sums_rounded_once() -> None:
    half, tiny = 1 << 148, 1
    s = Stats(6, 0.0, 0.5, 0, tuple({1024: 3, 1536: 3}.get(k, 0) for k in range(BINS)), (), (half, 3 * half + tiny, 0))
    assert s.channel_mean == (0.25, 0.75, 0.0)


def test_profiles_of_different_graphs_do_not_merge() -> None:
    x = stats(0, 0, 0, {1024: 1})
    with pytest.raises(QuantError, match=r"profiles of different graphs \(aa and bb\) cannot be merged; calibrate one model for both"):
        Profile("aa", 1, {"x": x}).merge(Profile("bb", 1, {"x": x}))


LINE = '"x": {"count": 3, "low": -1.0, "high": 1.5, "exponent": 1, "bins": [[512, 1], [1024, 1], [1792, 1]], "channel_max": [1.5]}'
TEXT = '{"octavo profile": 1, "graph": "aa", "samples": 2, "values": {\n' + LINE + "\n}}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("}}\n", "", "is no profile, or a damaged one: .*; calibrate again"),
        ('"octavo profile": 1, ', "", "it does not say 'octavo profile'"),
        ('profile": 1', 'profile": 2', "it is of version 2, not 1"),
        ('"aa"', "7", "its graph must be a digest and its samples a number above 0"),
        ('"samples": 2', '"samples": 0', "its graph must be a digest and its samples a number above 0"),
        ('"samples": 2, ', "", "it has no 'samples'"),
        ('"high": 1.5, ', "", "value 'x': no 'high'"),
        ('"low": -1.0', '"low": NaN', "value 'x': the range nan to 1.5 is not finite"),
        ('"high": 1.5', '"high": Infinity', "value 'x': the range -1.0 to inf is not finite"),
        ('"low": -1.0', '"low": 1.75', "value 'x': the range 1.75 to 1.5 is upside down: its least is above its greatest"),
        ('"low": -1.0', '"low": "a"', "value 'x': 'a' is no number"),
        ('"exponent": 1', '"exponent": 0', r"value 'x': the range -1.0 to 1.5 does not fit a histogram up to 2\*\*0"),
        ('"exponent": 1', '"exponent": 9999', r"does not fit a histogram up to 2\*\*9999"),
        ('"exponent": 1', '"exponent": 1.5', "its count, exponents and sums must be whole numbers"),
        ('"count": 3', '"count": 4', "value 'x': the histogram must have 2048 counts of 0 or more that add up to 4"),
        ("[512, 1]", "[512, -1]", "the histogram must have 2048 counts of 0 or more that add up to 3"),
        ("[1792, 1]", "[2048, 1]", "its histogram has no bins 2048 to 2048"),
        ("[1792, 1]", "[-1, 1]", "its histogram has no bins -1 to -1"),
        ("[1792, 1]", "[1792, 1.0]", "value 'x': "),
        ("[1792, 1]", "7", "value 'x': "),
        ("[1.5]", "[-1.5]", "the largest magnitudes by channel must be from 0 to the largest of the value"),
        ("[1.5]", "[NaN]", "the largest magnitudes by channel must be from 0 to the largest of the value"),
        ("[1.5]", '[1.5], "channel_sum": {"exponent": -150, "sums": []}', "must be whole numbers"),
        ("[1.5]", '[1.5], "channel_sum": {"exponent": 999999999999, "sums": [1]}', "must be whole numbers"),
    ],
)
def test_a_damaged_profile_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.qprof"
    path.write_text(TEXT)
    assert Profile.load(path).samples == 2
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(QuantError, match=message):
        Profile.load(path)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"[1, 2]", b"graph g() -> () {}", b"[" * 100_000])
def test_another_file_is_no_profile(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.qprof").write_bytes(data)
    with pytest.raises(QuantError, match=r"p.qprof is no profile, or a damaged one: .*; calibrate again"):
        Profile.load(tmp_path / "p.qprof")


def test_a_profile_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Profile.load(tmp_path / "none.qprof")
