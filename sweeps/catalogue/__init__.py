"""Strategies and studies as plain data and as documentation, generated from their declarations."""
