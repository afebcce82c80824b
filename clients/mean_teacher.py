"""Mean teacher: a client's student agrees with the exponential mean of its own weights.

Tarvainen & Valpola, "Mean teachers are better role models: Weight-averaged consistency targets
improve semi-supervised deep learning results" (2017). The teacher stays with the client: it goes on
from round to round, and the model on the wire is the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from flwr.app import MetricRecord
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.few_labels import FewLabelledImages, FewLabelledVolumes
from fedsim.losses import consistency
from fedsim.method import Penalty, SiameseAugment, Told
from fedsim.tasks.segmentation import outputs_of

SHIFTS = SiameseAugment("crop_flip")
"""What student and teacher see differently of an image: it is moved or mirrored."""


@dataclass(eq=False)
class MeanTeacher(FewLabelledImages):
    """Learn to agree with the client's own mean teacher on unlabelled images.

    Student and teacher see each image moved or mirrored, each in its own way.

    Args:
        decay: of the teacher in each step, 0 to 1.
    """

    made_for = "images"
    keeps_state = True

    decay: NonNegativeFloat = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decay(self.decay)

    def learn(self, model: nn.Module, site: Site, penalty: Penalty | None) -> MetricRecord:
        """Train a model in place for one round, with the client's own teacher."""
        return self.learn_from_own_teacher(model, site, penalty, self.decay)

    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """The distance of the student's probabilities to the teacher's."""
        seen, taught = (SHIFTS.draw(draws, len(images))(images) for _ in range(2))
        with torch.no_grad():
            targets = [teacher(taught).softmax(1) for teacher in teachers]
        return consistency(model(seen).softmax(1), targets), {}


@dataclass(eq=False)
class MeanTeacherSegmentation(FewLabelledVolumes):
    """Learn to agree with the client's own mean teacher on unlabelled volumes.

    Student and teacher see each patch in noise of their own.

    Args:
        decay: of the teacher in each step, 0 to 1.
        noise: standard deviation of what is added to each voxel; images have about 1.
    """

    decay: NonNegativeFloat = 0.99
    noise: NonNegativeFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decay(self.decay)

    def learn(self, model: nn.Module, site: Site, penalty: Penalty | None) -> MetricRecord:
        """Train a model in place for one round, with the client's own teacher."""
        return self.learn_from_own_teacher(model, site, penalty, self.decay)

    def unlabelled_loss(
        self,
        model: nn.Module,
        images: Tensor,
        teachers: Sequence[nn.Module],
        draws: torch.Generator,
    ) -> tuple[Tensor, Told]:
        """The distance of the student's probabilities to the teacher's."""
        seen, taught = (
            images + self.noise * torch.randn(images.shape, generator=draws).to(images)
            for _ in range(2)
        )
        with torch.no_grad():
            targets = [teacher(taught).softmax(1) for teacher in teachers]
        return consistency(outputs_of(model(seen))[0].softmax(1), targets), {}


def require_decay(decay: float, name: str = "decay") -> None:
    """Raise ValueError where a teacher's decay is no share."""
    if decay > 1:
        raise ValueError(f"{name} is a share of the past, at most 1, not {decay}.")
