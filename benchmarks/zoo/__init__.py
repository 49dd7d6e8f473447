"""Benchmark models built with the Python builder, with random weights from fixed seeds and a symbolic batch.

>>> from octavo.benchmarks import zoo
>>> model = octavo.compile(zoo.build("resnet50"))
>>> (logits,) = model.run(None, zoo.feeds("resnet50", batch=2))

`python -m octavo.benchmarks.zoo` lists the models, compares them with onnxruntime (`--verify`) and writes them as ONNX files.
"""

from .registry import MODELS, build, feeds

__all__ = ["MODELS", "build", "feeds"]
