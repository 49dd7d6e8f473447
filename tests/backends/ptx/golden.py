"""The loop IR of one kernel of each kind, as files: `python -m octavo.tests.backends.ptx.golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.program import plan
from octavo.backends.target import find_target
from octavo.ir.loops import to_text
from octavo.passes.fuse import fuse

from .models import KINDS

FOLDER = Path(__file__).parent / "golden"


def text_of(kind: str) -> str:
    """The loops of the last kernel of a small graph: the one that gives its result."""
    target = find_target("sm_80")
    return to_text(lower(plan(fuse(legalize(KINDS[kind](), target))).kernels()[-1].body, target))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in KINDS:
        (FOLDER / f"{kind}.txt").write_text(text_of(kind))
