"""Ditto: each client trains a model of its own, which a pull keeps near the shared one.

Li, T., Hu, S., Beirami, A., Smith, V.: "Ditto: Fair and Robust Federated Learning Through
Personalization" (2021), arXiv:2012.04221, Algorithm 1. The server's half is `strategies/ditto.py`,
the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import RecordDict
from pydantic import NonNegativeFloat

from fedsim import Site
from fedsim.clients.personal import (
    Personal,
    PersonalImages,
    PersonalVolumes,
    keep_own,
    pull_to,
    weights_of,
)
from fedsim.method import load_received, proximal_term, update


@dataclass(eq=False)
class DittoClient(Personal):
    """Base: the client's own model, then the shared one, each for a round's steps.

    Args:
        pull: lambda of the paper, of the term pull/2 |v - w|^2 between the client's own model v
            and the received one w. With 0 the own model is that of `local_only`, to the bit.
    """

    payload_kind = "ditto"

    pull: NonNegativeFloat = 0.1

    def workload(self, records: int) -> float:
        """Two trainings."""
        return 2 * super().workload(records)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained shared model; the own one stays in the client's state."""
        model, own = site.new_model(), self.own_model(site)
        load_received(model, content)
        model.to(site.device)
        near = pull_to(weights_of(model), self.pull)
        mine = self.learn(own, site, near, momentum="own optimiser")
        keep_own(own, site)
        metrics = self.learn(model, site, proximal_term(model, content))
        metrics["own-loss"] = mine["loss"]
        return RecordDict({"arrays": update(model, content), "metrics": metrics})


@dataclass(eq=False)
class Ditto(DittoClient, PersonalImages):
    """Train an own classifier near the shared one, and the shared one."""


@dataclass(eq=False)
class DittoSegmentation(DittoClient, PersonalVolumes):
    """Train an own segmentation network near the shared one, and the shared one."""
