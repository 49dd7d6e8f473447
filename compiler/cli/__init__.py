"""The command `octavo`: one module a sub-command, each a thin layer over a function that Python code can call too.

Exit codes: 0 well, 1 the model was refused or a run failed, 2 wrong usage, 3 an accuracy or speed gate failed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings

import click

from ... import __version__
from ...ir import config
from ...ir.errors import GateError, InternalError, OctavoError
from .terminal import Terminal

GATE = 3
INTERRUPTED = 130  # as shells count it: 128 and the number of the signal

# Imported only when called, so that `octavo run` of an artifact starts with NumPy alone.
_COMMANDS = {
    "compile": "Compile a model ahead of time.",
    "run": "Run a model once on arrays from files.",
    "bench": "Measure a model, beside other runtimes if asked.",
    "verify": "Compare a compiled model with a reference.",
    "inspect": "Show what is in a model: nodes, kernels, memory.",
    "calibrate": "Learn the ranges of a model's values from data.",
    "quantize": "Quantize a model by the profile that calibration made.",
    "debug": "Find which layers a quantized model loses accuracy or time in.",
    "check": "List every node that Octavo cannot compile.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f".{cmd_name}", __name__).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; whatever it raises becomes a message and an exit code."""
        terminal = ctx.obj = Terminal()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: terminal.note(f"warning: {message}")
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            terminal.fail("Interrupted", "interrupted; no partial file was left")
            sys.exit(INTERRUPTED)
        except Exception as e:
            terminal.fail(type(e).__name__, _message(e))
            if terminal.verbose or config.debug():
                traceback.print_exc()
            sys.exit(GATE if isinstance(e, GateError) else 1)


def _message(e: Exception) -> str:
    if isinstance(e, OctavoError | OSError) and not isinstance(e, InternalError):
        return str(e)
    return f"{type(e).__name__}: {e}\nThis is a fault of Octavo: please report it, with what -v prints"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="octavo")
def main() -> None:
    """Compile neural networks to native code, ahead of time.

    \b
    octavo check   model.onnx                        can it be compiled?
    octavo compile model.onnx -o model.octavo        native code, weights and a C header
    octavo run     model.octavo --input x=x.npy      one inference
    octavo verify  model.onnx --against onnxruntime  are the results right?
    octavo bench   model.onnx --against onnxruntime  is it fast?

    Results go to stdout, progress and warnings to stderr; every command takes --json. `octavo COMMAND --help` has examples.
    """
