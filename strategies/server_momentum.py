"""Server momentum: the mean update is a gradient for an optimiser of the server's own.

Reddi et al., "Adaptive Federated Optimization" (2021), FedOpt with SGD and momentum on the server;
Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification" (2019), FedAvgM. With ConDistFL's schedule of the server's learning rate (Wang et
al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import NonNegativeFloat, PositiveFloat

from fedsim.method import cosine
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import Codec, tensor_record, tensors


class ServerMomentum(FedAvg):
    """Move the global model along a running sum of the clients' mean updates.

    v <- momentum * v + mean update, and then model <- model + learning rate * v. Without momentum,
    at a learning rate of 1, this is FedAvg.

    Args:
        momentum: below 1; the sum reaches 1 / (1 - momentum) times an update that is always alike.
        learning_rate: of the first round; falls along half a cosine over the rounds.
        last_learning_rate: after the last round.
        codec, weighting: as of `FedAvg`.
    """

    def __init__(
        self,
        momentum: NonNegativeFloat = 0.6,
        learning_rate: PositiveFloat = 1.0,
        last_learning_rate: PositiveFloat = 0.9,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(codec, weighting)
        if momentum >= 1:
            raise ValueError(f"momentum must be below 1, not {momentum}.")
        self.momentum = momentum
        self.learning_rate = learning_rate
        self.last_learning_rate = last_learning_rate
        self._velocity: dict[str, np.ndarray] = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The global model after a step along the velocity."""
        averaged, metrics = super().aggregate_train(server_round, replies)
        assert averaged is not None
        assert self._global is not None
        rate = cosine(
            server_round - 1, self.server.rounds, self.learning_rate, self.last_learning_rate
        )
        sent, moved = tensors(self._global), {}
        for name, value in tensors(averaged).items():
            if value.dtype.kind not in "fc":
                moved[name] = value
                continue
            # In double precision difference and sum of two float32 weights undo each other.
            start = sent[name].astype(np.result_type(value.dtype, np.float64))
            velocity = value - start
            if self.momentum:
                velocity += self.momentum * self._velocity.get(name, 0.0)
                self._velocity[name] = velocity
            moved[name] = (start + rate * velocity).astype(value.dtype)
        return tensor_record(moved, copy=False), metrics

    def state_dict(self) -> dict[str, Any]:
        """The velocity, float64 by the names of the arrays; none without momentum."""
        return {"velocity": dict(self._velocity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the velocity."""
        self._velocity = dict(state["velocity"])
