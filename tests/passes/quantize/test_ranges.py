"""Ranges from histograms: each method beside its definition on data for which the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from octavo.ir.errors import QuantError
from octavo.passes.quantize.profile import BINS, Profile, Stats
from octavo.passes.quantize.ranges import METHODS

RNG = np.random.default_rng(11)
NORMAL = RNG.standard_normal(20_000).astype(np.float32)
RELU = np.maximum(NORMAL, 0)
LONG_TAILED = np.concatenate([NORMAL, np.float32([60, -45])])  # two elements make the range ten times as wide


def profile_of(values: np.ndarray) -> Profile:
    low, high = float(values.min()), float(values.max())
    exponent = int(np.frexp(max(-low, high))[1]) if values.any() else 0
    step = (np.abs(values) * 2.0 ** (10 - exponent)).astype(int)
    bins = np.bincount(np.where(values < 0, 1023 - step, 1024 + step), minlength=BINS)
    return Profile("0" * 32, 1, {"x": Stats(values.size, low, high, exponent, tuple(bins.tolist()))})


def range_of(values: np.ndarray, method: str, **options: float) -> tuple[float, float]:
    return profile_of(values).range("x", method, **options)


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """The mean square of what quantizing to 256 levels loses; zero is a level."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero, 0, 255) - zero
    return float(np.mean((levels * scale - values) ** 2))


def test_minmax_is_all_that_was_seen() -> None:
    assert range_of(LONG_TAILED, "minmax") == (-45, 60)


@pytest.mark.parametrize("method", METHODS)
def test_every_range_contains_zero(method: str) -> None:
    low, high = range_of(np.float32([3, 4, 5]), method)
    assert low == 0
    assert high == 5 or method != "minmax"
    low, high = range_of(np.float32([-3, -4, -5]), method)
    assert high == 0


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_gives_a_range_of_nothing(method: str) -> None:
    assert range_of(np.zeros(5, np.float32), method) == (0, 0)


def test_a_percentile_cuts_half_of_the_rest_at_each_end() -> None:
    values = np.arange(-1000, 1000, dtype=np.float32)  # a bin for each
    # one percent of 2000 elements: the ten least (-1000 to -991) and the ten greatest (990 to 999) may go, up to the ends of bins
    assert range_of(values, "percentile", percent=99) == (-991, 990)
    assert range_of(values, "percentile", percent=100) == (-1000, 999)


def test_a_percentile_leaves_rare_outliers_out() -> None:
    low, high = range_of(LONG_TAILED, "percentile", percent=99.9)
    kept, width = np.sort(LONG_TAILED)[10:-10], 64 / 1024
    assert low <= kept[0] <= low + width
    assert high - width <= kept[-1] <= high


@pytest.mark.parametrize(
    "values", [NORMAL, RELU, LONG_TAILED, RNG.laplace(size=20_000).astype(np.float32)], ids=["normal", "relu", "tails", "laplace"]
)
def test_mse_is_near_the_best_range(values: np.ndarray) -> None:
    """Beside quantizing the values themselves with every range on a grid."""
    low, high = range_of(values, "mse")
    tried = np.linspace(0.04, 1, 25)
    a, b = float(values.min()), float(values.max())
    best = min(squared_error(values, a * i, b * j) for i in (tried if a < 0 else [0]) for j in tried[:: 2 if a < 0 else 1])
    assert squared_error(values, low, high) <= 1.1 * best


def test_entropy_cuts_long_tails_off_and_keeps_short_ones() -> None:
    low, high = range_of(LONG_TAILED, "entropy")
    assert -12 < low < -3
    assert 3 < high < 12
    low, high = range_of(np.float32(RNG.uniform(0, 1, 100_000)), "entropy")
    assert low == 0
    assert high > 0.97


def test_zeros_do_not_decide_by_entropy() -> None:
    assert range_of(np.concatenate([RELU, np.zeros(10**6, np.float32)]), "entropy") == range_of(RELU, "entropy")


def test_entropy_finds_what_onnxruntime_finds() -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = np.concatenate([RNG.laplace(size=100_000), [30.0]]).astype(np.float32)
    collector = calibrate.HistogramCollector("entropy", True, 2048, 128, 99.99, "same")
    edges = np.linspace(-32, 32, 2050)  # an odd number of bins, as that function wants it
    counts, _ = np.histogram(values, edges)
    theirs = collector.get_entropy_threshold((counts, edges, -30.0, 30.0, 30.0), 128)
    low, high = range_of(values, "entropy")
    np.testing.assert_allclose((low, high), theirs[:2], rtol=0.15)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("median", {}, "there is no method 'median' to find a range; there are: minmax, percentile, entropy, mse"),
        ("minmax", {"percent": 99}, "the method 'minmax' has no option 'percent'; it has: none"),
        ("percentile", {"levels": 9}, "the method 'percentile' has no option 'levels'; it has: percent"),
        ("percentile", {"percent": 0}, "percent is above 0 and at most 100, not 0"),
        ("percentile", {"percent": 101}, "percent is above 0 and at most 100, not 101"),
        ("percentile", {"percent": float("nan")}, "percent is above 0 and at most 100, not nan"),
        ("entropy", {"levels": 1}, "levels is from 2 to 1024, not 1"),
        ("mse", {"levels": 1}, "levels is 2 or more, not 1"),
        ("mse", {"levels": 2.5}, "levels is a whole number, not 2.5"),
        ("percentile", {"percent": "99"}, "percent is a number, not '99'"),
    ],
)
def test_wrong_options_are_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantError, match=message):
        range_of(NORMAL, method, **options)


def test_a_value_that_was_not_observed_has_no_range() -> None:
    with pytest.raises(QuantError, match="the profile has no value '%9'; calibration watches operands and results of conv and matmul"):
        profile_of(NORMAL).range("%9")
