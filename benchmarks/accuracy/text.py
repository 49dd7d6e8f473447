"""Lines and pages of text to recognise, rendered from fixed seeds with DejaVu typefaces.

A line has 2 to 5 words of a short list; one in five is a number, a price, a date or a code instead. It is rendered once:

- easy: DejaVu Sans at 36 pixels, dark ink (20) on light paper (250), as the demonstration does.
- hard: one of four typefaces at 11 to 18 pixels, ink and paper 60 to 180 grey levels apart and in one case of four exchanged, turned by
  up to 1.5 degrees, blurred by up to 0.9 pixels, with noise of up to 22 levels (standard deviation).

A page has rows of such lines, up to 12 words long, in one size, and a heading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from ..fetch import fetch
from ..ocr import render_line

TYPEFACES = ("dejavu-sans", "dejavu-sans-bold", "dejavu-sans-oblique", "dejavu-sans-condensed")
WORDS = (
    "the of and that have for not with you this but his from they say her she will one all would there their what about which when "
    "make can like time just him know take people into year your good some could them see other than then now look only come over "
    "think also back after use two how our work first well way even new want because any these give day most between number water "
    "garden window machine paper silver mountain river letter morning engine copper basket quiet yellow harbour planet London "
    "Berlin Monday Friday March July Invoice Total Chapter Order Street Customer Delivery Account Report Section Figure Quality"
).split()


@dataclass(frozen=True)
class Line:
    text: str
    picture: Image.Image


@cache
def typefaces() -> dict[str, Callable[[int], ImageFont.FreeTypeFont]]:
    """By name, what makes a font of a size in pixels."""
    files = fetch(TYPEFACES)
    return {name: lambda size, path=str(files[name]): ImageFont.truetype(path, size) for name in TYPEFACES}


def make_text(rng: np.random.Generator, least: int = 2, most: int = 5) -> str:
    return " ".join(_word(rng) for _ in range(rng.integers(least, most + 1)))


def _word(rng: np.random.Generator) -> str:
    a, b, c = (int(n) for n in rng.integers(10, 100, 3))
    others = (f"{a * b}", f"{a}.{b}", f"{1 + a % 28}/{1 + b % 12}/20{c}", f"{chr(65 + a % 26)}{chr(65 + b % 26)}-{c}{a}")
    return others[rng.integers(len(others))] if rng.random() < 0.2 else WORDS[rng.integers(len(WORDS))]


def easy_line(rng: np.random.Generator) -> Line:
    text = make_text(rng)
    return Line(text, render_line(text, typefaces()["dejavu-sans"](36)))


def hard_line(rng: np.random.Generator) -> Line:
    text = make_text(rng)
    font = typefaces()[TYPEFACES[rng.integers(len(TYPEFACES))]](int(rng.integers(11, 19)))
    dark = int(rng.integers(0, 70))
    light = dark + int(rng.integers(60, 181))
    ink, paper = (light, dark) if rng.random() < 0.25 else (dark, light)
    picture = render_line(text, font, ink, paper)
    turn = Image.Resampling.BICUBIC
    picture = picture.rotate(float(rng.uniform(-1.5, 1.5)), turn, expand=True, fillcolor=(paper,) * 3)
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.9))))
    pixels = np.asarray(picture, np.float32)
    pixels = pixels + rng.uniform(0, 22) * rng.standard_normal(pixels.shape[:2])[:, :, None]
    return Line(text, Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)))


def make_page(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Dark text on light paper: a heading in bold, then lines to the bottom."""
    size, margin = int(rng.integers(14, 21)), width // 12
    faces = typefaces()
    page = Image.new("RGB", (width, height), (250,) * 3)
    top, heading = margin, True
    while top < height - margin - 2 * size:
        font = faces["dejavu-sans-bold"](size * 3 // 2) if heading else faces["dejavu-sans"](size)
        line = render_line(make_text(rng, 2, 3) if heading else make_text(rng, 4, 12), font)
        page.paste(line.crop((0, 0, min(line.width, width - 2 * margin), line.height)), (margin, top))
        top += int(line.height * 1.5 if heading else size * 1.6)
        heading = False
    return page
