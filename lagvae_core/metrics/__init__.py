"""Metrics, one file per family. Values are in nats per example unless a docstring says otherwise."""
