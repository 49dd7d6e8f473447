"""The demonstration: a real OCR network, compiled ahead of time in f32 and in int8, reads lines of text that were just rendered.

    python -m octavo.benchmarks.demo [--output build/demo]

The int8 model is made on the spot: calibrated on other lines, rendered from a fixed seed, and quantized with default settings.
Without a network (and nothing cached) it says so and shows the same steps on a network built in Python.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..compiler.artifact import load, save
from ..compiler.bench import BenchReport, Measured, bench
from ..compiler.calibrate import calibrate
from ..compiler.cli.terminal import Terminal
from ..compiler.driver import compile_native
from ..compiler.model import Model
from ..compiler.progress import report
from ..compiler.quantize import quantize
from ..frontend.onnx import export_model
from ..frontend.onnx.metadata import read_metadata
from ..ir.errors import OctavoError
from ..ir.files import replacing
from ..ir.graph import Graph
from . import zoo
from .accuracy.text import make_text
from .feeds import Feeds
from .fetch import fetch
from .ocr import character_list, decode, preprocess, render_line

RECOGNISER, TYPEFACE, FALLBACK = "ppocrv4-rec", "dejavu-sans", "mobilenet_v2"
LINES = (
    "Octavo compiles neural networks",
    "ahead of time, to native code.",
    "One call, no runtime, no Python.",
    "Invoice 2024-117: 42.50 EUR",
    "Sphinx of black quartz, judge my vow!",
)
KINDS = ("f32", "int8")
SAMPLES, SEED = 32, 1  # lines for calibration
SECONDS = 2.0  # of measuring, for each runtime
FONT_SIZE, CAPTION_SIZE, PADDING = 36, 22, 24
GREEN, RED, GREY = (20, 120, 60), (190, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class Read:
    """What a network read in a line, and how sure it was."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Line:
    """A rendered line and what the networks read in it: in f32, and in int8."""

    written: str
    picture: Image.Image
    read: tuple[Read, Read]

    @property
    def right(self) -> tuple[bool, bool]:
        f32, int8 = self.read
        return f32.text == self.written, int8.text == self.written


@dataclass(frozen=True)
class Compiled:
    """A saved model, loaded again, and the bytes of its folder."""

    model: Model
    artifact: Path
    size: int


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Folder for the picture and the compiled models.",
)
def main(output: Path) -> None:
    """Compile a real text recogniser ahead of time, in f32 and in int8, and let both read."""
    terminal = Terminal()
    try:
        try:
            with terminal.progress("fetch"):
                files = fetch([RECOGNISER, TYPEFACE])
        except OctavoError as e:
            terminal.note(f"{e}\nNo network: the demonstration runs on {FALLBACK}, built in Python with random weights.")
            show_fallback(terminal, output)
        else:
            read_lines(terminal, files[RECOGNISER], files[TYPEFACE], output)
    except OctavoError as e:
        terminal.fail(type(e).__name__, str(e))
        raise SystemExit(1) from None


def read_lines(terminal: Terminal, onnx: Path, typeface: Path, output: Path) -> None:
    """Compile the recogniser both ways, read the lines, save the picture, measure beside onnxruntime."""
    font = ImageFont.truetype(str(typeface), FONT_SIZE)
    rng = np.random.default_rng(SEED)
    samples = [{"x": preprocess(render_line(make_text(rng), font))} for _ in range(SAMPLES)]
    both = _compile_both(terminal, onnx, samples, f"{SAMPLES} rendered lines", output / RECOGNISER)
    characters = character_list(read_metadata(onnx).custom_metadata_map["character"].removesuffix("\n"))
    lines = []
    for written in LINES:
        picture = render_line(written, font)
        f32, int8 = (Read(*decode(one.model(preprocess(picture))[0], characters)) for one in both)
        lines.append(Line(written, picture, (f32, int8)))
    width = max(len(line.read[0].text) for line in lines)
    print(f"\nread from the picture:\n  {'in f32':{width + 12}}in int8")
    for line in lines:
        marks = ["=" if right else "!" for right in line.right]
        cells = [f"{mark} {r.text:{width}} ({r.confidence:.2f})" for mark, r in zip(marks, line.read, strict=True)]
        print(f"  {'   '.join(cells)}")
    right = [sum(line.right[k] for line in lines) for k in range(2)]
    print(f"of {len(lines)} lines, {right[0]} exactly as written in f32 and {right[1]} in int8")
    _measure(terminal, both, {"x": preprocess(lines[0].picture)}, onnx)
    sheet = output / "demo.png"
    with replacing(sheet) as temporary:
        draw_sheet(lines, typeface).save(temporary)
    print(f"\npicture: {sheet}")
    _show_artifacts(both)
    if min(right) < len(lines):
        raise OctavoError("the network did not read every line as written")


def show_fallback(terminal: Terminal, output: Path) -> None:
    """The same steps on a network of the zoo."""
    graph = zoo.build(FALLBACK)
    feeds = zoo.feeds(FALLBACK)
    both = _compile_both(terminal, graph, [feeds], "the input that is measured", output / FALLBACK)
    for kind, one in zip(KINDS, both, strict=True):
        (result,) = one.model.run(None, feeds)
        print(f"{kind} output {result.dtype}{list(result.shape)}, largest value at {int(np.argmax(result))}")
    with tempfile.TemporaryDirectory(prefix="octavo-demo-") as folder:
        onnx = Path(folder) / f"{FALLBACK}.onnx"
        onnx.write_bytes(export_model(graph).SerializeToString())
        _measure(terminal, both, feeds, onnx)
    _show_artifacts(both)


def _compile_both(
    terminal: Terminal, source: Path | Graph, samples: Sequence[Feeds], what: str, artifact: Path
) -> tuple[Compiled, Compiled]:
    """A model as it is, and quantized after calibration on samples; `what` these are."""
    f32 = _compile(terminal, source, artifact.with_name(f"{artifact.name}.octavo"))
    started = time.perf_counter()
    with terminal.progress("calibrate"):
        profile = calibrate(source, samples, progress=report)
    graph = quantize(source, profile)
    print(f"\nint8: calibrated on {what} and quantized in {time.perf_counter() - started:.1f} s")
    return f32, _compile(terminal, graph, artifact.with_name(f"{artifact.name}.int8.octavo"))


def _compile(terminal: Terminal, source: Path | Graph, artifact: Path) -> Compiled:
    """Compile ahead of time, save, and load what was saved: from here on nothing of the compiler is used."""
    with terminal.progress("compile"):
        started = time.perf_counter()
        result = compile_native(source, progress=report)
        compiled = time.perf_counter()
        save(result.native, artifact)
        saved = time.perf_counter()
    model = load(artifact)
    loaded = time.perf_counter()
    kernels = sum(len(b.bodies) for b in result.built)
    cached = sum(b.cached for b in result.built)
    size = sum(f.stat().st_size for f in artifact.rglob("*") if f.is_file())
    print(f"{artifact.stem}: {len(result.graph.nodes)} nodes became {kernels} different kernels ({cached} of them from the cache)")
    print(f"compiled in {compiled - started:.1f} s, saved in {saved - compiled:.1f} s, loaded in {(loaded - saved) * 1e3:.0f} ms")
    print(f"artifact: {size / 1e6:.1f} MB, of which code {(artifact / 'model.so').stat().st_size / 1e6:.1f} MB")
    return Compiled(model, artifact, size)


def _measure(terminal: Terminal, both: tuple[Compiled, Compiled], feeds: Feeds, onnx: Path) -> None:
    """Latency of one call on one thread, each of both beside onnxruntime's f32, the two taking turns; and sizes."""
    with terminal.progress("measure"):
        reports = [_beside(terminal, one.artifact, feeds, onnx) for one in both]
    shape = ", ".join(reports[0].inputs.values())
    print(f"\none call on {shape}, one thread, taking turns:")
    for kind, one, r in zip(KINDS, both, reports, strict=True):
        ours, *others = r.results
        beside = f", {others[0].ratio:.2f} of onnxruntime's time" if others else ""
        print(f"  {f'octavo {ours.version} {kind}':24} {_latency(ours)}, {one.size / 1e6:5.1f} MB{beside}")
    for theirs in reports[0].results[1:]:
        print(f"  {f'{theirs.runtime} {theirs.version} f32':24} {_latency(theirs)}, {onnx.stat().st_size / 1e6:5.1f} MB")


def _beside(terminal: Terminal, artifact: Path, feeds: Feeds, onnx: Path) -> BenchReport:
    try:
        return bench(artifact, feeds, onnx=onnx, against=("onnxruntime",), seconds=SECONDS)
    except OctavoError as e:
        terminal.note(f"onnxruntime is left out: {e}")
        return bench(artifact, feeds, seconds=SECONDS)


def _latency(r: Measured) -> str:
    return f"{r.median_ms:7.2f} ms median, {r.p90_ms:7.2f} ms p90, load {r.load_ms:6.1f} ms"


def _show_artifacts(both: tuple[Compiled, Compiled]) -> None:
    for kind, one in zip(KINDS, both, strict=True):
        print(f"{kind + ':':9}{one.artifact}")
    print(f"try: octavo inspect {both[1].artifact}")


def draw_sheet(lines: list[Line], typeface: Path) -> Image.Image:
    """The rendered lines on the left, what was read in them in f32 in the middle, in int8 on the right."""
    caption = ImageFont.truetype(str(typeface), CAPTION_SIZE)
    small = ImageFont.truetype(str(typeface), CAPTION_SIZE * 2 // 3)
    widths = [max(line.picture.width for line in lines)]
    widths += [max(int(caption.getlength(line.read[k].text)) for line in lines) for k in range(2)]
    starts = [sum(widths[:k]) + (k + 1) * PADDING for k in range(4)]
    row = max(line.picture.height for line in lines) + PADDING
    head = 3 * CAPTION_SIZE
    sheet = Image.new("RGB", (starts[-1], head + row * len(lines) + PADDING), "white")
    draw = ImageDraw.Draw(sheet)
    for start, title in zip(starts, ("rendered", *(f"read by the {kind} model" for kind in KINDS)), strict=False):
        draw.text((start, PADDING // 2), title, font=caption, fill=GREY)
    for n, line in enumerate(lines):
        top = head + n * row
        sheet.paste(line.picture, (starts[0], top))
        for start, read, right in zip(starts[1:], line.read, line.right, strict=False):
            draw.text((start, top), read.text, font=caption, fill=GREEN if right else RED)
            draw.text((start, top + CAPTION_SIZE + 4), f"confidence {read.confidence:.2f}", font=small, fill=GREY)
    return sheet


if __name__ == "__main__":
    main()
