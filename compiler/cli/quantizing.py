"""Options of the commands that quantize, and what they say to `octavo.quantize`."""

from __future__ import annotations

import functools
from typing import Any

import click

from ...passes.quantize.ranges import METHODS
from .options import F


def quantizing_options(f: F) -> F:
    """`--method`, `--percent`, `--weights`, `--smooth` and `--exclude`, as the keywords `quantizing` of `octavo.quantize`."""

    @functools.wraps(f)
    def collected(
        *args: Any,
        method: str,
        percent: float | None,
        weights: str,
        smooth: float | None,
        exclude: tuple[str, ...],
        **others: Any,
    ) -> Any:
        if percent is not None and method != "percentile":
            raise click.UsageError("--percent is an option of --method percentile")
        options = {} if percent is None else {"percent": percent}
        quantizing = {"method": method, "weights": weights, "smooth": smooth, "exclude": exclude, **options}
        return f(*args, quantizing=quantizing, **others)

    result: Any = collected
    for option in reversed(OPTIONS):
        result = option(result)
    return result


OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(tuple(METHODS)),
        default="minmax",
        show_default=True,
        help="How the range of a value follows from its histogram.",
    ),
    click.option("--percent", type=float, help="Of all elements, how many lie within a range; for --method percentile."),
    click.option(
        "--weights",
        type=click.Choice(("max", "mse")),
        default="max",
        show_default=True,
        help="Scales that reach the largest weight of a channel, or those with the least error.",
    ),
    click.option(
        "--smooth",
        type=click.FloatRange(0, 1),
        help="How much of what is hard to quantize in normalised values moves into weights (SmoothQuant), as 0.5; for transformers.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Contractions that stay in floats: an op, a place such as '/head/*', or the name of a value; may be repeated.",
    ),
)
