"""Measurements through the public API only."""
