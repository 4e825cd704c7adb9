"""Measurements: the demo, one cell on real data, and the table of the README."""
