"""Picks the template of a kernel by its anchor."""

from __future__ import annotations

from ...ir.graph import Graph
from ...ir.loops import LoopFunction
from ...ir.ops.registry import op_def
from ..target import Target
from .contract import lower_contract
from .contract_grid import lower_contract_grid
from .contraction import contraction_of
from .depthwise import is_depthwise, lower_depthwise
from .map import lower_map
from .opaque import lower_opaque
from .row import lower_row

LANES = 16  # elements that map and row loops handle at once, on every target: partial sums are then the same everywhere


def lower(body: Graph, target: Target) -> LoopFunction:
    """The loops of one kernel.  Raises CodegenError for a body that no template computes."""
    kinds = {op_def(n.op).kind for n in body.nodes}
    grid = target.kind == "gpu"
    if "contraction" in kinds:
        if is_depthwise(contraction_of(body)):
            return lower_depthwise(body, LANES, grid)
        return lower_contract_grid(body, target) if grid else lower_contract(body, target)
    if "reduction" in kinds:
        return lower_row(body, LANES, grid)
    if "opaque" in kinds:
        return lower_opaque(body, grid)
    return lower_map(body, LANES, grid)
