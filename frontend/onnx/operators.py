"""Imports every file of importers, so that each registers its own."""

from . import (
    ops_attention,
    ops_contrib,
    ops_control,
    ops_math,
    ops_ml,
    ops_nn,
    ops_quant,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
    ops_signal,
    ops_tracked,
    ops_vision,
)

MODULES = (
    ops_attention,
    ops_contrib,
    ops_control,
    ops_math,
    ops_ml,
    ops_nn,
    ops_quant,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
    ops_signal,
    ops_tracked,
    ops_vision,
)
