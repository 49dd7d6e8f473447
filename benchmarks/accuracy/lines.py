"""ppocrv4-rec: characters read wrong in rendered lines of text, easy and hard (`text.py` says how they are rendered).

Edits over characters written, as CTC decoding reads them, spaces left out on both sides as PaddleOCR's own evaluation does: whether a
narrow gap is a space turns on so little that int8 can seem better than f32. Half of the calibration lines are easy, half hard, from
another seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...frontend.onnx.metadata import read_metadata
from ..feeds import Feeds
from ..fetch import fetch
from ..ocr import character_list, decode, preprocess
from .metrics import character_error_rate
from .task import SAMPLES, Data, Measure, Requirement, Runs, Task
from .text import Line, easy_line, hard_line

MODEL = "ppocrv4-rec"
TESTS = 150


def load(f32: Runs) -> Data:
    characters = character_list(read_metadata(fetch([MODEL])[MODEL]).custom_metadata_map["character"].removesuffix("\n"))

    def measure(name: str, lines: list[Line], limit: float) -> Measure:
        feeds = [_feed(line) for line in lines]
        written = [_solid(line.text) for line in lines]
        return Measure(
            name,
            "character error rate",
            lambda runs: [_solid(decode(np.asarray(runs[MODEL](one)[0])[0], characters)[0]) for one in feeds],
            lambda read, _: character_error_rate(read, written),
            Requirement(limit, "lower"),
        )

    easy, hard = _lines(easy_line, 1, TESTS), _lines(hard_line, 2, TESTS)
    calibration = [*_lines(easy_line, 3, SAMPLES // 2), *_lines(hard_line, 4, SAMPLES // 2)]
    return Data({MODEL: [_feed(line) for line in calibration]}, (measure("easy", easy, 0.005), measure("hard", hard, 0.05)))


def _lines(make: Callable[[np.random.Generator], Line], seed: int, count: int) -> list[Line]:
    rng = np.random.default_rng(seed)
    return [make(rng) for _ in range(count)]


def _solid(text: str) -> str:
    return text.replace(" ", "")


def _feed(line: Line) -> Feeds:
    return {"x": preprocess(line.picture)}


TASK = Task(MODEL, (MODEL,), "150 easy and 150 hard rendered lines, 200 others for calibration", load)
