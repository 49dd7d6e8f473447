"""Models to measure, built in Python and exportable to ONNX."""
