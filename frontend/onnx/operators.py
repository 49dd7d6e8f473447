"""Imports every file of importers, so that each registers its own."""

from . import ops_math, ops_nn, ops_reduce, ops_shape, ops_tracked

MODULES = (ops_math, ops_nn, ops_reduce, ops_shape, ops_tracked)
