"""Pseudo-labels: a client takes what its model is sure of for the labels of unlabelled records.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
Networks" (2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fedsim.clients.few_labels import FewLabelledImages, FewLabelledVolumes, require_probability
from fedsim.losses import pseudo_label_loss
from fedsim.method import Told
from fedsim.tasks.segmentation import outputs_of


@dataclass(eq=False)
class PseudoLabel(FewLabelledImages):
    """Learn of unlabelled images what the model is sure of; or of their features.

    Args:
        threshold: a class needs at least this probability; 0, as in the paper, takes all.
    """

    made_for = ("images", "features")

    threshold: NonNegativeFloat = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        require_probability(self.threshold)

    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """Cross-entropy against the model's own sure classes."""
        return sure_of_itself(model(images), self.threshold)


@dataclass(eq=False)
class PseudoLabelSegmentation(FewLabelledVolumes):
    """Learn of unlabelled volumes what the model is sure of, voxel by voxel.

    Args:
        threshold: a class needs at least this probability; 0, as in the paper, takes all.
    """

    threshold: NonNegativeFloat = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        require_probability(self.threshold)

    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """Cross-entropy against the model's own sure classes."""
        return sure_of_itself(outputs_of(model(images))[0], self.threshold)


def sure_of_itself(logits: Tensor, threshold: float) -> tuple[Tensor, Told]:
    """The loss of logits against their own classes, and the share of them that is sure."""
    loss, kept = pseudo_label_loss(logits, logits, threshold)
    return loss, {"kept": kept.item()}
