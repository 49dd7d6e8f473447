"""Constants that sub-graphs capture move into them."""

from __future__ import annotations

from octavo.passes.captures import inline_constant_captures

from .check import becomes, unchanged


def test_a_scan_holds_its_weights():
    becomes(
        """graph g(%h: f32[2], %x: f32[n,2], %b: f32[2]) -> (%o) {
          %o = scan(%h, %x, const<f32[2] [1.0,2.0]>, %b, body=graph step(%i: i64[], %s: f32[2], %v: f32[2], %w: f32[2], %c: f32[2]) -> (%n) {
            %a = mul(%s, %w)
            %d = add(%a, %v)
            %n = add(%d, %c)
          }, states=1, captures=2, length=n, reverse=[false])
        }""",
        inline_constant_captures,
        """graph g(%h: f32[2], %x: f32[n,2], %b: f32[2]) -> (%o) {
          %o = scan(%h, %x, %b, body=graph step(%i: i64[], %s: f32[2], %v: f32[2], %c: f32[2]) -> (%n) {
            %a = mul(%s, const<f32[2] [1.0,2.0]>)
            %d = add(%a, %v)
            %n = add(%d, %c)
          }, states=1, captures=1, length=n, reverse=[false])
        }""",
    )


def test_a_constant_that_is_no_capture_stays_an_operand():
    unchanged(
        """graph g(%b: f32[2]) -> (%o) {
          %o = scan(const<f32[2] [0.0,0.0]>, const<f32[3,2] [1.0,2.0,3.0,4.0,5.0,6.0]>, %b, body=graph step(%i: i64[], %s: f32[2], %v: f32[2], %c: f32[2]) -> (%n) {
            %a = mul(%s, %c)
            %n = add(%a, %v)
          }, states=1, captures=1, length=3, reverse=[false])
        }""",
        inline_constant_captures,
    )


def test_both_branches_of_an_if_do():
    becomes(
        """graph g(%c: bool[], %x: f32[2]) -> (%o) {
          %o = if_(%c, const<f32[2] [1.0,2.0]>, %x, then=graph yes(%k: f32[2], %v: f32[2]) -> (%r) {
            %r = add(%k, %v)
          }, otherwise=graph no(%k: f32[2], %v: f32[2]) -> (%r) {
            %r = mul(%k, %v)
          })
        }""",
        inline_constant_captures,
        """graph g(%c: bool[], %x: f32[2]) -> (%o) {
          %o = if_(%c, %x, then=graph yes(%v: f32[2]) -> (%r) {
            %r = add(const<f32[2] [1.0,2.0]>, %v)
          }, otherwise=graph no(%v: f32[2]) -> (%r) {
            %r = mul(const<f32[2] [1.0,2.0]>, %v)
          })
        }""",
    )


def test_a_loop_does_but_for_its_states():
    text = """graph g(%t: i64[], %c: bool[]) -> (%o) {{
          %o = loop(%t, %c, const<f32[2] [0.0,0.0]>{operand}, body=graph step(%i: i64[], %go: bool[], %s: f32[2]{parameter}) -> (%go, %n) {{
            %n = add(%s, {read})
          }})
        }}"""
    constant = "const<f32[2] [1.0,2.0]>"
    becomes(
        text.format(operand=f", {constant}", parameter=", %k: f32[2]", read="%k"),
        inline_constant_captures,
        text.format(operand="", parameter="", read=constant),
    )
