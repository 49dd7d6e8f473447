"""From a graph of kernels to machine code."""
