"""Reading a line of text with a CTC recogniser: pixels in, characters out.

The picture is scaled to 48 rows and normalised to [-1, 1]; the network gives, for each of width / 8 columns, a probability for
every character it knows; the text is the best character of each column, repeats merged and blanks dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT = 48
BLANK = 0


def render_line(text: str, font: ImageFont.FreeTypeFont, ink: int = 20, paper: int = 250) -> Image.Image:
    """The text in dark ink on light paper, with a margin around it."""
    left, top, right, bottom = font.getbbox(text)
    margin = int(font.size) // 8
    picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), (paper,) * 3)
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, font=font, fill=(ink,) * 3)
    return picture


def preprocess(picture: Image.Image) -> np.ndarray:
    """f32[1, 3, 48, width] in [-1, 1], channels in blue, green, red order, as the recogniser was trained."""
    width = max(HEIGHT, round(picture.width * HEIGHT / picture.height))
    pixels = np.asarray(picture.convert("RGB").resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(((pixels[:, :, ::-1] / 255 - 0.5) / 0.5).transpose(2, 0, 1))[None]


def character_list(metadata: str) -> list[str]:
    """The classes of the network: the blank, the characters stored in the model one a line, and the space."""
    return ["", *metadata.split("\n"), " "]


def decode(probabilities: np.ndarray, characters: Sequence[str]) -> tuple[str, float]:
    """The text in f32[columns, classes], and the mean probability of its characters."""
    best = probabilities.argmax(axis=1)
    first_of_run = np.concatenate([[True], best[1:] != best[:-1]])
    kept = first_of_run & (best != BLANK)
    text = "".join(characters[int(k)] for k in best[kept])
    return text, float(probabilities.max(axis=1)[kept].mean()) if kept.any() else 0.0
