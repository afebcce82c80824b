"""Local training where diagnoses are rare: `supervised` with a loss for long tails.

The losses and their papers: `fedsim/losses/long_tail.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import Site
from fedsim.clients.supervised import Supervised
from fedsim.losses import (
    balanced_softmax,
    calibrated,
    effective_weights,
    focal,
    ldam,
    logit_adjusted,
)
from fedsim.method import Augmentation, Criterion

LongTailLoss = Literal[
    "balanced_softmax",
    "logit_adjusted",
    "fedlc",
    "ldam",
    "focal",
    "class_balanced",
    "inverse_frequency",
    "cross_entropy",
]


@dataclass(eq=False)
class LongTail(Supervised):
    """Train as `supervised` does, with a loss for classes of very different sizes.

    The counts of a loss are those of the client's own training images. They do not leave it.

    Args:
        loss: "balanced_softmax", "logit_adjusted", "fedlc", "ldam", "focal"; cross-entropy with
            weights of the classes, "class_balanced" by their effective numbers (Cui et al. 2019) or
            "inverse_frequency" as `supervised` has them; or plain "cross_entropy".
        tau: how far "logit_adjusted" and "fedlc" shift logits.
        gamma: exponent of "focal".
        max_margin: of "ldam", that of the rarest class.
        scale: of "ldam", what its logits are multiplied by.
        beta: of effective numbers, 0 <= beta < 1.
        deferred: share of the rounds after which "ldam" weights classes by their effective numbers
            (deferred re-weighting); 1: never.
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, augment: as in
            `supervised`.
    """

    private = "none"
    side_by_side = True

    loss: LongTailLoss = "balanced_softmax"
    tau: PositiveFloat = 1.0
    gamma: NonNegativeFloat = 2.0
    max_margin: PositiveFloat = 0.5
    scale: PositiveFloat = 1.0
    beta: NonNegativeFloat = 0.9999
    deferred: PositiveFloat = 0.8
    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        if self.beta >= 1:
            raise ValueError(f"beta lies below 1, not at {self.beta}.")
        if self.deferred > 1:
            raise ValueError(f"deferred is a share of the rounds, at most 1, not {self.deferred}.")
        self.class_balanced = self.loss == "inverse_frequency"
        self.class_weights = None

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Refuse: the counts depend on all records."""
        raise ValueError(
            "long_tail has no private form, because its loss depends on the counts of all records: "
            "use the client method supervised"
        )

    def criterion(self, site: Site) -> Criterion | None:
        """The mean over a batch of the records' losses; None where `supervised` has the loss."""
        if self.loss in ("cross_entropy", "inverse_frequency"):
            return None
        labels, classes = site.train.labels, site.task.num_classes
        counts = torch.bincount(labels, minlength=classes).to(site.device)
        weights = self._weights_of(site, counts)

        def mean(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            losses = self._losses_of(logits, targets, counts)
            return (losses if weights is None else losses * weights[targets]).mean()

        return mean

    def _losses_of(
        self, logits: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        if self.loss == "balanced_softmax":
            return balanced_softmax(logits, targets, counts)
        if self.loss == "logit_adjusted":
            return logit_adjusted(logits, targets, counts, self.tau)
        if self.loss == "fedlc":
            return calibrated(logits, targets, counts, self.tau)
        if self.loss == "ldam":
            return ldam(logits, targets, counts, self.max_margin, self.scale)
        return focal(logits, targets, self.gamma if self.loss == "focal" else 0.0)

    def _weights_of(self, site: Site, counts: torch.Tensor) -> torch.Tensor | None:
        """Weights of the classes in this round."""
        late = self.loss == "ldam" and site.round > self.deferred * site.rounds
        if self.loss == "class_balanced" or late:
            return effective_weights(counts, self.beta).float()
        return None
