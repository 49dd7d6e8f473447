"""Accuracy of real, trained models on data with known answers: in f32 and after post-training quantization, beside other runtimes.

One file a task. Each runtime's int8 model is made from the same calibration inputs (at most `task.SAMPLES`) with default settings.
"""
