"""A `QuantReport` as a page for a browser: the table, and the layers in the order of the graph, coloured by the error that each adds.

The page is one file without scripts that loads nothing; a layer of the picture leads to its row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from .debug_quant import Layer, QuantReport

GREEN, RED = 120, 0  # hues
CALM, BAD = -6.0, -1.0  # powers of ten of an error, of 60 and 10 dB, between which colours go from green to red

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% } th, td { padding: .25em .6em; text-align: right; border-bottom: 1px solid #ddd }
th { position: sticky; top: 0; background: #fff } .word { text-align: left; overflow-wrap: anywhere }
tr:target { outline: 2px solid #36c } .chain { display: flex; flex-wrap: wrap; gap: .3em; margin: 1em 0 2em }
.chain a { color: #222; text-decoration: none; border-radius: 4px; padding: .2em .5em; font-size: 12px; max-width: 16em;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
"""


def page(report: QuantReport) -> str:
    """The page as HTML."""
    with_gain = report.metric_int8 is not None
    heads = ["#", "layer", "op", *COLUMNS, *(["gain"] if with_gain else [])]
    head = "".join(f"<th{' class=word' if k in (1, 2) else ''}>{escape(name)}</th>" for k, name in enumerate(heads))
    rows = "\n".join(_row(rank, x, with_gain) for rank, x in enumerate(report.layers, 1))
    chain = "\n".join(_box(x) for x in sorted(report.layers, key=lambda x: x.number))
    facts = "".join(f"<p>{escape(line)}</p>" for line in summary(report))
    notes = "".join(f"<p>{escape(line)}</p>" for line in remarks(report))
    title = f"Quantization of {escape(report.model)}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>
<body><h1>{title}</h1>
{facts}
<h2>In the order of the graph</h2>
<p>From green, an error of 60 dB or less, to red, 10 dB or more, each of the layer alone.</p>
<div class="chain">
{chain}
</div>
<h2>By the error that each adds</h2>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table>
{notes}
</body></html>
"""


def _row(rank: int, x: Layer, with_gain: bool) -> str:
    texts = [*cells(x), *([gain(x)] if with_gain else [])]
    numbers = "".join(f"<td>{escape(text)}</td>" for text in texts)
    colour = f' style="background:{_colour(x.added)}"'
    words = f'<td class="word" title="{escape(x.type)}">{escape(title(x))}</td><td class="word">{escape(x.op)}</td>'
    return f'<tr id="layer{x.number}"><td{colour}>{rank}</td>{words}{numbers}</tr>'


def _box(x: Layer) -> str:
    tip = escape(f"{title(x)}: adds {percent(x.added)}, SQNR {x.sqnr_db:.1f} dB")
    name = escape(title(x).rstrip("/").rpartition("/")[2])
    return f'<a href="#layer{x.number}" style="background:{_colour(x.added)}" title="{tip}">{name}</a>'


def _colour(error: float) -> str:
    power = math.log10(error) if 0 < error < math.inf else (CALM if error == 0 else BAD)
    badness = min(max((power - CALM) / (BAD - CALM), 0.0), 1.0)
    return f"hsl({GREEN + (RED - GREEN) * badness:.0f} 70% 78%)"


# --- words and numbers, as the terminal has them too ---

COLUMNS = ("SQNR dB", "error", "added", "inherited", "clipped", "used", "f32 us", "int8 us", "speedup")


def title(x: Layer) -> str:
    """What a layer is called: its place in the model, else the name of its value."""
    return x.loc.removeprefix("onnx:") or x.value


def cells(x: Layer) -> list[str]:
    """The numbers of a row, in the order of COLUMNS."""
    quicker = f"{x.f32_us / x.int8_us:.2f}" if x.f32_us and x.int8_us else "-"
    return [
        f"{x.sqnr_db:.1f}",
        *map(percent, (x.error, x.added, x.inherited)),
        *("-" if share is None else percent(share) for share in (x.clipped, x.used)),
        _time(x.f32_us, x.f32_with),
        _time(x.int8_us, x.int8_with),
        quicker,
    ]


def gain(x: Layer) -> str:
    return "-" if x.gain is None else f"{x.gain:+.5g}"


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _time(us: float | None, together: Iterable[int]) -> str:
    return "-" if us is None else f"{us:.1f}{'*' if together else ''}"


def summary(report: QuantReport) -> list[str]:
    """What is said of the whole model."""
    ends = ", ".join(f"{name} {db:.1f} dB" for name, db in report.outputs.items()) or "no output in f32"
    lines = [f"{report.model}, {len(report.layers)} layers in int8 beside f32 on {report.samples} samples; SQNR of outputs: {ends}"]
    if report.f32_times and report.int8_times:
        a, b = report.f32_times, report.int8_times
        lines.append(
            f"kernels: f32 {a.total_us:.1f} us, of which {a.other_us:.1f} us outside these layers; "
            f"int8 {b.total_us:.1f} us, of which {b.other_us:.1f} us"
        )
    if report.metric_f32 is not None and report.metric_int8 is not None:
        lines.append(f"metric: f32 {report.metric_f32:.6g}, int8 {report.metric_int8:.6g}")
    return lines


def remarks(report: QuantReport) -> list[str]:
    """How the table is to be read."""
    lines = [
        "errors are of squares: 1 % is 20 dB; added: by this layer on exact operands; inherited: the rest, below 0 where errors cancel"
    ]
    if report.f32_times:
        lines.append(
            "a time is that of the kernel that computes the layer, with all that is fused into it, which f32 and int8 may do otherwise"
        )
    if any(x.f32_with or x.int8_with for x in report.layers):
        lines.append("* the kernel computes other layers of the table too, and each of them has its whole time")
    return lines
