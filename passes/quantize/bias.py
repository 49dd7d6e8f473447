"""Bias correction: what the rounding of weights shifts the results of a contraction by is taken off its bias.

    E[dq(w) . x] - E[w . x] = (dq(w) - w) . E[x]                for each output channel, with the mean of x for each input channel

The errors of single weights do not cancel where the operand has a mean, as after a relu.  M. Nagel, M. van Baalen, T. Blankevoort and
M. Welling, "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2; the means are those that
calibration saw.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from .weights import Quantized


def expected_shift(contraction: Node, w: np.ndarray, quantized: Quantized, mean: np.ndarray) -> np.ndarray | float:
    """By how much more each channel of a conv or matmul is on average with quantized weights (f64), padding aside.

    w: the weights, f[o, c / groups, *kernel] or f[k, n]; mean: of the operand, f64[c] or f64[k].  0 for a stack of matrices.
    """
    if contraction.op == "conv":
        error = quantized.integers.reshape(len(w), -1) * quantized.scales[:, None] - w.reshape(len(w), -1)
        error = error.reshape(*w.shape[:2], -1).sum(axis=2)
        groups = contraction.attrs.get("groups", 1)
        return np.einsum("goc,gc->go", error.reshape(groups, -1, w.shape[1]), mean.reshape(groups, -1)).reshape(-1)
    if w.ndim != 2:
        return 0.0
    return mean @ (quantized.integers * quantized.scales - w)
