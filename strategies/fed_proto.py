"""FedProto's server: class prototypes are averaged, models stay where they are.

Tan, Y., et al.: "FedProto: Federated Prototype Learning across Heterogeneous Clients" (2022),
arXiv:2105.00243, Algorithm 1. The client's half is `clients/fed_proto.py`, the method card
`docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedsim import Server
from fedsim.statistics import ClassMeans, averaged_means, head_of
from fedsim.strategies.class_means import ClassMeanSharing


class FedProto(ClassMeanSharing):
    """Average the prototypes of each class over the clients that have it (Eq. 6).

    A class that no client of a round has keeps its prototype.

    Args:
        weighting: "samples" weights by records of the class; "uniform" counts clients alike.
    """

    payload_kind = "fed_proto"

    def __init__(self, weighting: Literal["samples", "uniform"] = "samples") -> None:
        self.weighting: Literal["samples", "uniform"] = weighting
        self.prototypes: ClassMeans | None = None

    def setup(self, server: Server) -> None:
        """Refuse a model whose head is not one linear layer: its inputs are the vectors."""
        super().setup(server)
        with torch.random.fork_rng(devices=[]):  # What a model draws is not missed elsewhere.
            self._size = head_of(server.new_model()).in_features

    @property
    def size(self) -> int:
        """Numbers that the model's head sees of a record."""
        return self._size

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The prototypes."""
        return self.message(config, self.prototypes)

    def take(self, received: Sequence[tuple[int, ClassMeans]]) -> None:
        """Set the prototypes of the classes that this round's clients have."""
        found = averaged_means([means for _, means in received], self.weighting)
        if self.prototypes is not None:
            old, known = self.prototypes, found.known
            found = ClassMeans(
                np.where(known[:, None], found.means, old.means),
                np.where(known, found.counts, old.counts),
            )
        self.prototypes = found

    def state_dict(self) -> dict[str, Any]:
        """The prototypes."""
        if self.prototypes is None:
            return {}
        return {"means": self.prototypes.means, "counts": self.prototypes.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.prototypes = ClassMeans(state["means"], state["counts"]) if state else None
