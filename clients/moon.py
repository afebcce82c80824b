"""MOON: local training near the features of the received model, away from those of the last one.

Li, He and Song, "Model-Contrastive Federated Learning" (2021). Method card: `docs/methods/moon.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.long_tail import LongTail, LongTailLoss
from fedsim.losses import model_contrast
from fedsim.method import Correction, Penalty, added, teacher_of
from fedsim.statistics import watched_head
from fedsim.wire import load_state, pack_state

PREVIOUS = "previous"
"""The record of a client's state with the model that it trained last."""


@dataclass(eq=False)
class Moon(LongTail):
    """Train as `long_tail` does, and contrast the model's features with those of two others.

    Features are what the last layer sees. Those of the received model are near, those of the model
    that the client trained last are far (Eq. 3). The first time there is none, and no contrast.

    Args:
        mu: weight of the contrast in the loss (Eq. 4); 0: `long_tail`.
        temperature: tau of the contrast.
        loss: the paper's is "cross_entropy"; it and all others are as in `long_tail`.
    """

    made_for = "images"
    keeps_state = True
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    side_by_side = True

    loss: LongTailLoss = "cross_entropy"
    mu: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.5

    def fit(
        self,
        model: nn.Module,
        site: Site,
        penalty: Penalty | None = None,
        after: Callable[[], None] | None = None,
        correct: Correction | None = None,
    ) -> float:
        """Train a model in place, and keep it for the next round; return the mean loss."""
        if not self.mu:
            return super().fit(model, site, penalty, after, correct)
        last = site.state.array_records.get(PREVIOUS)
        if last is None:
            loss = super().fit(model, site, penalty, after, correct)
        else:
            received, previous = (teacher_of(model).to(site.device) for _ in range(2))
            load_state(previous, last)
            with watched_head(model) as seen:

                def contrast(_: nn.Module) -> Tensor:
                    near, away = (_features(one, seen.inputs) for one in (received, previous))
                    return self.mu * model_contrast(seen.vectors, near, away, self.temperature)

                loss = super().fit(model, site, added(penalty, contrast), after, correct)
        site.state[PREVIOUS] = pack_state(model.state_dict())
        return loss


@torch.no_grad()
def _features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last layer sees, [n, k]."""
    with watched_head(model) as seen:
        model(images)
    return seen.vectors
