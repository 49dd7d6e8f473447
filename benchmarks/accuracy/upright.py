"""textline-cls: is a line of text upside down? Rendered lines, easy and hard, half of them turned."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..feeds import Feeds
from .metrics import share_equal
from .task import Data, Measure, Runs, Task, outputs
from .text import easy_line, hard_line

MODEL = "textline-cls"
HEIGHT, WIDTH = 48, 192
TESTS, CALIBRATION = 200, 100


def load(f32: Runs) -> Data:
    turned = [k % 2 == 1 for k in range(TESTS)]
    measure = Measure(
        "lines",
        "top-1",
        outputs(MODEL, _feeds(5, TESTS)),
        lambda given, _: share_equal([bool(y[0].argmax()) for y in given], turned),
    )
    return Data({MODEL: _feeds(6, CALIBRATION)}, (measure,))


def _feeds(seed: int, count: int) -> list[Feeds]:
    """Every second line is turned, every second pair is hard."""
    rng = np.random.default_rng(seed)
    pictures = [(hard_line if k // 2 % 2 else easy_line)(rng).picture for k in range(count)]
    return [_feed(picture.rotate(180) if k % 2 else picture) for k, picture in enumerate(pictures)]


def _feed(picture: Image.Image) -> Feeds:
    """f32[1, 3, 48, 192] in [-1, 1]: 48 rows, at most 192 columns, zeros on the right of shorter lines."""
    width = min(WIDTH, int(np.ceil(HEIGHT * picture.width / picture.height)))
    pixels = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    x = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    x[0, :, :, :width] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return {"x": x}


TASK = Task(MODEL, (MODEL,), "200 rendered lines, half of them turned; 100 others for calibration", load)
