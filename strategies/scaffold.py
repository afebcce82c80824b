"""SCAFFOLD's server: a mean of models, and the mean of the clients' control variates.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020),
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import PositiveFloat

from fedsim import InputError
from fedsim.clients.scaffold import CONTROL, PREFIX
from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import add_scaled, tensor_record, tensors


class Scaffold(FedAvg):
    """Average models, every client counting once, and tell clients where all of them would go.

    x <- x + learning_rate * mean of (y_i - x), and c <- c + (sum of the changes of c_i) / N, both
    over the clients that joined; N are all clients (Eq. 5).

    Args:
        learning_rate: of the server, eta_g.
    """

    payload_kind = "control_variates"
    linear = False
    changes = (CONTROL,)

    def __init__(self, learning_rate: PositiveFloat = 1.0) -> None:
        super().__init__(weighting="uniform")
        self.learning_rate = learning_rate
        self._control: Arrays = {}

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The global arrays, and the server's control variate beside them."""
        content = super().content(server_round, arrays, config)
        content[CONTROL] = tensor_record(
            {
                PREFIX + name: np.asarray(self._control.get(name, np.zeros_like(value)), np.float32)
                for name, value in tensors(arrays).items()
                if value.dtype.kind == "f"
            }
        )
        return content

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The global model after a step towards the mean; the control variate follows, too."""
        changes: Arrays = {}

        def each() -> Iterator[Message]:
            for reply in replies:
                for name, change in _changes(reply).items():
                    add_scaled(changes, name, change, 1 / len(self.server.names))
                yield reply

        averaged, metrics = super().aggregate_train(server_round, each())
        followed = {n: self._control.get(n, 0.0) + change for n, change in changes.items()}
        self._control |= followed
        return averaged, metrics

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The step towards the clients' mean, float64."""
        mean = super().combine(received)
        if self.learning_rate == 1:
            return mean
        assert self._global is not None
        sent = tensors(self._global)
        return {n: sent[n] + self.learning_rate * (value - sent[n]) for n, value in mean.items()}

    def state_dict(self) -> dict[str, Any]:
        """The control variate c, float64 by the names of the arrays."""
        return {"control": dict(self._control)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the control variate."""
        self._control = dict(state["control"])


def _changes(reply: Message) -> Arrays:
    """What a client changed in its control variate, by the parameters' names."""
    if CONTROL not in reply.content.array_records:
        raise InputError(
            "strategy scaffold needs the clients' control variates, and they send none",
            hint="type client=scaffold (client=scaffold_segmentation for volumes), or "
            "strategy=fedavg",
        )
    found = tensors(reply.content.array_records[CONTROL])
    return {name.removeprefix(PREFIX): value for name, value in found.items()}
