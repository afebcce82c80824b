"""Sweeps: what their cells are, which of them are finished, and running the others."""
