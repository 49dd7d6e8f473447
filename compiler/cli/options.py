"""Options that several commands share, and what they parse to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from .terminal import Terminal

F = TypeVar("F", bound=Callable[..., Any])

EXISTING = click.Path(exists=True, path_type=Path)


def _set(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Terminal), name, True)

    return callback


def standard(f: F) -> F:
    """`--json` and `-v`, which every command has; they reach the command through its `Terminal`."""
    f = click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_set("verbose"), help="Show where an error arose.")(
        f
    )
    return click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=_set("json"), help="Print the result as JSON."
    )(f)


def _assignments(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    result = {}
    for text in values:
        name, equals, number = text.rpartition("=")
        if not equals or not name or not number.isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=SIZE, for example batch=1", ctx, param)
        result[name] = int(number)
    return result


def dims_option(f: F) -> F:
    """`--dim NAME=SIZE`, as `dims`: sizes fixed when compiling."""
    return click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_assignments,
        help="Fix a symbolic dimension when compiling; may be repeated.",
    )(f)


def sizes_option(f: F) -> F:
    """`--size NAME=SIZE`, as `sizes`: symbolic dimensions of generated inputs, which stay symbolic in the code."""
    return click.option(
        "--size",
        "sizes",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_assignments,
        help="Size of a symbolic dimension in generated inputs (the code keeps it symbolic); may be repeated.",
    )(f)


_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType):
    """A time such as 60s, 2m or 1.5h; a number alone counts seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())
        seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is not a time such as 60s, 2m or 1h", param, ctx)
        return seconds


def inputs_option(f: F) -> F:
    """`--input NAME=FILE.npy` or `--input FILE.npz`, as `feeds`."""
    return click.option(
        "--input",
        "feeds",
        multiple=True,
        metavar="NAME=X.npy|X.npz",
        callback=_read_feeds,
        help="An input array, or an .npz file of named arrays; may be repeated.",
    )(f)


def _read_feeds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, np.ndarray]:
    feeds: dict[str, np.ndarray] = {}
    for text in values:
        name, equals, file = text.rpartition("=")
        try:
            loaded = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as e:
            raise click.BadParameter(f"{file!r} cannot be read as a NumPy file: {e}", ctx, param) from None
        if isinstance(loaded, np.ndarray):
            if not equals:
                raise click.BadParameter(f"{text!r} holds one array; name the input: --input NAME={text}", ctx, param)
            feeds[name] = loaded
        else:
            with loaded:
                feeds.update({key: loaded[key] for key in loaded.files})
    return feeds


def threads_option(f: F) -> F:
    """`--threads N`, as `threads`."""
    return click.option(
        "--threads", type=click.IntRange(1), default=None, help="Threads; default: what affinity and the container allow."
    )(f)


def target_option(f: F) -> F:
    """`--target NAME`, as `target`."""
    return click.option(
        "--target",
        default="native",
        show_default=True,
        metavar="TARGET",
        help="native, x86-64-v3, x86-64-v4, ... (an unknown name lists them all).",
    )(f)
