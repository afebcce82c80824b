"""FedRep: in each round first the client's own head is trained, then the shared body.

Collins, L., Hassani, H., Mokhtari, A., Shakkottai, S.: "Exploiting Shared Representations for
Personalized Federated Learning" (2021), arXiv:2102.07078, Algorithm 1. The server's half is
`fedavg` with `federation.local: head`, the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import MetricRecord, RecordDict
from pydantic import PositiveInt
from torch import nn

from fedsim import Site
from fedsim.clients.personal import (
    Personal,
    PersonalImages,
    PersonalVolumes,
    frozen,
    head_names,
)
from fedsim.method import load_received, proximal_term, update


@dataclass(eq=False)
class FedRepClient(Personal):
    """Base: the head on the received body, then the body under the new head.

    What stays at the client by `federation.local` is the head, all other parameters are the body.

    Args:
        head_steps: steps in which the head is trained; `epochs` and `steps` are those of the body.
    """

    proximal = True

    head_steps: PositiveInt = 10

    def workload(self, records: int) -> float:
        """The head's steps, and those of the body."""
        head = self.taking(self.head_steps)
        return sum(super(FedRepClient, one).workload(records) for one in (head, self))

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained body; the engine keeps the head in the client's state."""
        model = site.new_model()
        load_received(model, content)
        head = head_names(model, content, "fed_rep")
        body = frozenset(name for name, _ in model.named_parameters()) - head
        penalty = proximal_term(model, content)
        with frozen(model, body):
            first = self._of_head(model, site)
        with frozen(model, head):
            metrics = self.learn(model, site, penalty)
        metrics["head-loss"] = first["loss"]
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def _of_head(self, model: nn.Module, site: Site) -> MetricRecord:
        """Train for as many steps as the head gets."""
        return self.taking(self.head_steps).learn(model, site, momentum="head optimiser")


@dataclass(eq=False)
class FedRep(FedRepClient, PersonalImages):
    """Train an own last layer, then the shared layers below it."""


@dataclass(eq=False)
class FedRepSegmentation(FedRepClient, PersonalVolumes):
    """Train an own last block, then the shared blocks before it."""
