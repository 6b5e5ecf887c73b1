"""Figures of sweeps and studies, drawn with matplotlib."""
