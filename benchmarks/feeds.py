"""Inputs for the real models: two of different sizes for each, with values of the kind that the model was trained on.

The second is never the size of the first where the model has a free dimension: a program compiled once has to serve both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Feeds = dict[str, np.ndarray]
Make = Callable[[np.random.Generator, int], Feeds]


def _image(name: str, *shapes: tuple[int, ...]) -> Make:
    """Pixels in [-1, 1]."""
    return lambda rng, k: {name: rng.uniform(-1, 1, shapes[k]).astype(np.float32)}


def _page(rng: np.random.Generator, k: int) -> Feeds:
    """White paper with rows of dark strokes, which a text detector finds: on noise it answers almost nothing."""
    height, width = ((160, 224), (96, 320))[k]
    page = np.full((1, 3, height, width), 2.0, np.float32)
    for top in range(16, height - 24, 32):
        for left in range(16, width - 24, 9):
            page[:, :, top : top + 16, left : left + rng.integers(2, 6)] = -2.0
    return {"x": page}


def _bytes(rng: np.random.Generator, k: int) -> Feeds:
    data = rng.integers(0, 256, ((1, 2048), (3, 2048))[k]).astype(np.int32)
    data[-1, 1500:] = 256  # padding of a short file
    return {"bytes": data}


def _tokens(rng: np.random.Generator, k: int) -> Feeds:
    shape = ((1, 16), (3, 40))[k]
    mask = np.ones(shape, np.int64)
    mask[-1, shape[1] // 2 :] = 0  # the last sentence is short
    ids = rng.integers(1000, 30000, shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}


def _speech_frames(rng: np.random.Generator, k: int) -> Feeds:
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": (rng.standard_normal(((8, 576), (31, 576))[k]) * 0.1).astype(np.float32), "h": state, "c": state}


def _speech_chunk(rng: np.random.Generator, k: int) -> Feeds:
    batch = (1, 2)[k]
    chunk = (rng.standard_normal((batch, 576)) * 0.1).astype(np.float32)
    return {"input": chunk, "state": np.zeros((2, batch, 128), np.float32), "sr": np.array(16000, np.int64)}


def _tone(rng: np.random.Generator, k: int) -> Feeds:
    samples = (8000, 16000)[k]
    audio = 0.5 * np.sin(np.arange(samples) * (2 * np.pi * 220 / 16000)) + 0.01 * rng.standard_normal(samples)
    return {
        "audio": audio[None].astype(np.float32),
        "fmin": np.array(46.875, np.float32),
        "fmax": np.array(2093.75, np.float32),
    }


def _letters(name: str, dtype: type, vocabulary: int) -> Make:
    return lambda rng, k: {name: rng.integers(1, vocabulary, ((1, 12), (3, 20))[k]).astype(dtype)}


def _name_letters(rng: np.random.Generator, k: int) -> Feeds:
    shape = ((1, 6), (3, 11))[k]
    mask = np.ones(shape, bool)
    mask[-1, shape[1] - 2 :] = False
    return {"src": rng.integers(1, 30, shape), "src_mask": mask}


def _name_prefix(rng: np.random.Generator, k: int) -> Feeds:
    batch, source, target = ((1, 6, 1), (3, 11, 4))[k]
    return {
        "prefix": rng.integers(1, 30, (batch, target)),
        "memory": rng.standard_normal((batch, source, 256)).astype(np.float32),
        "src_mask": np.ones((batch, source), bool),
        "hidden": rng.standard_normal((batch, 2, 256)).astype(np.float32),
    }


def _one_hot_letters(rng: np.random.Generator, k: int) -> Feeds:
    shape = ((1, 5), (3, 9))[k]
    return {"lstm_input": np.eye(59, dtype=np.float32)[rng.integers(0, 59, shape)]}


FEEDS: dict[str, Make] = {
    "mnist": _image("Input3", (1, 1, 28, 28), (1, 1, 28, 28)),  # nothing is free
    "textline-cls": _image("x", (1, 3, 48, 192), (3, 3, 48, 160)),
    "ppocrv4-rec": _image("x", (1, 3, 48, 320), (2, 3, 48, 208)),
    "ppocrv4-det": _page,
    "page-orientation": _image("x", (1, 3, 224, 224), (3, 3, 224, 224)),
    "mtcnn-pnet": _image("input_1", (1, 60, 80, 3), (2, 45, 33, 3)),
    "mtcnn-rnet": _image("input_2", (1, 24, 24, 3), (5, 24, 24, 3)),
    "mtcnn-onet": _image("input_3", (1, 48, 48, 3), (5, 48, 48, 3)),
    "silero-vad": _speech_chunk,
    "silero-vad-seq": _speech_frames,
    "swift-f0": _tone,
    "magika": _bytes,
    "romanizer-enc": _name_letters,
    "romanizer-dec": _name_prefix,
    "minilm-l6-int8w": _tokens,
    "chars2vec": _one_hot_letters,
    "slovorez-f16": _letters("input_layer", np.int32, 30),
    "surface-mlp": _image("input", (1, 4), (7, 4)),
}


def feeds(name: str, k: int) -> Feeds:
    """The first (k = 0) or second (k = 1) inputs of a real model; the same arrays at every call."""
    return FEEDS[name](np.random.default_rng(17 + k), k)
