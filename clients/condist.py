"""ConDistFL: federated segmentation from partial labels with conditional distillation.

Wang, Shen, Roth, Yang, Xu, Oda, et al., "ConDistFL: Conditional Distillation for Federated Learning
from Partially Annotated Data" (2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.segmentation import Segmentation
from fedsim.losses import condist_loss, condist_weight
from fedsim.tasks.segmentation import Objective, SegmentationSite


@dataclass(eq=False)
class ConDist(Segmentation):
    """Learn what the client labels from its labels, and the rest from the received global model.

    To the marginal loss comes the distance between the model's and the received model's conditional
    probabilities of what the client does not label. Its weight grows linearly from round to round,
    as the teacher learns. A client that labels every structure has nothing to be taught, and spares
    the teacher's forward pass. Nothing travels that FedAvg does not send, but for two numbers.

    Args:
        temperature: divides the logits of both; 0.5 in the paper, 2 in its public code.
        first_weight, last_weight: of the distillation in the first and in the last round.

    All but `loss` of `Segmentation` are parameters, too.
    """

    private = "none"

    loss: Literal["marginal", "plain"] = field(init=False, default="marginal")
    temperature: PositiveFloat = 0.5
    first_weight: NonNegativeFloat = 0.01
    last_weight: NonNegativeFloat = 1.0

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Refuse: a private run trains on labels alone."""
        raise ValueError("ConDist has no private form: use the client method segmentation")

    def objective(self, model: nn.Module, site: Site) -> Objective:
        """The marginal loss, and the distillation times this round's weight (Eq. 9)."""
        labels_here = SegmentationSite.of(site).labels
        groups = labels_here.background_groups
        weight = condist_weight(site.round - 1, site.rounds, self.first_weight, self.last_weight)
        # `site.new_model` hands out one and the same module: the teacher must be a copy.
        useful = len(groups) > 1 and weight > 0
        teacher = copy.deepcopy(model).eval().requires_grad_(False) if useful else None

        def distilled(
            images: Tensor, outputs: Sequence[Tensor], labels: Tensor
        ) -> Mapping[str, Tensor]:
            supervised = self.supervised(outputs, labels, labels_here)
            distance = torch.zeros_like(supervised)
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(images)
                distance = condist_loss(
                    outputs[0],
                    taught,
                    labels,
                    groups,
                    self.temperature,
                    batch=self.dice == "batch",
                )
            return {
                "loss": supervised + weight * distance,
                "condist": distance,
                "condist-weight": supervised.new_tensor(weight),
            }

        return distilled
