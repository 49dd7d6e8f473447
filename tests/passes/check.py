"""Checks shared by the tests of passes: text in, text out, and the same values before and after."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import numpy as np
from octavo.ir.dims import evaluate_dim
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph
from octavo.ir.text import parse, to_text
from octavo.ir.verify import verify


def becomes(before: str, one: Callable[[Graph], Graph], after: str) -> None:
    """Assert that the pass makes of `before` what `after` says, that it verifies, and that it computes the same."""
    graph = parse(before)
    verify(graph)
    result = one(graph)
    verify(result)
    assert to_text(result) == to_text(parse(after)), f"\n{to_text(result)}"
    same_values(graph, result)


def unchanged(text: str, one: Callable[[Graph], Graph]) -> None:
    """Assert that the pass returns the very graph that it was given."""
    graph = parse(text)
    verify(graph)
    result = one(graph)
    assert result is graph, f"\n{to_text(result)}"


def same_values(before: Graph, after: Graph, *, tolerance: float = 1e-5, sizes: dict[str, int] | None = None) -> None:
    """Assert that two graphs of one signature compute the same from random feeds; symbols are 2, 3, ... unless given."""
    sizes = sizes or {name: k + 2 for k, name in enumerate(before.symbols)}
    rng = np.random.default_rng(0)
    feeds = {}
    for name, v in zip(before.input_names, before.inputs, strict=True):
        shape = [evaluate_dim(d, sizes) for d in v.shape]
        if v.dtype.kind == "f":
            feeds[name] = rng.standard_normal(shape).astype(v.dtype.np)
        else:
            feeds[name] = rng.integers(0, 2, shape).astype(v.dtype.np)
    assert [v.type for v in before.outputs] == [v.type for v in after.outputs], "\n" + dedent(to_text(after))
    for a, b in zip(evaluate(before, feeds), evaluate(after, feeds), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance)
