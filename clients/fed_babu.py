"""FedBABU: the body is trained under a head that nobody trains; at last clients tune both.

Oh, J., Kim, S., Yun, S.-Y.: "FedBABU: Toward Enhanced Representation for Federated Image
Classification" (2022), arXiv:2106.06042, Algorithm 1. The server's half is
`strategies/fed_babu.py`, the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from flwr.app import RecordDict
from pydantic import PositiveInt

from fedsim import Site
from fedsim.clients.personal import (
    Personal,
    PersonalImages,
    PersonalVolumes,
    frozen,
    head_names,
    keep_own,
)
from fedsim.method import load_received, proximal_term, update


@dataclass(eq=False)
class FedBABUClient(Personal):
    """Base: the body in each round, an own model when the server asks to fine-tune.

    What stays at the client by `federation.local` is the head. All clients have that of the first
    model.

    Args:
        tune_steps: steps of fine-tuning after the last round.
        tuned: what these train: the "whole" model, or the "head" or the "body" alone.
    """

    payload_kind = "fed_babu"

    tune_steps: PositiveInt = 20
    tuned: Literal["whole", "head", "body"] = "whole"

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained body."""
        model = site.new_model()
        load_received(model, content)
        with frozen(model, head_names(model, content, "fed_babu")):
            metrics = self.learn(model, site, proximal_term(model, content))
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def fine_tune(self, content: RecordDict, site: Site) -> RecordDict:
        """Keep a model of the client's own, tuned from the shared one; report the loss alone."""
        model = site.new_model()
        load_received(model, content)
        head = head_names(model, content, "fed_babu")
        body = frozenset(name for name, _ in model.named_parameters()) - head
        still = {"whole": frozenset[str](), "head": body, "body": head}[self.tuned]
        # A training of its own: a learning rate that falls over all rounds begins again. The first
        # round has no other second exchange, so that no random stream is used twice.
        alone = replace(site, round=1, rounds=1)
        with frozen(model, still) if still else nullcontext():
            metrics = self.taking(self.tune_steps).learn(model, alone, momentum="tuning optimiser")
        keep_own(model, site)
        return RecordDict({"metrics": metrics})


@dataclass(eq=False)
class FedBABU(FedBABUClient, PersonalImages):
    """Train the shared layers under the first model's last layer, then tune a classifier."""


@dataclass(eq=False)
class FedBABUSegmentation(FedBABUClient, PersonalVolumes):
    """Train the shared blocks under the first model's last block, then tune a network."""
