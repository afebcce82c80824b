"""Local supervised training: what FedAvg, FedProx and other averaging strategies ask of a client.

McMahan et al. 2017 (FedAvg); Li et al. 2020 (FedProx: the proximal term, when the server sends
`proximal-mu`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import Client, Site, Task
from fedsim.method import (
    SGD,
    Augmentation,
    Batch,
    Penalty,
    augmentation,
    balanced_weights,
    endless_batches,
    fit,
    load_received,
    proximal_term,
    update,
)

if TYPE_CHECKING:
    from fedsim.privacy import Loss, Releases


class Supervised(Client):
    """Train the received model on the site's images, or their features, with SGD and cross-entropy.

    Args:
        epochs: passes over the local images in a round.
        steps: steps in a round, in place of `epochs`: the same work at every site.
        batch_size: images in a step.
        learning_rate, momentum, weight_decay: of SGD; the optimiser starts anew each round.
        class_balanced: weight the loss by n / (k n_c), so that a rare class counts as much. Not in
            a private run: these weights depend on all records.
        class_weights: fixed weights of the classes in the loss, in place of these.
        augment: "siamese" draws one of six operations a step with parameters for each image
            (Zhao & Bilen 2021); "none" trains on the images as they are.
    """

    payload = "arrays"
    made_for = ("images", "features")
    keeps_state = False
    private = "dp-sgd"

    def __init__(
        self,
        epochs: PositiveInt = 1,
        steps: PositiveInt | None = None,
        batch_size: PositiveInt = 32,
        learning_rate: PositiveFloat = 0.01,
        momentum: NonNegativeFloat = 0.9,
        weight_decay: NonNegativeFloat = 0.0,
        class_balanced: bool = True,
        augment: Augmentation = "none",
        class_weights: list[PositiveFloat] | None = None,
    ) -> None:
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.class_balanced = class_balanced
        self.augment = augment
        self.class_weights = class_weights

    def private_steps(self, units: int, expected_batch: int) -> int:
        """Steps of a round, see `Client.private_steps`."""
        if self.class_balanced and self.class_weights is None:
            raise ValueError(
                "class_balanced makes each record's loss depend on all others: set it to false, "
                "or fix the weights with class_weights"
            )
        return self.steps or self.epochs * -(-units // min(expected_batch, units))

    def check_private(self, model: torch.nn.Module, task: Task) -> None:
        """Refuse a model that couples records, see `Client.check_private`."""
        from fedsim.privacy import require_uncoupled

        images = torch.randn((4, *task.input_shape), generator=torch.Generator().manual_seed(0))
        labels = torch.arange(4) % task.num_classes
        require_uncoupled(model, self._losses(task), images, labels)

    def _losses(self, task: Task) -> Loss:
        """One loss a record."""
        weights = None if self.class_weights is None else torch.tensor(self.class_weights)

        def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            found = F.cross_entropy(logits, labels, reduction="none")
            return found if weights is None else found * weights.to(found)[labels]

        return losses

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, or their encoded update where the server names a codec."""
        model = site.new_model()
        load_received(model, content)
        penalty = proximal_term(model, content)
        metrics = MetricRecord({"num-examples": len(site.train)})
        if site.releases is None:
            metrics["loss"] = self.fit(model, site, penalty)
        else:  # The loss is one over real records, too: it stays here.
            self.fit_private(model, site, site.releases, penalty)
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def fit(self, model: torch.nn.Module, site: Site, penalty: Penalty | None = None) -> float:
        """Train a model in place, with a penalty if there is one; return the mean loss."""
        view = site.train
        order = endless_batches(len(view), self.batch_size, site.generator("batches"))
        total = self.steps or self.epochs * -(-len(view) // self.batch_size)
        weights = None
        if self.class_weights is not None:
            weights = torch.tensor(self.class_weights)
        elif self.class_balanced:
            weights = balanced_weights(view.labels, site.task.num_classes)
        return fit(
            model,
            ((view.images(chosen), view.labels[chosen]) for chosen in order),
            site.steps(total, "train"),
            self._optimizer(model),
            device=site.device,
            class_weights=weights,
            augment=augmentation(self.augment, site.generator("augment")),
            penalty=penalty,
        )

    def fit_private(
        self,
        model: torch.nn.Module,
        site: Site,
        releases: Releases,
        penalty: Penalty | None = None,
    ) -> None:
        """Train a model in place with DP-SGD, see `fedsim.privacy.training`."""
        from fedsim.privacy import fit_private

        view = site.train

        def read(positions: np.ndarray) -> Batch:
            return view.images(positions), view.labels[positions]

        fit_private(
            model,
            read,
            releases,
            site.steps(releases.plan.steps, "train privately"),
            self._optimizer(model),
            self._losses(site.task),
            device=site.device,
            augment=augmentation(self.augment, site.generator("augment")),
            penalty=penalty,
        )

    def _optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
