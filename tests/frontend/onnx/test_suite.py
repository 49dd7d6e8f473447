"""The backend suite by reference evaluation: what passes, and that every exception is on the list with a reason."""

from __future__ import annotations

from .suite import Reference, run_suite, surprises


def test_the_backend_suite_by_reference() -> None:
    results = run_suite(Reference)
    assert not surprises(results)
    assert sum(r == "passed" for r in results.values()) >= 1800
