"""Vectors: numeric matrices from files, bundled sets, and a generated Gaussian linear set."""
