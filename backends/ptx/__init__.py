"""The PTX target: how kernels become code for NVIDIA GPUs, and how whole programs run on one."""
