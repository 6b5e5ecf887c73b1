"""Experiment trackers: TensorBoard, MLflow and Weights & Biases mirror a sweep while the driver runs it.

The driver starts one process for each tracker and sends it the events of the sweep. Only these processes import the
clients of the tools, so that a client that hangs, crashes or changes global state cannot affect the sweep.
"""
