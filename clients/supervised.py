"""Local supervised training: what FedAvg, FedProx and other averaging strategies ask of a client.

McMahan et al. 2017 (FedAvg); Li et al. 2020 (FedProx: the proximal term, when the server sends
`proximal-mu`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

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
    Correction,
    Course,
    Criterion,
    Descent,
    Penalty,
    augmentation,
    balanced_weights,
    endless_batches,
    fit,
    load_received,
    proximal_term,
    train_stacked,
    update,
    why_not_stacked,
)
from fedsim.unlearning import Ascent, ascend

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
    proximal = True
    made_for: ClassVar[str | tuple[str, ...]] = ("images", "features")
    keeps_state = False
    private = "dp-sgd"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    side_by_side = True

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
        if self.private == "none":
            raise ValueError(f"{type(self).__name__} has no private form")
        from fedsim.privacy import require_private_too

        require_private_too(self, Supervised, ("fit", "criterion"), ("fit_private", "_losses"))
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
        return self.train_corrected(content, site)

    def train_corrected(
        self, content: RecordDict, site: Site, correct: Correction | None = None
    ) -> RecordDict:
        """What `train` answers, with each step's gradients corrected; private runs have no such."""
        model = site.new_model()
        load_received(model, content)
        penalty = proximal_term(model, content)
        metrics = MetricRecord({"num-examples": len(site.train)})
        if site.releases is None:
            metrics["loss"] = self.fit(model, site, penalty, correct=correct)
        else:  # The loss is one over real records, too: it stays here.
            self.fit_private(model, site, site.releases, penalty)
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def ascend(self, content: RecordDict, site: Site) -> RecordDict:
        """Maximise the loss on the site's images in a ball, see `fedsim.unlearning.ascent`."""
        model, view, asked = site.new_model(), site.train, Ascent.of(content)
        load_received(model, content)
        weights = self._weights(site)

        def measured(
            model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
        ) -> tuple[torch.Tensor, float]:
            logits = model(images)
            own = None if weights is None else weights.to(logits)
            right = (logits.argmax(dim=1) == labels).float().mean()
            return F.cross_entropy(logits, labels, weight=own), float(right)

        found = ascend(
            model,
            ((view.images(chosen), view.labels[chosen]) for chosen in self._order(site)),
            site.steps(asked.steps, "ascend"),
            self._optimizer(model),
            measured,
            asked,
            site.device,
        )
        metrics = MetricRecord({"num-examples": len(view), **found})
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def why_not_stacked(self, model: torch.nn.Module, task: Task) -> str:
        """See `Client.why_not_stacked`."""
        if type(self) is not Supervised:
            return "its method does not declare that it trains as `supervised` does"
        if self.augment != "none":
            return "each client draws its own augmentations"
        return why_not_stacked(model, task.input_shape, self.batch_size)

    def train_stacked(
        self, contents: Sequence[RecordDict], sites: Sequence[Site]
    ) -> list[RecordDict] | None:
        """Return what `train` returns, see `Client.train_stacked`."""
        descent = Descent(self.learning_rate, self.momentum, self.weight_decay)

        def course(site: Site) -> Course:
            return Course(self._order(site), self._total(site), self._weights(site))

        return train_stacked(contents, sites, descent, course)

    def fit(
        self,
        model: torch.nn.Module,
        site: Site,
        penalty: Penalty | None = None,
        after: Callable[[], None] | None = None,
        correct: Correction | None = None,
    ) -> float:
        """Train a model in place, with a penalty if there is one; return the mean loss.

        `after` is called after each step, `correct` changes the gradients before it.
        """
        view = site.train
        return fit(
            model,
            ((view.images(chosen), view.labels[chosen]) for chosen in self._order(site)),
            site.steps(self._total(site), "train"),
            self._optimizer(model, site.fast),
            device=site.device,
            class_weights=self._weights(site),
            augment=self.augmented(site),
            penalty=penalty,
            precision=site.precision,
            criterion=self.criterion(site),
            after=after,
            correct=correct,
        )

    def criterion(self, site: Site) -> Criterion | None:
        """What is minimised in place of cross-entropy; None for that."""
        return None

    def augmented(self, site: Site) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What changes each batch of images before the model sees them; None: nothing does."""
        return augmentation(self.augment, site.generator("augment"))

    def _order(self, site: Site) -> Iterator[torch.Tensor]:
        return endless_batches(len(site.train), self.batch_size, site.generator("batches"))

    def _total(self, site: Site) -> int:
        return self.steps or self.epochs * -(-len(site.train) // self.batch_size)

    def _weights(self, site: Site) -> torch.Tensor | None:
        """Of the classes in the loss."""
        if self.class_weights is not None:
            return torch.tensor(self.class_weights)
        if self.class_balanced:
            return balanced_weights(site.train.labels, site.task.num_classes)
        return None

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
            augment=self.augmented(site),
            penalty=penalty,
        )

    def _optimizer(self, model: torch.nn.Module, fused: bool = False) -> torch.optim.Optimizer:
        return SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=fused or None,
        )
