"""What the personalised methods share: a model of the client's own, and training parts of a model.

A method is a class that says what a round is, by `learn`. It has two forms: one of `PersonalImages`
and one of `PersonalVolumes`. The method cards are in `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Client, InputError, Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import Augmentation, Criterion, Penalty, augmentation, fit, staying
from fedsim.wire import load_state, pack_state

OWN = "arrays"
"""The record of a client's state with its own model: a strategy that declares `local` scores it."""

MOMENTUM = "optimiser"
"""The record of a client's state with the momentum of `Segmentation`'s optimiser."""


@dataclass(eq=False)
class Personal(Client):
    """Base: trains models in place, and evaluates the client's own model where it has one."""

    payload = "arrays"
    keeps_state = True
    private = "none"
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Metrics of the client's own model; before there is any, of the sent or the first one."""
        own = site.state.array_records.get(OWN) or content.array_records.get("arrays")
        return super().evaluate(RecordDict({"arrays": own or site.first_arrays()}), site)

    @abstractmethod
    def learn(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None = None,
        after: Callable[[], None] | None = None,
        momentum: str = MOMENTUM,
    ) -> MetricRecord:
        """Train a model in place, as `supervised` or `segmentation` does in a round.

        Args:
            model: holds the weights to begin with.
            site: the client. Two calls in one exchange see the same batches.
            penalty: added to the loss.
            after: called after each step.
            momentum: the record of the client's state with the optimiser's momentum, of which
                each model that a client trains has its own; images keep none.

        Returns:
            `num-examples`, `loss` and what else is reported.
        """

    def taking(self, steps: int) -> Self:
        """The same method with another number of steps."""
        settings: dict[str, Any] = {"steps": steps}
        return replace(self, **settings)

    def own_model(self, site: Site) -> nn.Module:
        """The client's own model; before its first round the server's first one.

        It is another object than `site.new_model()` gives elsewhere.
        """
        model = deepcopy(site.new_model())
        load_state(model, site.state.array_records.get(OWN) or site.first_arrays())
        return model.to(site.device)


def keep_own(model: nn.Module, site: Site) -> None:
    """Leave a client's own model in its state."""
    site.state[OWN] = pack_state(model.state_dict())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters, by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def pull_to(target: Mapping[str, Tensor], strength: float) -> Penalty | None:
    """The penalty strength/2 |w - target|^2 of a model's parameters w; None where it pulls not.

    Args:
        target: name -> values, of the shapes of the parameters. What is written into them later
            is what the penalty sees then.
        strength: at least 0.
    """
    if not strength:
        return None

    def term(model: nn.Module) -> Tensor:
        pairs = ((value, target[name]) for name, value in model.named_parameters())
        return strength / 2 * torch.stack([(now - to).square().sum() for now, to in pairs]).sum()

    return term


def head_names(model: nn.Module, content: RecordDict, method: str) -> frozenset[str]:
    """The parameters that are trained and stay at the client: those that `federation.local` names.

    Raises:
        InputError: there are none.
    """
    learns = {name for name, value in model.named_parameters() if value.requires_grad}
    head = learns & staying(content)
    if not head:
        raise InputError(
            f"{method} treats what stays at the client otherwise than what travels, but all of "
            "the model travels",
            hint="type federation.local=head",
        )
    return frozenset(head)


@contextmanager
def frozen(model: nn.Module, names: frozenset[str]) -> Iterator[None]:
    """Within it, parameters of these names are not trained; they are afterwards."""
    held = [value for name, value in model.named_parameters() if name in names]
    held = [value for value in held if value.requires_grad]
    for value in held:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in held:
            value.requires_grad_(True)


@dataclass(eq=False)
class PersonalImages(Personal, Supervised):
    """Base of the methods for images, or their features: SGD and cross-entropy.

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `Supervised`.
    """

    made_for = ("images", "features")

    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    class_balanced: bool = True
    augment: Augmentation = "none"
    class_weights: list[PositiveFloat] | None = None

    def learn(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None = None,
        after: Callable[[], None] | None = None,
        momentum: str = MOMENTUM,
    ) -> MetricRecord:
        """See `Personal.learn`."""
        loss = self.fit(model, site, penalty, after)
        return MetricRecord({"num-examples": len(site.train), "loss": loss})

    def learn_beside(self, model: nn.Module, site: Site, beside: Criterion) -> MetricRecord:
        """Train a model in place as `learn` does, on the sum of cross-entropy and another loss.

        Args:
            beside: logits [n, classes] and labels [n] of a batch -> what is added.
        """
        view, weights = site.train, self._weights(site)
        weights = None if weights is None else weights.to(site.device)
        loss = fit(
            model,
            ((view.images(chosen), view.labels[chosen]) for chosen in self._order(site)),
            site.steps(self._total(site), "train"),
            self._optimizer(model, site.fast),
            device=site.device,
            augment=augmentation(self.augment, site.generator("augment")),
            criterion=lambda logits, labels: (
                F.cross_entropy(logits, labels, weight=weights) + beside(logits, labels)
            ),
        )
        return MetricRecord({"num-examples": len(view), "loss": loss})


@dataclass(eq=False)
class PersonalVolumes(Personal, Segmentation):
    """Base of the methods for volumes; all parameters are those of `Segmentation`."""

    def learn(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None = None,
        after: Callable[[], None] | None = None,
        momentum: str = MOMENTUM,
    ) -> MetricRecord:
        """See `Personal.learn`."""
        kept = RecordDict()
        if momentum in site.state:
            kept[MOMENTUM] = site.state[momentum]
        metrics = self.fit(model, replace(site, state=kept), penalty, after)
        if MOMENTUM in kept:
            site.state[momentum] = kept[MOMENTUM]
        return metrics
