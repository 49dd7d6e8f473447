"""What is known of an index without running it."""

from __future__ import annotations

import itertools
import operator

import pytest
from octavo.ir.loops import Const, Expr, Names, Op, Var, coefficient

_NAMES = Names()
V, K = _NAMES.var("v"), _NAMES.var("k")


@pytest.mark.parametrize(
    ("index", "moves"),
    [
        (K * 16 + V, 1),
        ((K * 16 + V) // 192, 0),
        ((K * 16 + V) % 192, 1),
        ((K * 16 + V) // 192 * 960 + (K * 16 + V) % 192, 1),
        ((K * 48 + V + 32) // 16, 0),
        (V // 16, 0),
        ((K * 8 + V) // 192, None),  # sixteen neighbours may lie on both sides of a multiple
        ((K * 16 + V) // 24, None),
        ((K * 16 + V + 1) % 192, None),
        ((K + V) % 192, None),
        ((K * 16 + V * 2) // 192, None),
    ],
)
def test_neighbours_that_share_a_quotient_are_neighbours(index: Expr, moves: int | None):
    c = coefficient(index, V, 16)
    assert (c.value if isinstance(c, Const) else c) == moves
    for k in range(50):  # what it claims is so
        values = [_evaluate(index, {"v": v, "k": k}) for v in range(16)]
        assert moves is None or [b - a for a, b in itertools.pairwise(values)] == [moves] * 15


def test_nothing_is_known_of_quotients_over_an_unknown_range():
    assert coefficient((K * 16 + V) // 192, V) is None


def _evaluate(e: Expr, at: dict[str, int]) -> int:
    match e:
        case Const():
            return int(e.value)
        case Var():
            return at[e.name]
        case Op():
            a, b = (_evaluate(x, at) for x in e.args)
            return {"add": operator.add, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod}[e.name](a, b)
    raise AssertionError(e)
