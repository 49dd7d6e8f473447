"""Where in the user's Python a node was built: the `loc` of nodes made by `octavo.ops` and by operators.

A location is the file with its folder and the line, `zoo/resnet50.py:41`: short enough for a table, and the same on every
machine, so that it may stand in an artifact.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

_IR = str(Path(__file__).parent)


def caller() -> str:
    """The innermost line on the stack outside `ir/`; "" when there is none.  Costs about a microsecond."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_IR):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f"{short(frame.f_code.co_filename)}:{frame.f_lineno}"


@functools.cache
def short(filename: str) -> str:
    """The file with its folder: `/home/me/zoo/resnet50.py` -> `zoo/resnet50.py`."""
    return "/".join(Path(filename).parts[-2:])
