"""What a runtime in a process of its own answers."""

from __future__ import annotations

from octavo.compiler.contender import said


def test_an_error_of_many_lines_is_told_in_one() -> None:
    e = ValueError("backend raised:\n  no such kernel\nin node 7\nTraceback\n  File somewhere")
    assert said(e) == "ValueError: backend raised: no such kernel in node 7"
