"""Losses that strategies and clients share: pure functions of tensors."""

from fedsim.losses.matching import (
    class_mean_matching,
    class_means,
    gradient_distance,
    mean_matching,
)

__all__ = ["class_mean_matching", "class_means", "gradient_distance", "mean_matching"]
