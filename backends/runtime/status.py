"""The version and the status codes of the C interface: for model.h, for the machine code and for Python's messages.

Codes are part of the ABI: never renumber, only append.  Generated code returns OK, RUN or SIZES from `PREFIX_main`; the wrapper
around it returns the others.
"""

from __future__ import annotations

from enum import IntEnum

ABI_VERSION = 1  # raised when a struct or the meaning of a function in model.h changes


class Status(IntEnum):
    OK = 0
    NULL = 1
    COUNT = 2
    DTYPE = 3
    RANK = 4
    SHAPE = 5
    ALIGNMENT = 6
    WORKSPACE = 7
    CPU = 8
    FILE = 9
    WEIGHTS = 10
    MEMORY = 11
    HANDLE = 12
    RUN = 13
    SIZES = 14


TEXTS: dict[Status, str] = {
    Status.OK: "success",
    Status.NULL: "a required pointer is NULL",
    Status.COUNT: "the number of inputs or outputs is not the model's",
    Status.DTYPE: "a tensor has another dtype than the model's",
    Status.RANK: "a tensor has another rank than the model's",
    Status.SHAPE: "a dimension is negative, is not the model's, or contradicts another tensor",
    Status.ALIGNMENT: "a tensor is not aligned to its element size, or the workspace not to 64 bytes",
    Status.WORKSPACE: "the workspace is smaller than octavo_workspace_size asks for",
    Status.CPU: "no code in this library fits this processor; compile the model for an older target",
    Status.FILE: "the weights file cannot be opened or mapped",
    Status.WEIGHTS: "the weights file has another size than the model's weights",
    Status.MEMORY: "out of memory",
    Status.HANDLE: "the handle was not made by octavo_load of this model",
    Status.RUN: "the model met values that it cannot compute with, such as an index out of range",
    Status.SIZES: "sizes that the model found out while it ran do not fit together",
}
UNKNOWN = "unknown status code"


def text_of(code: int) -> str:
    """The message of a status code, known or not."""
    return TEXTS[Status(code)] if code in Status._value2member_map_ else f"{UNKNOWN} {code}"
