"""The demonstration: a real OCR network, compiled ahead of time, reads lines of text that were just rendered.

    python -m octavo.benchmarks.demo [--output build/demo]

Without a network (and nothing cached) it says so and shows the same steps on a network built in Python.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..compiler.artifact import load, save
from ..compiler.bench import BenchReport, bench
from ..compiler.cli.terminal import Terminal
from ..compiler.driver import compile_native
from ..compiler.model import Model
from ..compiler.progress import report
from ..frontend.onnx import export_model
from ..frontend.onnx.metadata import read_metadata
from ..ir.errors import OctavoError
from ..ir.files import replacing
from ..ir.graph import Graph
from . import zoo
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
FONT_SIZE, CAPTION_SIZE, PADDING = 36, 22, 24
GREEN, RED, GREY = (20, 120, 60), (190, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class Reading:
    """A rendered line and what the network read in it."""

    written: str
    picture: Image.Image
    read: str
    confidence: float


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Folder for the picture and the compiled model.",
)
def main(output: Path) -> None:
    """Compile a real text recogniser ahead of time and let it read."""
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
    """Compile the recogniser, read the lines, save the picture, measure beside onnxruntime."""
    model, artifact = _compile(terminal, onnx, output / f"{RECOGNISER}.octavo")
    font = ImageFont.truetype(str(typeface), FONT_SIZE)
    characters = character_list(read_metadata(onnx).custom_metadata_map["character"].removesuffix("\n"))
    readings = []
    for written in LINES:
        picture = render_line(written, font)
        text, confidence = decode(model(preprocess(picture))[0], characters)
        readings.append(Reading(written, picture, text, confidence))
    right = sum(r.read == r.written for r in readings)
    print("\nread from the picture:")
    for r in readings:
        print(f"  {'=' if r.read == r.written else '!'} {r.read}   ({r.confidence:.2f})")
    print(f"{right} of {len(readings)} lines exactly as written")
    _measure(terminal, artifact, {"x": preprocess(readings[0].picture)}, onnx)
    sheet = output / "demo.png"
    with replacing(sheet) as temporary:
        draw_sheet(readings, typeface).save(temporary)
    print(f"\npicture: {sheet}\nmodel:   {artifact}  (try: octavo inspect {artifact})")
    if right < len(readings):
        raise OctavoError("the network did not read every line as written")


def show_fallback(terminal: Terminal, output: Path) -> None:
    """The same steps on a network of the zoo."""
    graph = zoo.build(FALLBACK)
    feeds = zoo.feeds(FALLBACK)
    model, artifact = _compile(terminal, graph, output / f"{FALLBACK}.octavo")
    (result,) = model.run(None, feeds)
    print(f"output {result.dtype}{list(result.shape)}, largest value at {int(np.argmax(result))}")
    with tempfile.TemporaryDirectory(prefix="octavo-demo-") as folder:
        onnx = Path(folder) / f"{FALLBACK}.onnx"
        onnx.write_bytes(export_model(graph).SerializeToString())
        _measure(terminal, artifact, feeds, onnx)
    print(f"\nmodel: {artifact}")


def _compile(terminal: Terminal, source: Path | Graph, artifact: Path) -> tuple[Model, Path]:
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
    name = source.name if isinstance(source, Graph) else source.stem
    size = sum(f.stat().st_size for f in artifact.rglob("*") if f.is_file())
    print(f"{name}: {len(result.graph.nodes)} nodes became {kernels} different kernels ({cached} of them from the cache)")
    print(f"compiled in {compiled - started:.1f} s, saved in {saved - compiled:.1f} s, loaded in {(loaded - saved) * 1e3:.0f} ms")
    print(f"artifact: {size / 1e6:.1f} MB, of which code {(artifact / 'model.so').stat().st_size / 1e6:.1f} MB")
    return model, artifact


def _measure(terminal: Terminal, artifact: Path, feeds: dict[str, np.ndarray], onnx: Path) -> None:
    """Latency of one call on one thread beside onnxruntime, the two taking turns."""
    with terminal.progress("measure"):
        try:
            result: BenchReport = bench(artifact, feeds, onnx=onnx, against=("onnxruntime",))
        except OctavoError as e:
            terminal.note(f"onnxruntime is left out: {e}")
            result = bench(artifact, feeds)
    shape = ", ".join(result.inputs.values())
    print(f"\nlatency of one call on {shape}, one thread, taking turns:")
    for r in result.results:
        print(f"  {r.runtime + ' ' + r.version:24} {r.median_ms:7.2f} ms median, {r.p90_ms:7.2f} ms p90, load {r.load_ms:6.1f} ms")
    if len(result.results) > 1:
        print(f"  octavo takes {result.results[1].ratio:.2f} of onnxruntime's time")


def draw_sheet(readings: list[Reading], typeface: Path) -> Image.Image:
    """The rendered lines on the left, what was read in them on the right."""
    caption = ImageFont.truetype(str(typeface), CAPTION_SIZE)
    small = ImageFont.truetype(str(typeface), CAPTION_SIZE * 2 // 3)
    left = max(r.picture.width for r in readings)
    right = max(int(caption.getlength(r.read)) for r in readings)
    row = max(r.picture.height for r in readings) + PADDING
    head = 3 * CAPTION_SIZE
    sheet = Image.new("RGB", (left + right + 3 * PADDING, head + row * len(readings) + PADDING), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((PADDING, PADDING // 2), "rendered", font=caption, fill=GREY)
    draw.text((left + 2 * PADDING, PADDING // 2), "read by the compiled model", font=caption, fill=GREY)
    for k, r in enumerate(readings):
        top = head + k * row
        sheet.paste(r.picture, (PADDING, top))
        at = left + 2 * PADDING
        draw.text((at, top), r.read, font=caption, fill=GREEN if r.read == r.written else RED)
        draw.text((at, top + CAPTION_SIZE + 4), f"confidence {r.confidence:.2f}", font=small, fill=GREY)
    return sheet


if __name__ == "__main__":
    main()
