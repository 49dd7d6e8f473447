"""Options of the commands that quantize, and what they say to `octavo.quantize`."""

from __future__ import annotations

import functools
from typing import Any

import click

from ...passes.quantize.ranges import DEFAULT, METHODS
from ..precision import KeptLayer
from .options import F


def quantizing_options(f: F) -> F:
    """The options of `octavo.quantize` that a command line can give, as its keywords: the argument `quantizing`."""

    @functools.wraps(f)
    def collected(
        *args: Any,
        method: str,
        percent: float | None,
        weights: str | None,
        correct_bias: bool,
        equalize: bool,
        smooth: float | None,
        exclude: tuple[str, ...],
        **others: Any,
    ) -> Any:
        if percent is not None and method != "percentile":
            raise click.UsageError("--percent is an option of --method percentile")
        options: dict[str, Any] = {} if percent is None else {"percent": percent}
        options |= {
            "method": method,
            "correct_bias": correct_bias,
            "equalize": equalize,
            "smooth": smooth,
            "exclude": exclude,
        }
        options |= {} if weights is None else {"weights": weights}
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
        help="Scales that reach the largest weight of a channel, or those with the least error. [default: max; mse for int4]",
    ),
    click.option(
        "--correct-bias/--no-correct-bias",
        default=True,
        show_default=True,
        help="Let biases make up for what the rounding of weights shifts means by.",
    ),
    click.option(
        "--equalize/--no-equalize",
        default=True,
        show_default=True,
        help="Let the weights of two layers make channels between them alike, where some are far smaller than others.",
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


def speed_options(f: F) -> F:
    """Whether precisions are chosen by time, `time` (None: where that can be), and the speed that int8 must have, `require_speedup`."""
    f = click.option(
        "--require-speedup",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Exit with 3 and write nothing unless int8 is X times as fast as f32 here, as 1.5; says which layers are slow.",
    )(f)
    return click.option(
        "--time/--no-time",
        default=None,
        help="Measure every layer in f32 and int8 here, and leave in f32 what int8 does not make faster. [default: --time]",
    )(f)


def described(layer: KeptLayer) -> str:
    """A layer that stays in floats, and why, for a list."""
    why = "needed for the metric" if layer.why == "accuracy" else "not faster in int8"
    times = (
        f": f32 {layer.f32_us:.1f} us, int8 {layer.int8_us:.1f} us" if layer.f32_us is not None and layer.int8_us is not None else ""
    )
    gain = f"; the metric gains {layer.gain:.4g} by it alone" if layer.gain is not None else ""
    return f"{layer.op} {layer.loc or layer.value} stays in f32, {why}{times}{gain}"
