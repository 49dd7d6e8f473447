"""Quantization: what calibration learns of a model's values, and the graph with 8-bit values that follows from it."""
