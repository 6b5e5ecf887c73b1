"""Metrics of a trained model: the default columns and those of one kind of data."""
