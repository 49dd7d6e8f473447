"""swift-f0: the pitch of tones with overtones: the median error in cents over the frames away from both ends.

A wrong octave would count for 1200 cents in a mean, so the share of frames that are near is a figure of its own.

A tone has eight partials, each weaker than the one before by the same factor, a vibrato of up to 20 cents and noise 30 dB below; its
pitch lies from 80 to 1000 Hz, spread evenly over the logarithm. Frame k is centred on sample 256 k. Calibration hears tones from
another seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..feeds import Feeds
from .metrics import cents
from .task import Data, Measure, Requirement, Runs, Task, outputs

RATE, HOP, SECONDS = 16000, 256, 1.5
LOW, HIGH, PARTIALS = 80.0, 1000.0, 8
EDGE = 8  # frames at each end, which hear the padding
NOISE = 10 ** (-30 / 20)
NEAR = 50  # cents: the usual limit of what counts as heard
TESTS, CALIBRATION = 60, 60


@dataclass(frozen=True)
class Tone:
    feed: Feeds
    hertz: np.ndarray  # in the middle of each frame


def make_tone(rng: np.random.Generator) -> Tone:
    count = int(RATE * SECONDS)
    at = np.arange(count)
    middle, vibrato, rate = np.exp(rng.uniform(np.log(LOW), np.log(HIGH))), rng.uniform(0, 20), rng.uniform(4, 7)
    hertz = middle * 2 ** (vibrato / 1200 * np.sin(2 * np.pi * rate * at / RATE))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    strengths = rng.uniform(0.3, 0.8) ** np.arange(PARTIALS)
    parts = [a * np.sin(k * phase) for k, a in enumerate(strengths, 1) if k * middle < RATE / 2]
    audio = np.sum(parts, axis=0)
    audio = audio / np.abs(audio).max() * rng.uniform(0.2, 0.8)
    audio += NOISE * np.std(audio) * rng.standard_normal(count)
    feed = {"audio": audio[None].astype(np.float32), "fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    return Tone(feed, hertz[::HOP])


def errors(heard: list[np.ndarray], tones: list[Tone]) -> np.ndarray:
    """In cents, of the frames of all tones that are `EDGE` or more away from both ends."""
    return np.concatenate([cents(y[0, EDGE:-EDGE], t.hertz[EDGE : y.shape[1] - EDGE]) for y, t in zip(heard, tones, strict=True)])


def load(f32: Runs) -> Data:
    rng = np.random.default_rng(1)
    tones = [make_tone(rng) for _ in range(TESTS)]
    answer = outputs("swift-f0", [t.feed for t in tones])
    measures = (
        Measure("tones", "median error in cents", answer, lambda y, _: float(np.median(errors(y, tones))), Requirement(5.0, "lower")),
        Measure("tones", f"frames within {NEAR} cents", answer, lambda y, _: float((errors(y, tones) <= NEAR).mean())),
    )
    other = np.random.default_rng(2)
    return Data({"swift-f0": [make_tone(other).feed for _ in range(CALIBRATION)]}, measures)


TASK = Task("swift-f0", ("swift-f0",), "60 synthetic tones of known pitch, 60 others for calibration", load)
