"""Common subexpressions become one node, and nothing else does."""

from octavo.ir.text import parse
from octavo.passes.cse import cse

from .check import becomes, unchanged


def test_equal_nodes_become_one():
    becomes(
        """graph g(%x: f32[2]) -> (%c) {
          %a = exp(%x)  ; first
          %b = exp(%x)  ; second
          %c = add(%a, %b)
        }""",
        cse,
        """graph g(%x: f32[2]) -> (%c) {
          %a = exp(%x)  ; first
          %c = add(%a, %a)
        }""",
    )


def test_equal_constants_become_one_and_others_do_not():
    becomes(
        """graph g(%x: f32[2]) -> (%d) {
          %a = add(%x, const<f32[2] [1.0,2.0]>)
          %b = mul(%a, const<f32[2] [1.0,2.0]>)
          %c = add(%b, const<f32[1,2] [1.0,2.0]>)
          %d = sub(%c, const<f32[2] [1.0,3.0]>)
        }""",
        cse,
        """graph g(%x: f32[2]) -> (%d) {
          %k = const(value=const<f32[2] [1.0,2.0]>)
          %a = add(%x, %k)
          %b = mul(%a, %k)
          %c = add(%b, const<f32[1,2] [1.0,2.0]>)
          %d = sub(%c, const<f32[2] [1.0,3.0]>)
        }""",
    )


def test_attributes_that_only_compare_equal_are_told_apart():
    unchanged(
        """graph g(%x: f32[2]) -> (%d) {
          %a = pad(%x, low=[1], high=[1], value=0.0)
          %b = pad(%x, low=[1], high=[1], value=-0.0)
          %c = pad(%x, low=[1], high=[1], value=0)
          %d = concat(%a, %b, %c, axis=0)
        }""",
        cse,
    )


def test_variables_and_inputs_stay_themselves():
    unchanged(
        """graph g(%x: f32[1], %y: f32[1]) -> (%c) {
          %v = variable(name="v", init=const<f32[1] [0.0]>)
          %w = variable(name="w", init=const<f32[1] [0.0]>)
          %a = add(%x, %y)
          %b = add(%v, %w)
          %c = add(%a, %b)
          update %v = %c
        }""",
        cse,
    )


def test_whole_chains_merge_in_one_sweep():
    chain = "graph g(%x: f32[2]) -> (%c) {\n"
    for side in "ab":
        chain += f"%{side}0 = neg(%x)\n" + "".join(f"%{side}{k} = exp(%{side}{k - 1})\n" for k in range(1, 50))
    result = cse(parse(chain + "%c = add(%a49, %b49)\n}"))
    assert len(result.nodes) == 1 + 50 + 1
