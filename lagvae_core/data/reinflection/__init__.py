"""Morphological reinflection: reading SIGMORPHON files, and batches of word pairs with tags."""
