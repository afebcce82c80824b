"""Federated distillation: each client learns from what the others' models say of each class.

Jeong et al. (2018), arXiv:1811.11479, Algorithm 1. The server's half is
`strategies/fed_distill.py`, the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from pydantic import NonNegativeFloat
from torch import Tensor

from fedsim import Site
from fedsim.clients.personal import PersonalImages, keep_own
from fedsim.statistics import ClassMeans
from fedsim.wire import tensor_record, tensors


@dataclass(eq=False)
class FedDistill(PersonalImages):
    """Train an own model near the others' mean logits, and send its own mean logits.

    Args:
        weight: gamma of the paper, of the cross-entropy between what the others' mean logits and
            the model's logits say of a record.
    """

    payload = "statistics"
    payload_kind = "fed_distill"
    proximal = False

    weight: NonNegativeFloat = 1.0

    @property
    def discloses(self) -> tuple[str, ...]:
        """What the means are of."""
        return (
            "the mean logits of each class, and how often its records were trained on: of a class "
            "with one record they are logits of that record",
        )

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the mean logits of this round's steps; the model stays in the client's state."""
        model, said = self.own_model(site), Said(site.task.num_classes)
        shared = content.array_records.get("class_means")
        values = {} if shared is None else tensors(shared)
        teacher = {
            name: torch.tensor(value, dtype=torch.float32, device=site.device)
            for name, value in values.items()
        }

        def beside(logits: Tensor, labels: Tensor) -> Tensor:
            said.add(logits, labels)
            if not teacher or not self.weight:
                return logits.new_zeros(())
            return self.weight * distillation(logits, labels, teacher["means"], teacher["counts"])

        metrics = self.learn_beside(model, site, beside)
        keep_own(model, site)
        sent = tensor_record(said.means().arrays())
        return RecordDict({"class_means": sent, "metrics": metrics})


class Said:
    """Sums of what a model says while it is trained.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self._sums = torch.zeros(classes, classes, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in the logits [n, classes] of a batch with labels [n]."""
        found, where = logits.detach().cpu().double(), labels.cpu()
        self._sums.index_add_(0, where, found)
        self._counts.index_add_(0, where, torch.ones(len(where), dtype=torch.float64))

    def means(self) -> ClassMeans:
        """The mean logits of each class."""
        means = self._sums / self._counts.clamp(min=1.0)[:, None]
        return ClassMeans(means.numpy(), self._counts.numpy())


def distillation(logits: Tensor, labels: Tensor, means: Tensor, known: Tensor) -> Tensor:
    """The cross-entropy of softmax(logits) against softmax of the classes' mean logits.

    Args:
        logits: [n, classes].
        labels: int64 [n].
        means: [classes, classes], the teacher's logits for each class.
        known: [classes], 0 for a class without a teacher: its records count 0.
    """
    losses = F.cross_entropy(logits, means[labels].softmax(dim=1), reduction="none")
    return (losses * known[labels]).mean()
