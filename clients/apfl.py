"""APFL: each client mixes the shared model with weights of its own, and learns how much of each.

Deng, Y., Kamani, M. M., Mahdavi, M.: "Adaptive Personalized Federated Learning" (2020),
arXiv:2003.13461, Algorithm 1. The server's half is `strategies/apfl.py`, the method card
`docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fedsim import Site
from fedsim.clients.personal import OWN, Personal, PersonalImages, PersonalVolumes
from fedsim.method import cosine, load_received, update
from fedsim.method import fit as fit_images
from fedsim.tasks.segmentation import (
    OPTIMISER,
    SegmentationSite,
    keep_optimiser,
    scheduled,
)
from fedsim.tasks.segmentation import fit as fit_volumes
from fedsim.wire import load_state, pack_state

WEIGHTS, SHARE, MOMENTUM = "own weights", "share", "own optimiser"
"""The records of a client's state with v, with alpha, and with the momentum of v."""


class Mixture(nn.Module):
    """A model whose weights are alpha v + (1 - alpha) w; v and the buffers are its own.

    Args:
        own: has v, which is trained.
        shared: has w, which is read anew at each call and not trained by it.
        alpha: 0 to 1.
        adaptive: whether alpha has a gradient.
    """

    def __init__(self, own: nn.Module, shared: nn.Module, alpha: float, adaptive: bool) -> None:
        super().__init__()
        self.own = own
        self._shared = (shared,)  # In a tuple: its parameters are not among this module's.
        self.alpha = torch.tensor(alpha, requires_grad=adaptive)

    def forward(self, images: Tensor) -> Any:
        """What the mixed model says."""
        return functional_call(self.own, self.mixed(), (images,))

    def mixed(self) -> dict[str, Tensor]:
        """The mixed weights, by the names of the model."""
        shared = dict(self._shared[0].named_parameters())
        return {
            name: self.alpha * value + (1 - self.alpha) * shared[name].detach()
            for name, value in self.own.named_parameters()
        }

    def adapt(self, rate: float) -> None:
        """Take alpha a step down its gradient, and keep it between 0 and 1."""
        if self.alpha.grad is None:
            return
        with torch.no_grad():
            self.alpha.sub_(rate * self.alpha.grad).clamp_(0, 1)
        self.alpha.grad = None


@dataclass(eq=False)
class APFLClient(Personal):
    """Base: a step of v in the mixture, then one of w, on the same batch, for a round's steps.

    v <- v - rate dF(alpha v + (1 - alpha) w) / dv, and w <- w - rate dF(w) / dw. Where alpha is
    learned, it takes the same step: its gradient is that of F in the mixture times v - w.

    Args:
        alpha: of v in the mixture: 0 is the shared model, 1 is training alone.
        adaptive: whether alpha is learned, from this value on.
    """

    payload_kind = "apfl"
    proximal = False

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    adaptive: bool = True

    def workload(self, records: int) -> float:
        """Each batch is seen by two models."""
        return 2 * super().workload(records)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained shared model; v, alpha and the mixture stay in the client's state."""
        model, state = site.new_model(), site.state
        own = deepcopy(model)
        load_received(model, content)
        load_state(own, state.array_records.get(WEIGHTS) or site.first_arrays())
        own, model = own.to(site.device), model.to(site.device)
        alpha = state.metric_records[SHARE]["alpha"] if SHARE in state else self.alpha
        mixture = Mixture(own, model, float(alpha), self.adaptive)  # type: ignore[arg-type]
        metrics = self.learn_both(model, mixture, site)
        whole = own.state_dict()
        state[WEIGHTS] = pack_state(whole)
        state[OWN] = pack_state(whole | {n: v.detach() for n, v in mixture.mixed().items()})
        metrics["alpha"] = mixture.alpha.item()
        state[SHARE] = MetricRecord({"alpha": metrics["alpha"]})
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    @abstractmethod
    def learn_both(self, model: nn.Module, mixture: Mixture, site: Site) -> MetricRecord:
        """Train the shared model in place and, before each of its steps, the mixture.

        Returns:
            What `Personal.learn` returns of the shared model.
        """


def before_each(step: Callable[[], None]) -> Callable[[nn.Module], None]:
    """A correction of gradients that changes none: it lets another model take its step first."""

    def correct(model: nn.Module) -> None:
        step()

    return correct


@dataclass(eq=False)
class APFL(APFLClient, PersonalImages):
    """Train a classifier that all share, and a mixture of it with own weights."""

    def learn_both(self, model: nn.Module, mixture: Mixture, site: Site) -> MetricRecord:
        """See `APFLClient.learn_both`."""
        view, optimizer, weights = site.train, self._optimizer(mixture), self._weights(site)
        batches = ((view.images(rows), view.labels[rows]) for rows in self._order(site))
        augment = self.augmented(site)

        def step() -> None:
            fit_images(
                mixture,
                batches,
                range(1),
                optimizer,
                device=site.device,
                class_weights=weights,
                augment=augment,
                criterion=self.criterion(site),
                after=lambda: mixture.adapt(self.learning_rate),
            )

        loss = self.fit(model, site, correct=before_each(step))
        return MetricRecord({"num-examples": len(view), "loss": loss})


@dataclass(eq=False)
class APFLSegmentation(APFLClient, PersonalVolumes):
    """Train a segmentation network that all share, and a mixture of it with own weights."""

    def learn_both(self, model: nn.Module, mixture: Mixture, site: Site) -> MetricRecord:
        """See `APFLClient.learn_both`."""
        here, kept = SegmentationSite.of(site), RecordDict()
        if MOMENTUM in site.state:
            kept[OPTIMISER] = site.state[MOMENTUM]
        optimizer = self._optimizer(mixture, replace(site, state=kept))
        batches = self._batches(here, site)
        first, total = (site.round - 1) * self.steps, site.rounds * self.steps
        rates = iter(
            cosine(first + step, total, self.learning_rate, self.last_learning_rate)
            for step in range(self.steps)
        )

        def step() -> None:
            rate = next(rates)
            fit_volumes(
                mixture,
                batches,
                scheduled(range(1), optimizer, lambda _: rate),
                optimizer,
                lambda _, outputs, labels: {"loss": self.supervised(outputs, labels, here.labels)},
                device=site.device,
                clip=self.clip,
                after=lambda: mixture.adapt(rate),
            )

        metrics = self.fit(model, site, correct=before_each(step))
        if self.optimizer == "sgd":
            keep_optimiser(optimizer, mixture, kept)
            site.state[MOMENTUM] = kept[OPTIMISER]
        return metrics
