"""Losses on records without labels: pure functions of logits, probabilities and targets.

Classes are the second axis: [n, k] of images, [n, k, *spatial] of volumes. Nothing is learned of a
target: whoever makes it leaves its gradient off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def consistency(probabilities: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Mean squared distance to what teachers say, averaged over them.

    With one target it is the loss of Tarvainen & Valpola, "Mean teachers are better role models"
    (2017); with two, Eq. 2 of Fed-CoT with means in place of sums. Its gradient is that of the
    distance to the mean of the targets, so that several teachers act through their mean alone.

    Args:
        probabilities: [n, k, ...], of the student.
        targets: of the same shape, one for each teacher.

    Returns:
        A scalar, 0 to 1.

    Raises:
        ValueError: no targets, or one of another shape.
    """
    if not targets or any(target.shape != probabilities.shape for target in targets):
        shapes = [tuple(target.shape) for target in targets]
        raise ValueError(
            f"Targets have the shape of what is compared, {tuple(probabilities.shape)}, and there "
            f"is at least one, but their shapes are {shapes}."
        )
    each = [F.mse_loss(probabilities, target.detach()) for target in targets]
    return torch.stack(each).mean()


def pseudo_label_loss(
    logits: Tensor, teaching: Tensor, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy against the classes that are sure, the others counting 0.

    Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
    Networks" (2013), with threshold 0; Sohn et al., "FixMatch" (2020), Eq. 4, where `teaching` is
    of weakly and `logits` of strongly changed images. The sum is divided by all records (or
    voxels), sure or not.

    Args:
        logits: [n, k, ...], of the student.
        teaching: logits of the same shape, whose largest gives the class; no gradient goes there.
        threshold: its probability must be at least this, 0 to 1.

    Returns:
        The loss, a scalar of at least 0; and the share that is sure, a scalar.

    Raises:
        ValueError: shapes that do not fit, or a threshold out of its range.
    """
    if logits.dim() < 2 or logits.shape != teaching.shape:
        raise ValueError(
            f"Student and teacher give logits [n, k, ...] of one shape, but theirs are "
            f"{tuple(logits.shape)} and {tuple(teaching.shape)}."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"A threshold of probabilities lies in [0, 1], not {threshold}.")
    surest, classes = teaching.detach().softmax(1).max(1)
    sure = (surest >= threshold).to(logits)
    losses = F.cross_entropy(logits, classes, reduction="none")
    return (losses * sure).mean(), sure.mean()
