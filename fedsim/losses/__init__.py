"""Losses that strategies and clients share: pure functions of tensors."""

from fedsim.losses.matching import gradient_distance, mean_matching

__all__ = ["gradient_distance", "mean_matching"]
