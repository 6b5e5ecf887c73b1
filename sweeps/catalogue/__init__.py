"""Strategies and studies as documentation: what each does, its source, fields and columns."""
