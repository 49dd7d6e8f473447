"""Picks the template of a kernel by its anchor."""

from __future__ import annotations

from ...ir.errors import CodegenError
from ...ir.graph import Graph
from ...ir.loops import LoopFunction
from ...ir.ops.registry import op_def
from ..target import Target
from .attention import is_attention, lower_attention
from .contract import lower_contract
from .contract_grid import lower_contract_grid
from .contraction import contraction_of
from .depthwise import is_depthwise, lower_depthwise
from .depthwise_dots import lower_depthwise_dots, reads_windows
from .map import lower_map
from .opaque import lower_opaque
from .row import lower_row
from .winograd import is_winograd, lower_winograd

LANES = 16  # elements that map and row loops handle at once, on every target: partial sums are then the same everywhere
BYTES = (64, 32)  # elements of a line that does not end within a vector, where all are bytes


def template(body: Graph) -> str:
    """The template that computes a kernel: attention, contract, depthwise, winograd, row, opaque or map."""
    kinds = {op_def(n.op).kind for n in body.nodes}
    if is_attention(body):
        return "attention"
    if "contraction" in kinds:
        node = contraction_of(body)
        return "depthwise" if is_depthwise(node) else "winograd" if is_winograd(node) else "contract"
    if "reduction" in kinds:
        return "row"
    return "opaque" if "opaque" in kinds else "map"


def _lanes(body: Graph) -> int:
    """Elements at once.  A kernel of bytes alone has no sums that could differ."""
    if any(t.dtype.bits > 8 for n in body.nodes for t in n.types):
        return LANES
    ends = [v.shape[-1] if v.shape else 1 for v in body.outputs]
    return next((n for n in BYTES if all(isinstance(d, int) and d % n == 0 for d in ends)), LANES)


def lower(body: Graph, target: Target) -> LoopFunction:
    """The loops of one kernel.  Raises CodegenError for a body that no template computes."""
    grid = target.kind == "gpu"
    match template(body):
        case "attention":
            if grid:
                raise CodegenError(f"kernel {body.name}: attention has no grid; fuse without it for a GPU")
            return lower_attention(body, LANES, target)
        case "contract":
            return lower_contract_grid(body, target) if grid else lower_contract(body, target)
        case "depthwise":
            dots = reads_windows(contraction_of(body))
            return lower_depthwise_dots(body, target) if dots else lower_depthwise(body, LANES, grid)
        case "winograd":
            return lower_winograd(body, target)
        case "row":
            return lower_row(body, LANES if grid else _lanes(body), grid)
        case "opaque":
            return lower_opaque(body, grid)
        case _:
            return lower_map(body, _lanes(body), grid)
