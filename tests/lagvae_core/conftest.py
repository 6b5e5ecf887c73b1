"""This folder becomes importable by this file, for `linear_gaussian`."""
