"""The CPU target: how kernels and whole programs become object code."""
