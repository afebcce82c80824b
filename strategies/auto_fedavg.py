"""Auto-FedAvg: the weights of clients are learned on their validation records.

Xia, Y., Yang, D., Li, W., Myronenko, A., Xu, D., Obinata, H., et al.: "Auto-FedAvg: Learnable
federated averaging for multi-institutional medical image segmentation" (2021), arXiv:2104.10195.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from fedsim.method import Aggregated, MetricMeans
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import add_scaled, tensor_record, tensors


def softmax(beta: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that are positive and add up to 1."""
    shifted = np.exp(np.asarray(beta, dtype=np.float64) - np.max(beta))
    return np.asarray(shifted / shifted.sum())


def slope(weights: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gradient of a loss at sum(a_k w_k) by beta, where a = softmax(beta).

    Args:
        weights: a, [clients].
        products: inner products of the loss's gradient with each client's model w_k, [clients].
    """
    return np.asarray(weights * (products - weights @ products))


class AutoFedAvg(FedAvg):
    """Average models with weights softmax(beta); after each average, beta descends.

    A round has one exchange of training, and `steps` in which clients answer to the average with
    the gradient of their validation loss. What they train and what weights them alternates so.
    Running statistics are averaged by the number of records.

    Args:
        steps: descents of beta in a round.
        learning_rate: of beta.
    """

    made_for = "volumes"
    linear = False

    def __init__(self, steps: PositiveInt = 1, learning_rate: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.steps, self.learning_rate = steps, learning_rate
        self._beta: dict[int, float] = {}
        self._models: dict[int, ArrayRecord] = {}

    def next(self, state: Any) -> Any:
        """Training, then validation of the average."""
        if state.exchange == 0:
            return super().next(state)
        if state.exchange > self.steps:
            return None
        config = ConfigRecord({"server-round": state.round})
        content = RecordDict({"arrays": state.arrays, "config": config})
        return state.ask("validate", content, self._descend)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The average with the weights so far; the models are kept for those to come."""
        means = MetricMeans()
        self._models = {}
        for reply in replies:
            client = self.server.client_of(reply)
            self._models[client] = reply.content.array_records["arrays"]
            means.add(reply.content)
        return self._average(), means.record()

    def _average(self) -> ArrayRecord | None:
        """The models with their weights."""
        if not self._models:
            return None
        sums: dict[str, Any] = {}
        weights = softmax([self._beta.get(client, 0.0) for client in self._models])
        kept: dict[str, Any] = {}
        for weight, record in zip(weights, self._models.values(), strict=True):
            for name, value in tensors(record).items():
                if value.dtype.kind == "f":
                    add_scaled(sums, name, value, float(weight))
        if self._global is not None:
            sent = tensors(self._global)
            kept = {name: value for name, value in sent.items() if value.dtype.kind != "f"}
        return tensor_record({n: v.astype(np.float32) for n, v in sums.items()} | kept)

    def _descend(self, replies: Iterable[Message]) -> Aggregated:
        """Move beta against the clients' mean gradient, and average anew."""
        total: dict[str, Any] = {}
        means, count = MetricMeans(), 0
        for reply in replies:
            if "gradient" not in reply.content.array_records:
                raise ValueError("a client sent no gradient: type client.name=split_segmentation")
            for name, value in tensors(reply.content.array_records["gradient"]).items():
                add_scaled(total, name, value, 1.0)
            means.add(reply.content)
            count += 1
        if not count or not self._models:
            return None, None
        clients = list(self._models)
        products = np.array(
            [
                sum(
                    float(np.vdot(total[name], value.astype(np.float64))) / count
                    for name, value in tensors(record).items()
                    if name in total
                )
                for record in self._models.values()
            ]
        )
        beta = np.array([self._beta.get(client, 0.0) for client in clients])
        beta -= self.learning_rate * slope(softmax(beta), products)
        self._beta |= dict(zip(clients, map(float, beta), strict=True))
        weights = dict(zip(clients, softmax(beta), strict=True))
        told = {f"weight_{self.server.names[c]}": float(w) for c, w in weights.items()}
        average = self._average()
        if self.server.exchange >= self.steps:
            self._models = {}
        return average, MetricRecord({**(means.record() or {}), **told})

    def state_dict(self) -> dict[str, Any]:
        """The weights, and within a round the models that they weight."""
        return {**super().state_dict(), "beta": dict(self._beta), "models": dict(self._models)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take both back."""
        super().load_state_dict(state)
        self._beta, self._models = dict(state["beta"]), dict(state["models"])
