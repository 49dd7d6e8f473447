"""Options of the commands that quantize, and what they say to `octavo.quantize`."""

from __future__ import annotations

import functools
from typing import Any

import click

from ...passes.quantize.ranges import DEFAULT, METHODS
from .options import F


def quantizing_options(f: F) -> F:
    """The options of `octavo.quantize` that a command line can give, as its keywords: the argument `quantizing`."""

    @functools.wraps(f)
    def collected(
        *args: Any,
        method: str,
        percent: float | None,
        weights: str,
        correct_bias: bool,
        smooth: float | None,
        exclude: tuple[str, ...],
        **others: Any,
    ) -> Any:
        if percent is not None and method != "percentile":
            raise click.UsageError("--percent is an option of --method percentile")
        options: dict[str, Any] = {} if percent is None else {"percent": percent}
        options |= {"method": method, "weights": weights, "correct_bias": correct_bias, "smooth": smooth, "exclude": exclude}
        return f(*args, quantizing=options, **others)

    result: Any = collected
    for option in reversed(OPTIONS):
        result = option(result)
    return result


OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(tuple(METHODS)),
        default=DEFAULT,
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
        "--correct-bias/--no-correct-bias",
        default=True,
        show_default=True,
        help="Let biases make up for what the rounding of weights shifts means by.",
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
