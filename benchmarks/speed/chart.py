"""Two pictures: the ratios as bars (shorter is better, with a line where both are equal), and the time of matmuls by size as lines."""

from __future__ import annotations

import math
from html import escape

from .cases import Outcome, geomean
from .results import Results
from .sweep import LARGEST, OTHERS, Sweep

LABELS, BARS, MARGIN = 130, 480, 60  # widths
BAR, GAP, HEAD, FOOT = 9, 8, 64, 26  # heights
COLOURS = {1: "#2563a8", 2: "#8ab8e6"}  # by threads
GREY = "#808080"  # reads on white and on black
LONGEST = 2.0  # ratio at which bars are cut off


def as_svg(results: Results) -> str:
    """A self-contained picture; models without a peer's figure are left out."""
    names = list(dict.fromkeys(o.name for o in results.outcomes if not math.isnan(o.ratio)))
    by_name: dict[str, list[Outcome]] = {n: [o for o in results.outcomes if o.name == n and not math.isnan(o.ratio)] for n in names}
    longest = min(LONGEST, max([1.1, *(o.ratio for found in by_name.values() for o in found)]))
    unit = BARS / longest
    parts: list[str] = []
    y = HEAD
    for name in names:
        middle = y + BAR * len(by_name[name]) / 2
        parts.append(_text(LABELS - 8, middle + 4, name, "end"))
        for o in by_name[name]:
            width = min(o.ratio, longest) * unit
            parts.append(_bar(LABELS, y, width, BAR - 1, o.report.threads))
            parts.append(_text(LABELS + width + 4, y + BAR - 1.5, f"{o.ratio:.2f}", size=9))
            y += BAR
        y += GAP
    height = y + FOOT
    equal = LABELS + unit
    parts.append(f'<line x1="{equal:.1f}" y1="{HEAD - 6}" x2="{equal:.1f}" y2="{y}" stroke="{GREY}" stroke-dasharray="4 3"/>')
    parts.append(_text(equal, HEAD - 10, "as fast as the fastest peer", "middle", 10))
    parts.append(_text(8, 20, "Latency of Octavo over that of the fastest peer (shorter is better)", size=14))
    means = (
        f"{t} thread{'s' if t > 1 else ''}: geometric mean {geomean([o.ratio for o in results.at(t)]):.2f}" for t in results.threads
    )
    at = 8.0
    for threads, words in zip(results.threads, means, strict=True):
        parts.append(_bar(at, 29, 9, 9, threads))
        parts.append(_text(at + 14, 38, words))
        at += 210
    parts.append(_text(8, height - 8, f"{results.date}, {results.machine.cpu}; {', '.join(results.versions)}", size=9))
    return _svg(LABELS + BARS + MARGIN, height, parts)


PLOT = (560, 300)  # width and height
LINES = ("#2563a8", "#c2562d", "#3d8a4f", "#8a5fb0")


def sweep_as_svg(sweep: Sweep) -> str:
    """Microseconds over size, a line for each axis."""
    width, height = PLOT
    left, bottom, top = 50, height - 30, 30
    highest = max(t for times in sweep.ns.values() for t in times) / 1e3
    x_of = lambda size: left + (size - 1) / (LARGEST - 1) * (width - left - 20)
    y_of = lambda us: bottom - us / highest * (bottom - top)
    parts = [_text(8, 18, f"Time of a matmul in us, one size moving, the others {OTHERS}; one thread", size=13)]
    for k, (colour, (axis, times)) in enumerate(zip(LINES, sweep.ns.items(), strict=False)):
        points = " ".join(f"{x_of(size):.1f},{y_of(t / 1e3):.1f}" for size, t in enumerate(times, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<rect x="{left + 12}" y="{top + 12 + 16 * k}" width="9" height="9" fill="{colour}"/>')
        parts.append(_text(left + 26, top + 21 + 16 * k, axis))
    for size in (1, *range(16, LARGEST, 16), LARGEST):
        parts.append(_text(x_of(size), bottom + 16, str(size), "middle", 10))
    for share in (0, 0.5, 1):
        parts.append(_text(left - 6, y_of(highest * share) + 4, f"{highest * share:.1f}", "end", 10))
    parts.append(f'<path d="M{left},{top} V{bottom} H{width - 20}" fill="none" stroke="{GREY}"/>')
    return _svg(width, height, parts)


def _svg(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11" fill="{GREY}">', *parts, "</svg>", ""])


def _bar(x: float, y: float, width: float, height: float, threads: int) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" fill="{COLOURS.get(threads, GREY)}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
