"""The pieces around the text recogniser: preprocessing and CTC decoding."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")

from octavo.benchmarks.ocr import HEIGHT, character_list, decode, preprocess
from PIL import Image

CLASSES = character_list("a\nb")  # blank, a, b, space


def columns(*best: int) -> np.ndarray:
    return np.eye(len(CLASSES), dtype=np.float32)[list(best)] * 0.9


@pytest.mark.parametrize(
    ("best", "text"),
    [((1, 1, 2, 2), "ab"), ((1, 0, 1), "aa"), ((0, 0, 0), ""), ((0, 1, 3, 3, 2, 0), "a b"), ((2, 2, 0, 0, 2, 1), "bba")],
)
def test_decode_merges_repeats_and_drops_blanks(best: tuple[int, ...], text: str) -> None:
    read, confidence = decode(columns(*best), CLASSES)
    assert read == text
    assert confidence == pytest.approx(0.9 if text else 0.0)


def test_preprocess_scales_to_48_rows_and_keeps_the_proportions() -> None:
    x = preprocess(Image.new("RGB", (200, 24), (255, 0, 0)))
    assert x.shape == (1, 3, HEIGHT, 400)
    assert x.dtype == np.float32
    assert x[0, :, 0, 0].tolist() == [-1, -1, 1]  # blue, green, red
