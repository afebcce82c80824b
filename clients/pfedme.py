"""pFedMe: a personal model is what a proximal step makes of the client's copy of the shared one.

Dinh, C. T., Tran, N. H., Nguyen, T. D.: "Personalized Federated Learning with Moreau Envelopes"
(2020), arXiv:2006.08848, Algorithm 1. The server's half is `strategies/pfedme.py`, the method card
`docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from flwr.app import RecordDict
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.personal import (
    Personal,
    PersonalImages,
    PersonalVolumes,
    keep_own,
    pull_to,
    weights_of,
)
from fedsim.method import load_received, update
from fedsim.tasks.segmentation import Batch, SegmentationSite


@dataclass(eq=False)
class PFedMeClient(Personal):
    """Base: `inner_steps` gradient steps of the personal model theta on one batch, then one of w.

    theta goes down f(theta) + pull/2 |theta - w|^2, and then w = w - rate pull (w - theta)
    (Algorithm 1). Both begin a round as the received model.

    Args:
        pull: lambda of the paper.
        inner_steps: K of the paper: gradient steps on each batch. `steps` counts these.
        rate: eta of the paper, the learning rate of w; rate times pull is at most 1.
    """

    payload_kind = "pfedme"
    proximal = False

    pull: PositiveFloat = 1.0
    inner_steps: PositiveInt = 5
    rate: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        if self.rate * self.pull > 1:
            raise ValueError(
                f"rate times pull is {self.rate * self.pull:g}: above 1, w passes the personal "
                "model by"
            )

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return w; the personal model stays in the client's state."""
        model = site.new_model()
        load_received(model, content)
        model.to(site.device)
        outer = Outer(model, self.inner_steps, self.rate * self.pull)
        metrics = self.learn(model, site, pull_to(outer.weights, self.pull), outer.step)
        outer.finish()
        keep_own(model, site)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(outer.weights[name])
        return RecordDict({"arrays": update(model, content), "metrics": metrics})


class Outer:
    """The client's copy w of the shared model, which follows the personal one every few steps.

    Args:
        model: the personal model, theta; as it is now, w begins.
        every: steps of theta for one of w.
        share: of the way to theta that w goes.
    """

    def __init__(self, model: nn.Module, every: int, share: float) -> None:
        self.weights = weights_of(model)
        self._model, self._every, self._share, self._count = model, every, share, 0

    def step(self) -> None:
        """Note a step of theta; move w where it is its turn."""
        self._count += 1
        if self._count % self._every == 0:
            self._move()

    def finish(self) -> None:
        """Move w after steps that did not fill a turn."""
        if self._count % self._every:
            self._move()

    def _move(self) -> None:
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                self.weights[name].lerp_(value, self._share)


@dataclass(eq=False)
class PFedMe(PFedMeClient, PersonalImages):
    """Train a personal classifier near a copy of the shared one, which follows it."""

    def _order(self, site: Site) -> Iterator[Tensor]:
        """Each batch as often as the personal model takes steps on it."""
        for chosen in super()._order(site):
            for _ in range(self.inner_steps):
                yield chosen

    def workload(self, records: int) -> float:
        """Each record of a pass is seen in all steps on its batch."""
        return (1 if self.steps else self.inner_steps) * super().workload(records)

    def _total(self, site: Site) -> int:
        """`epochs` are passes over the images, whatever `inner_steps` is."""
        return self.steps or self.inner_steps * super()._total(site)


@dataclass(eq=False)
class PFedMeSegmentation(PFedMeClient, PersonalVolumes):
    """Train a personal segmentation network near a copy of the shared one, which follows it."""

    def __post_init__(self) -> None:
        PFedMeClient.__post_init__(self)
        PersonalVolumes.__post_init__(self)

    def _batches(self, here: SegmentationSite, site: Site) -> Iterator[Batch]:
        """Each batch as often as the personal model takes steps on it."""
        for batch in super()._batches(here, site):
            for _ in range(self.inner_steps):
                yield batch
