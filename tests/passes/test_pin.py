"""Pinning replaces named sizes everywhere: types, attributes and sub-graphs."""

import pytest
from octavo.ir.errors import ModelError, ShapeError
from octavo.ir.text import parse, to_text
from octavo.ir.verify import verify
from octavo.passes.pin import pin

TEXT = """graph g(%x: f32[n,2*s] @ "in", %z: f32[2]) -> (%2) {
  %1 = reshape(%x, shape=[2*n*s])  ; here
  %2 = slice(%1, starts=[s], stops=[2*s], steps=[1])
}"""


def test_sizes_replace_symbols_in_types_and_attributes():
    result = pin(parse(TEXT), {"s": 3})
    verify(result)
    assert to_text(result) == to_text(
        parse("""graph g(%x: f32[n,6] @ "in", %z: f32[2]) -> (%2) {
          %1 = reshape(%x, shape=[6*n])  ; here
          %2 = slice(%1, starts=[3], stops=[6], steps=[1])
        }""")
    )


def test_pinning_nothing_gives_the_same_graph():
    graph = parse(TEXT)
    assert pin(graph, {}) is graph


def test_a_name_that_no_input_has_is_refused():
    with pytest.raises(ModelError, match="no input has a dimension named 'batch'; the symbols are n, s"):
        pin(parse(TEXT), {"batch": 1})


@pytest.mark.parametrize("size", [-1, 1.0, True, "3"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ModelError, match="the dimension n cannot be"):
        pin(parse(TEXT), {"n": size})


def test_sizes_that_turn_out_wrong_are_refused_with_their_place():
    graph = parse("graph g(%x: f32[a], %y: f32[b]) -> (%z) {\n%z = add(%x, %y)  ; here\n}")
    with pytest.raises(ShapeError, match="here"):
        pin(graph, {"a": 2, "b": 3})
