"""Metrics of a trained model: the default columns and the columns of one kind of data."""
