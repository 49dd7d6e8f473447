"""romanizer: Arabic names in Latin letters, letter by letter: an encoder, then a decoder that is called once for each letter.

Names, countries and roles come from the database in the model's own package: 400 given names and surnames with at least two letters, of
those of countries that the model knows and with one romanisation alone, in an order from a fixed seed. A name counts if the greedy
answer is exactly that romanisation. The next 50 names calibrate the encoder, and the decoder with the states that the f32 models reach
on them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ..feeds import Feeds
from ..fetch import fetch
from .metrics import share_equal
from .task import SAMPLES, Data, Measure, Runs, Task

ENCODER, DECODER = "romanizer-enc", "romanizer-dec"
PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
LONGEST = 32
TESTS, CALIBRATION = 400, 50
ONLY_ONE = """
select arabic_key, country, role, min(latin) from units where role in ('given', 'surname') and length(arabic_key) > 1
group by arabic_key, country, role having count(distinct latin) = 1 and sum(count) > 2 order by arabic_key, country, role
"""


@dataclass(frozen=True)
class Name:
    source: Feeds
    latin: str


def load(f32: Runs) -> Data:
    files = fetch(["romanizer-vocabulary", "romanizer-names"])
    letters = json.loads(files["romanizer-vocabulary"].read_text())["tokens"]
    names = _names(str(files["romanizer-names"]), {letter: k for k, letter in enumerate(letters)})
    tests, others = names[:TESTS], names[TESTS : TESTS + CALIBRATION]
    measure = Measure(
        "names",
        "exact greedy names",
        lambda runs: [spelled(runs, name.source, letters) for name in tests],
        lambda given, _: share_equal(given, [name.latin for name in tests]),
    )
    steps = [step for name in others for step, _ in _steps(f32, name.source)]
    picked = steps[:: -(-len(steps) // SAMPLES)]
    return Data({ENCODER: [name.source for name in others], DECODER: picked}, (measure,))


def _names(database: str, index: dict[str, int]) -> list[Name]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = [row for row in connection.execute(ONLY_ONE) if f"<{row[1]}>" in index]
    order = np.random.default_rng(1).permutation(len(rows))[: TESTS + CALIBRATION]
    return [_name(rows[k], index) for k in order]


def _name(row: tuple[str, str, str, str], index: dict[str, int]) -> Name:
    arabic, country, role, latin = row
    start = [index[f"<{country}>"], index[f"<ROLE_{role.upper()}>"]]
    ids = np.array([[*start, *(index.get(letter, UNKNOWN) for letter in arabic), END]], np.int64)
    return Name({"src": ids, "src_mask": ids == PAD}, latin)


def spelled(runs: Runs, source: Feeds, letters: Sequence[str]) -> str:
    """The name as greedy decoding spells it."""
    return "".join(letters[k] for _, k in _steps(runs, source) if k not in (PAD, BEGIN, END, UNKNOWN))


def _steps(runs: Runs, source: Feeds) -> Iterator[tuple[Feeds, int]]:
    """What the decoder gets for each letter, and the likeliest letter then, until it ends the name."""
    memory, mask, hidden = (np.asarray(y) for y in runs[ENCODER](source))
    prefix = [BEGIN]
    while len(prefix) <= LONGEST and prefix[-1] != END:
        step = {"prefix": np.array([prefix], np.int64), "memory": memory, "src_mask": mask, "hidden": hidden}
        scores, hidden = (np.asarray(y) for y in runs[DECODER](step))
        prefix.append(int(scores[0].argmax()))
        yield step, prefix[-1]


TASK = Task(
    "romanizer", (ENCODER, DECODER), "400 Arabic names with one romanisation each, 50 others for calibration", load, transformer=True
)
