"""Forgetting a client by fine-tuning on the others: two phases, one exchange a round.

A client that leaves asks that its records no longer show in the model. The plainest answer is to go
on training without it, and let the model drift away from what it had learned there (the "finetune"
baseline of unlearning papers). It proves nothing about what is left: measure that.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from pydantic import PositiveInt

from fedsim import Server
from fedsim.strategies.fedavg import FedAvg

FORGET = "forget"


class ForgetClient(FedAvg):
    """Federated averaging whose last rounds do without one client.

    Args:
        client: the name of the client that is forgotten.
        forget_rounds: how many of the last rounds do without it.
    """

    def __init__(self, client: str, forget_rounds: PositiveInt = 2) -> None:
        super().__init__()
        self.client = client
        self.forget_rounds = forget_rounds

    def check_clients(self, clients: int) -> None:
        """Somebody must be left to train."""
        if clients < 2:
            raise ValueError("client is the only one: nobody is left to fine-tune on")

    def setup(self, server: Server) -> None:
        """Find the client."""
        super().setup(server)
        if self.client not in server.names:
            raise ValueError(f"client {self.client!r} is none of {', '.join(server.names)}")
        if self.forget_rounds >= server.rounds:
            raise ValueError(
                f"forget_rounds leave none of {server.rounds} rounds to train with all"
            )

    def phase(self, server_round: int) -> str:
        """The last rounds forget."""
        forgets = server_round > self.server.rounds - self.forget_rounds
        return FORGET if forgets else super().phase(server_round)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The sampled clients; in the second phase, all the others where none is left of them."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if self.server.phase != FORGET:
            return messages
        nodes = list(grid.get_node_ids())
        leaves = nodes[self.server.names.index(self.client)]
        stay = [message for message in messages if message.metadata.dst_node_id != leaves]
        others = [node for node in nodes if node != leaves]
        return stay or [Message(messages[0].content, node, "train") for node in others]
