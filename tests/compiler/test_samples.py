"""Made-up inputs: the sizes asked for, values that models digest."""

from __future__ import annotations

import numpy as np
import pytest
from octavo import ShapeError
from octavo.backends.runtime.signature import TensorSpec
from octavo.compiler.samples import random_feeds

IMAGE = TensorSpec("image", "f32", ("batch", 3, "height", "2*height"))
IDS = TensorSpec("ids", "i64", ("batch", 7))


def test_symbols_share_a_size_and_have_defaults() -> None:
    feeds = random_feeds([IMAGE, IDS])
    assert feeds["image"].shape == (1, 3, 64, 128)
    assert feeds["ids"].shape == (1, 7)


def test_sizes_are_honoured() -> None:
    feeds = random_feeds([IMAGE, IDS], {"batch": 2, "height": 10})
    assert feeds["image"].shape == (2, 3, 10, 20)
    assert feeds["ids"].shape == (2, 7)


def test_floats_are_small_and_integers_are_zero_or_one() -> None:
    feeds = random_feeds([IMAGE, IDS, TensorSpec("mask", "bool", (9,))])
    assert feeds["image"].dtype == np.float32
    assert np.abs(feeds["image"]).max() <= 1
    assert set(np.unique(feeds["ids"])) == {0, 1}
    assert feeds["mask"].dtype == np.bool_


def test_a_seed_gives_the_same_arrays() -> None:
    assert np.array_equal(random_feeds([IMAGE], seed=3)["image"], random_feeds([IMAGE], seed=3)["image"])
    assert not np.array_equal(random_feeds([IMAGE], seed=3)["image"], random_feeds([IMAGE], seed=4)["image"])


def test_a_size_without_a_dimension_is_refused() -> None:
    with pytest.raises(ShapeError, match="no input has a dimension named 'width'; there are: batch, height"):
        random_feeds([IMAGE], {"width": 3})
