"""A native program as files that others can load: the shared object and its header."""

from __future__ import annotations

from .abi import abi_ir, exported
from .assembly import assemble
from .link import link_shared
from .native import NativeProgram


def build_library(program: NativeProgram) -> bytes:
    """model.so: every variant of the model's code, the C interface, a thread pool.  The same program gives the same bytes."""
    objects = [data for variant in program.variants for data in variant.objects]
    wrapper = assemble(abi_ir(program), program.triple)
    return link_shared([wrapper, *objects], exported(program), program.triple)
