"""Folding computes what is constant, within reason."""

import numpy as np
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse
from octavo.ir.types import parse_type
from octavo.passes.fold import fold

from .check import becomes, unchanged


def test_a_constant_expression_becomes_its_value():
    becomes(
        """graph g(%x: f32[2]) -> (%4) {
          %1 = exp(const<f32[2] [0.0,-inf]>)
          %2 = reshape(%1, shape=[1,2])
          %3 = concat(%2, const<f32[1,2] [3.0,4.0]>, axis=0)
          %4 = add(%x, %3)
        }""",
        fold,
        "graph g(%x: f32[2]) -> (%1) {\n%1 = add(%x, const<f32[2,2] [1.0,0.0,3.0,4.0]>)\n}",
    )


def test_known_sizes_become_constants_and_unknown_ones_stay():
    becomes(
        "graph g(%x: i64[n]) -> (%c) {\n%a = sizes(dims=[3,4])\n%b = sizes(dims=[n])\n%c = concat(%a, %b, %x, axis=0)\n}",
        fold,
        "graph g(%x: i64[n]) -> (%c) {\n%b = sizes(dims=[n])\n%c = concat(const<i64[2] [3,4]>, %b, %x, axis=0)\n}",
    )


def test_a_broadcast_is_left_to_its_users():
    unchanged("graph g(%x: f32[9]) -> (%y) {\n%b = broadcast_to(const<f32[] 1.0>, shape=[9])\n%y = add(%x, %b)\n}", fold)


def test_a_loop_is_not_run_while_compiling():
    unchanged(
        """graph g() -> (%s) {
          %s = loop(const<i64[] 9000000000>, const<bool[] true>, const<f32[] 1.0>,
            body=graph(%i: i64[], %c: bool[], %v: f32[]) -> (%c, %w) {
              %w = add(%v, %v)
            })
        }""",
        fold,
    )


def test_a_small_constant_does_not_become_a_large_one():
    unchanged("graph g() -> (%t) {\n%t = tile(const<f32[2] [1.0,2.0]>, repeats=[100000])\n}", fold)


def test_the_budget_bounds_the_bytes_made():
    x = input_value("x", parse_type("f32[100,100]"))
    parts = [apply("exp", const_value(np.full((100, 100), k, np.float32))) for k in range(5)]
    graph = Graph("g", (x,), tuple(apply("add", x, part) for part in parts))
    assert sum(n.op == "exp" for n in fold(graph, budget=2 * 40_000).nodes) == 3
    assert sum(n.op == "exp" for n in fold(graph).nodes) == 0


def test_bodies_are_not_folded_into_numbers_they_do_not_have():
    graph = parse("graph g(%x: f32[2]) -> (%x) {\n}")
    assert fold(graph) is graph
