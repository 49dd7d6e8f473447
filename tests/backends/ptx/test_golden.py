"""How each kind of kernel is spread over a grid, as text to read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.program import plan
from octavo.backends.target import find_target
from octavo.ir.loops import to_text
from octavo.passes.fuse import fuse

from .models import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_kernel_of_a_small_graph_runs_these_loops(kind: str, golden: Callable[[str, str], None]):
    target = find_target("sm_80")
    golden(kind, to_text(lower(plan(fuse(legalize(KINDS[kind](), target))).kernels()[-1].body, target)))
