"""FedDyn's server: the mean of models, less what the clients' losses still pull it by.

Acar et al., "Federated Learning Based on Dynamic Regularization" (2021), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import PositiveFloat

from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensors


class FedDyn(FedAvg):
    """Average models, every client counting once, and take off a running sum of their changes.

    h <- h - alpha * (sum of (y_i - x)) / N, and x <- mean of y_i - h / alpha, both over the clients
    that joined; N are all clients.

    Args:
        alpha: how strongly a client is held near the global model; clients are told.
    """

    payload_kind = "dynamic_regularisation"
    linear = False
    exact = (
        "the server's h and the gradients that clients keep are of the same models, and drift "
        "apart where these arrive rounded"
    )

    def __init__(self, alpha: PositiveFloat = 0.1) -> None:
        super().__init__(weighting="uniform")
        self.alpha = alpha
        self._h: Arrays = {}

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The global arrays, and alpha."""
        config["feddyn-alpha"] = self.alpha
        return super().content(server_round, arrays, config)

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The mean less h / alpha, float64."""
        assert self._global is not None
        joined = 0

        def each() -> Iterator[Received]:
            nonlocal joined
            for one in received:
                joined += 1
                yield one

        mean, sent = super().combine(each()), tensors(self._global)
        share = self.alpha * joined / len(self.server.names)
        self._h = {n: self._h.get(n, 0.0) - share * (y - sent[n]) for n, y in mean.items()}
        return {name: value - self._h[name] / self.alpha for name, value in mean.items()}

    def state_dict(self) -> dict[str, Any]:
        """h, float64 by the names of the arrays."""
        return {"h": dict(self._h)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back h."""
        self._h = dict(state["h"])
