"""Grids: what carries messages to clients and runs them."""
