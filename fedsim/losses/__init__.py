"""Losses that strategies and clients share: pure functions of tensors."""

from fedsim.losses.condist import condist_loss, condist_weight
from fedsim.losses.contrast import model_contrast
from fedsim.losses.long_tail import (
    balanced_softmax,
    calibrated,
    effective_weights,
    focal,
    ldam,
    logit_adjusted,
)
from fedsim.losses.matching import class_gradients, gradient_distance, mean_matching
from fedsim.losses.rescue import class_means, divergence, rescue_factor
from fedsim.losses.segmentation import (
    CrossEntropy,
    deeply_supervised,
    dice_cross_entropy,
    dice_loss,
    marginal_dice_cross_entropy,
)
from fedsim.losses.unlabelled import consistency, pseudo_label_loss

__all__ = [
    "CrossEntropy",
    "balanced_softmax",
    "calibrated",
    "class_gradients",
    "class_means",
    "condist_loss",
    "condist_weight",
    "consistency",
    "deeply_supervised",
    "dice_cross_entropy",
    "dice_loss",
    "divergence",
    "effective_weights",
    "focal",
    "gradient_distance",
    "ldam",
    "logit_adjusted",
    "marginal_dice_cross_entropy",
    "mean_matching",
    "model_contrast",
    "pseudo_label_loss",
    "rescue_factor",
]
