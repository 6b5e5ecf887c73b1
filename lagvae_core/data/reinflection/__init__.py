"""Morphological reinflection: files of the SIGMORPHON shared task, and batches of word pairs with features."""
