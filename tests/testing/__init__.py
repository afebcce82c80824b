"""The checks of plugins."""
