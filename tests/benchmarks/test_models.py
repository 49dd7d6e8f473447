"""The real models: compiled once, they compute at two sizes what onnxruntime computes: in process, from an artifact, from C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

import octavo
from octavo.benchmarks.agreement import WAYS, agree
from octavo.benchmarks.demo import LINES, RECOGNISER, TYPEFACE
from octavo.benchmarks.fetch import fetch, models
from octavo.benchmarks.ocr import character_list, decode, preprocess, render_line
from octavo.frontend.onnx.metadata import read_metadata
from PIL import ImageFont


def fetched(name: str) -> Path:
    try:
        return fetch([name])[name]
    except octavo.OctavoError as e:
        if "is there a network" in str(e):
            pytest.skip(str(e))
        raise


@pytest.mark.parametrize("name", [name for name, r in models().items() if not r.not_yet])
def test_a_real_model_agrees_with_onnxruntime(name: str) -> None:
    row = agree(models()[name], fetched(name))
    assert row.refused == ""
    assert len(row.errors) == len(WAYS)
    assert max(row.errors) <= row.tolerance


@pytest.mark.parametrize("name", [name for name, r in models().items() if r.not_yet])
def test_a_model_that_is_not_ready_is_refused_with_the_node(name: str) -> None:
    with pytest.raises(octavo.UnsupportedOp, match="node '"):
        octavo.compile(fetched(name))


def test_the_recogniser_reads_rendered_lines() -> None:
    path, typeface = fetched(RECOGNISER), fetched(TYPEFACE)
    model = octavo.compile(path)
    characters = character_list(read_metadata(path).custom_metadata_map["character"].removesuffix("\n"))
    font = ImageFont.truetype(str(typeface), 36)
    read = [decode(np.asarray(model(preprocess(render_line(text, font))))[0], characters)[0] for text in LINES]
    assert read == list(LINES)
