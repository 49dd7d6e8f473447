"""Whole pages of text (`text.py` renders them).

- page-orientation: 11 pages, each turned by 0, 90, 180 and 270 degrees; the network tells by how much.
- ppocrv4-det: where is text? The map of probabilities over 0.3, which is where the detector's package cuts it, beside that of f32.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..feeds import Feeds
from .metrics import intersection_over_union, share_equal
from .task import Data, Measure, Requirement, Runs, Task, outputs
from .text import make_page

PAGES, TURNS = 11, (0, 90, 180, 270)
CALIBRATION_PAGES = 40
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SHORT, CROP = 256, 224
THRESHOLD = 0.3
DETECTED, DETECTION_CALIBRATION = 24, 60


def load_orientation(f32: Runs) -> Data:
    def turned(seed: int, pages: int) -> list[Feeds]:
        rng = np.random.default_rng(seed)
        made = [make_page(rng, 480, 640) for _ in range(pages)]
        return [_orientation_feed(page.rotate(-turn, expand=True)) for page in made for turn in TURNS]

    truth = list(range(len(TURNS))) * PAGES
    measure = Measure(
        "turned pages",
        "top-1",
        outputs("page-orientation", turned(1, PAGES)),
        lambda given, _: share_equal([int(y.argmax()) for y in given], truth),
        Requirement(1.0, "higher"),
    )
    return Data({"page-orientation": turned(2, CALIBRATION_PAGES)}, (measure,))


def _orientation_feed(page: Image.Image) -> Feeds:
    """The middle of the page, scaled so that its shorter side has 256 pixels: f32[1, 3, 224, 224], normalised as ImageNet is."""
    scale = SHORT / min(page.size)
    scaled = page.resize((round(page.width * scale), round(page.height * scale)), Image.Resampling.LANCZOS)
    left, top = (scaled.width - CROP) // 2, (scaled.height - CROP) // 2
    pixels = np.asarray(scaled, np.float32)[top : top + CROP, left : left + CROP]
    return {"x": np.ascontiguousarray(((pixels / 255 - MEAN) / DEVIATION).transpose(2, 0, 1))[None]}


def load_detection(f32: Runs) -> Data:
    def pages(seed: int, count: int) -> list[Feeds]:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(8, 15, (count, 2)) * 32  # what the network can halve five times
        return [_detection_feed(make_page(rng, int(width), int(height))) for width, height in sizes]

    measure = Measure(
        "text map",
        "mean IoU with f32",
        outputs("ppocrv4-det", pages(3, DETECTED)),
        lambda given, f32: float(np.mean([intersection_over_union(y > THRESHOLD, x > THRESHOLD) for y, x in zip(given, f32)])),
    )
    return Data({"ppocrv4-det": pages(4, DETECTION_CALIBRATION)}, (measure,))


def _detection_feed(page: Image.Image) -> Feeds:
    return {"x": np.ascontiguousarray((np.asarray(page, np.float32) / 127.5 - 1).transpose(2, 0, 1))[None]}


PAGES_TURNED = "11 rendered pages, turned in four ways; 40 others for calibration"
ORIENTATION = Task("page-orientation", ("page-orientation",), PAGES_TURNED, load_orientation)
DETECTION = Task("ppocrv4-det", ("ppocrv4-det",), "24 rendered pages, 60 others for calibration", load_detection)
