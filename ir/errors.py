"""Every exception that Octavo raises on purpose, and what each one means.

A user error says that the model, the data or an option was wrong and what would be accepted.
An internal error says that Octavo itself broke a rule of its own: it is a bug report in the making.
"""

from __future__ import annotations


class OctavoError(Exception):
    """Base of all Octavo errors; catching it catches everything that bad input can raise."""


class ShapeError(OctavoError):
    """Shapes, ranks or dtypes do not fit together, in a graph or in the arrays given to a model."""


class UnsupportedOp(OctavoError):
    """The model uses an operator, attribute or dtype that Octavo cannot compile."""


class ModelError(OctavoError):
    """A model file or graph is malformed: a cycle, a missing input, a broken or unsafe file."""


class QuantError(OctavoError):
    """A profile, scale or zero point cannot be used for quantization."""


class GateError(OctavoError):
    """A model misses what was asked of its accuracy or speed; nothing was written."""


class ArtifactError(OctavoError):
    """A saved artifact is damaged, of another version, or built for another machine."""


class TargetError(OctavoError):
    """The requested target is unknown or lacks something that the request needs."""


class InternalError(OctavoError):
    """Octavo broke one of its own invariants; please report the message."""


class VerifyError(InternalError):
    """The verifier found a graph or loop function that breaks the rules of the IR."""


class PassError(InternalError):
    """A pass failed; the message names the pass, the node and the passes already run."""


class CodegenError(InternalError):
    """Machine code could not be generated for a kernel."""


class QuantWarning(UserWarning):
    """A part of a quantized model computes in floats after all; the message names it and says why."""
