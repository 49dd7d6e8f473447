"""The speed of Octavo beside other runtimes on the zoo and the real models, and figures of its own: compile time, memory, overhead.

python -m octavo.benchmarks.speed                       everything; writes benchmarks/results/speed.{json,md,svg}
python -m octavo.benchmarks.speed --only resnet50       a part, printed only
"""
