"""Losses that strategies and clients share: pure functions of tensors."""

from fedsim.losses.condist import condist_loss, condist_weight
from fedsim.losses.matching import gradient_distance, mean_matching
from fedsim.losses.segmentation import (
    CrossEntropy,
    deeply_supervised,
    dice_cross_entropy,
    marginal_dice_cross_entropy,
)

__all__ = [
    "CrossEntropy",
    "condist_loss",
    "condist_weight",
    "deeply_supervised",
    "dice_cross_entropy",
    "gradient_distance",
    "marginal_dice_cross_entropy",
    "mean_matching",
]
