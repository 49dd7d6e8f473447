"""Figures that compare answers with the truth, or with other answers. All take plain sequences or arrays and give a float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """The least number of insertions, deletions and replacements that make `a` into `b` (Levenshtein)."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def character_error_rate(read: Sequence[str], written: Sequence[str]) -> float:
    """Edits that make the texts read into those written, over the characters written."""
    return sum(map(edit_distance, read, written)) / sum(map(len, written))


def share_equal(answers: Sequence[object], truth: Sequence[object]) -> float:
    """The share of answers that are the truth."""
    return sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: the chance that a positive scores above a negative, equal scores counting half.

    `scores` f[n] and `positive` bool[n]; NaN where either class is missing.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal scores share the mean of their ranks, counted from 1
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def cents(heard: np.ndarray, played: np.ndarray) -> np.ndarray:
    """Distance of frequencies in hundredths of a semitone; infinite where `heard` is no frequency."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(1200 * np.log2(np.asarray(heard, np.float64) / played))
    return np.where(np.isnan(distance), np.inf, distance)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines between the rows of f[n, d] and f[n, d], as f64[n]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boolean maps; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
