"""How each kind of kernel is spread over a grid, as text to read."""

from __future__ import annotations

import pytest

from .golden import FOLDER, text_of
from .models import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_loops_are_those_of_the_file(kind: str):
    expected = (FOLDER / f"{kind}.txt").read_text()
    assert text_of(kind) == expected, "if that is meant: python -m octavo.tests.backends.ptx.golden"
