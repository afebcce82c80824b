"""FixMatch: what a model is sure of in a weakly changed image, it learns of a strongly changed one.

Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence"
(2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fedsim.clients.few_labels import FewLabelledImages, require_probability
from fedsim.losses import pseudo_label_loss
from fedsim.method import SiameseAugment, Told

WEAK = SiameseAugment("crop_flip")
"""Moved or mirrored."""
STRONG = tuple(map(SiameseAugment, ("crop_flip", "color", "scale_rotate", "cutout")))
"""One operation of each, one after another, in the place of the paper's RandAugment and Cutout."""


@dataclass(eq=False)
class FixMatch(FewLabelledImages):
    """Learn of strongly changed images what the model is sure of in weakly changed ones.

    Args:
        threshold: a class needs at least this probability.
    """

    made_for = "images"

    ramp: NonNegativeFloat = 0.0
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
        """Cross-entropy against the sure classes (Eq. 4)."""
        weak, strong = WEAK.draw(draws, len(images))(images), images
        for operation in STRONG:
            strong = operation.draw(draws, len(images))(strong)
        with torch.no_grad():
            teaching = model(weak)
        loss, kept = pseudo_label_loss(model(strong), teaching, self.threshold)
        return loss, {"kept": kept.item()}
