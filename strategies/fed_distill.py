"""Federated distillation's server: each client learns from the others' mean logits of each class.

Jeong, E., et al.: "Communication-Efficient On-Device Machine Learning: Federated Distillation and
Augmentation under Non-IID Private Data" (2018), arXiv:1811.11479, Algorithm 1. The client's half is
`clients/fed_distill.py`, the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from fedsim.statistics import ClassMeans, averaged_means
from fedsim.strategies.class_means import ClassMeanSharing


class FedDistill(ClassMeanSharing):
    """Send each client the mean over the others of what they last said of each class."""

    payload_kind = "fed_distill"

    def __init__(self) -> None:
        self.last: dict[int, ClassMeans] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """To each sampled client its own teacher."""
        config["server-round"] = server_round
        nodes = list(grid.get_node_ids())
        return [
            Message(self.message(config, self.teacher(client)), nodes[client], MessageType.TRAIN)
            for client in self.server.sample_clients()
        ]

    def teacher(self, client: int) -> ClassMeans | None:
        """The means of all clients but one; None where no other has sent any."""
        others = [means for other, means in sorted(self.last.items()) if other != client]
        return averaged_means(others, "uniform") if others else None

    def take(self, received: Sequence[tuple[int, ClassMeans]]) -> None:
        """Keep each client's last means."""
        self.last |= dict(received)

    def state_dict(self) -> dict[str, Any]:
        """The last means of each client."""
        return {str(c): [one.means, one.counts] for c, one in self.last.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.last = {int(c): ClassMeans(*values) for c, values in state.items()}
