"""Embedded stand-ins: images computed from a seed, so that everything runs without a download."""
