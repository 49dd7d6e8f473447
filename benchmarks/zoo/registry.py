"""The list of the zoo: every model at full size, as benchmarks run it, and at a small one, as tests run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...ir.errors import OctavoError
from ...ir.graph import Graph
from .mobilenet_v2 import mobilenet_v2
from .resnet50 import resnet50
from .small import conv3x3, lstm, matmul, mlp
from .transformers import bert, gpt2
from .vit_tiny import vit_tiny
from .yolo import yolo

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class ZooModel:
    """`make(**full)` or `make(**small)` gives the graph; `feed(rng, batch, **full)` inputs that fit it."""

    summary: str
    make: Callable[..., Graph]
    feed: Callable[..., Feeds]
    full: Mapping[str, Any]
    small: Mapping[str, Any]

    def sizes(self, small: bool) -> Mapping[str, Any]:
        return self.small if small else self.full


def _image(rng: np.random.Generator, batch: int, *, size: int, **_: Any) -> Feeds:
    return {"image": rng.standard_normal((batch, 3, size, size), np.float32)}


def _masked_text(rng: np.random.Generator, batch: int, *, sequence: int, vocabulary: int, **_: Any) -> Feeds:
    """Token ids whose last quarter is padding that the mask hides; the second half is of the other segment."""
    mask = np.ones((batch, sequence), np.int64)
    mask[:, sequence - sequence // 4 :] = 0
    segment = np.zeros((batch, sequence), np.int64)
    segment[:, sequence // 2 :] = 1
    ids = rng.integers(0, vocabulary, (batch, sequence))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segment}


def _text(rng: np.random.Generator, batch: int, *, sequence: int, vocabulary: int, **_: Any) -> Feeds:
    return {"input_ids": rng.integers(0, vocabulary, (batch, sequence))}


def _vector(rng: np.random.Generator, batch: int, *, sizes: tuple[int, ...]) -> Feeds:
    return {"x": rng.standard_normal((batch, sizes[0]), np.float32)}


def _sequence(rng: np.random.Generator, batch: int, *, dim: int, steps: int, **_: Any) -> Feeds:
    return {"x": rng.standard_normal((steps, batch, dim), np.float32)}


def _pixels(rng: np.random.Generator, batch: int, *, channels: int, size: int) -> Feeds:
    return {"x": rng.standard_normal((batch, channels, size, size), np.float32)}


def _squares(rng: np.random.Generator, batch: int, *, size: int) -> Feeds:
    """Two square matrices; the matmul has no batch."""
    return {name: rng.standard_normal((size, size), np.float32) for name in "ab"}


_SMALL_BERT = {"layers": 1, "dim": 16, "heads": 2, "sequence": 8, "vocabulary": 50}

MODELS: dict[str, ZooModel] = {
    "resnet50": ZooModel(
        "image classifier, residual bottlenecks",
        resnet50,
        _image,
        {"size": 224},
        {"size": 32, "width": 4, "blocks": (1, 2, 1, 1), "classes": 10},
    ),
    "mobilenet_v2": ZooModel(
        "image classifier, depthwise convolutions",
        mobilenet_v2,
        _image,
        {"size": 224},
        {"size": 32, "stages": ((1, 16, 1, 1), (2, 8, 2, 2)), "head": 32},
    ),
    "yolo": ZooModel(
        "object detector of the YOLOv8-nano kind",
        yolo,
        _image,
        {"size": 320},
        {"size": 64, "width": 4, "depths": (1, 1, 1, 1), "classes": 3},
    ),
    "vit_tiny": ZooModel(
        "image classifier, transformer over patches",
        vit_tiny,
        _image,
        {"size": 224},
        {"size": 32, "patch": 8, "dim": 24, "layers": 2, "heads": 3},
    ),
    "bert_base": ZooModel(
        "text encoder, 12 layers of 768, sequence 128",
        partial(bert, "bert_base"),
        _masked_text,
        {"layers": 12, "dim": 768, "heads": 12, "sequence": 128, "vocabulary": 30522},
        _SMALL_BERT,
    ),
    "bert_small": ZooModel(
        "text encoder, 4 layers of 512, sequence 128",
        partial(bert, "bert_small"),
        _masked_text,
        {"layers": 4, "dim": 512, "heads": 8, "sequence": 128, "vocabulary": 30522},
        {**_SMALL_BERT, "layers": 2},
    ),
    "gpt2": ZooModel(
        "causal language model, prefill of 64 tokens, logits of all",
        gpt2,
        _text,
        {"sequence": 64, "vocabulary": 50257},
        {"layers": 2, "dim": 16, "heads": 2, "sequence": 6, "vocabulary": 40},
    ),
    "mlp": ZooModel(
        "784-512-512-512-10, 0.9 M weights",
        partial(mlp, "mlp"),
        _vector,
        {"sizes": (784, 512, 512, 512, 10)},
        {"sizes": (20, 16, 12, 10)},
    ),
    "mlp_small": ZooModel(
        "784-512-512-10, 0.7 M weights",
        partial(mlp, "mlp_small"),
        _vector,
        {"sizes": (784, 512, 512, 10)},
        {"sizes": (20, 16, 10)},
    ),
    "lstm": ZooModel(
        "2 LSTM layers of 256 over 64 steps",
        lstm,
        _sequence,
        {"dim": 256, "steps": 64},
        {"dim": 8, "steps": 5},
    ),
    "matmul": ZooModel("one matrix product, 1024 x 1024 x 1024", matmul, _squares, {"size": 1024}, {"size": 33}),
    "conv3x3": ZooModel(
        "one 3x3 convolution, 64 channels, 56x56 pixels",
        conv3x3,
        _pixels,
        {"channels": 64, "size": 56},
        {"channels": 5, "size": 9},
    ),
}


def _model(name: str) -> ZooModel:
    try:
        return MODELS[name]
    except KeyError:
        raise OctavoError(f"the zoo has no model {name!r}; it has {', '.join(MODELS)}") from None


def build(name: str, *, small: bool = False) -> Graph:
    """The graph of a model, always with the same weights.  Raises OctavoError for an unknown name."""
    model = _model(name)
    return model.make(**model.sizes(small))


def feeds(name: str, batch: int = 1, *, small: bool = False, seed: int = 0) -> Feeds:
    """Random inputs of a model by input name.  Raises OctavoError for an unknown name."""
    model = _model(name)
    return model.feed(np.random.default_rng(seed), batch, **model.sizes(small))
