"""The speed of int8: Octavo's beside its own float32 and the int8 of onnxruntime and OpenVINO, all made from the same inputs.

python -m octavo.benchmarks.int8                       everything; writes benchmarks/results/int8.{json,md}
python -m octavo.benchmarks.int8 --only resnet50       a part, printed only
"""
