"""Encoders, decoders and the densities between them."""
