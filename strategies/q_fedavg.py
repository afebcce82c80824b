"""q-FedAvg's server: clients whose loss is large count more, the more so the larger q is.

Li, T., Sanjabi, M., Beirami, A., Smith, V.: "Fair Resource Allocation in Federated Learning"
(2020), arXiv:1905.10497, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from flwr.app import Message
from pydantic import Field

from fedsim import InputError, RunError
from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import add_scaled, tensors

FLOOR = 1e-10
"""Added to losses, as in the authors' code: a power of 0 below 0 is infinite."""


@dataclass(frozen=True)
class Judged(Received):
    """A client's model, with the loss of the model that it was sent and its learning rate."""

    loss: float = 0.0
    rate: float = 1.0


class QFedAvg(FedAvg):
    """Minimise the mean of F_k^(q + 1) / (q + 1), F_k being the clients' losses.

    With L_k = 1 / rate_k, d_k = L_k (x - y_k), and F_k of the model x that was sent:
    x <- x - (sum of F_k^q d_k) / (sum of q F_k^(q - 1) |d_k|^2 + L_k F_k^q). The second sum is an
    upper bound of the curvature: it sets the step. With q = 0 this is `fedavg` with
    `weighting: uniform`.

    Args:
        q: how much large losses count, 0 to 20.
    """

    payload_kind = "loss_before_training"
    linear = False

    def __init__(self, q: Annotated[float, Field(ge=0, le=20)] = 1.0) -> None:
        super().__init__(weighting="uniform")
        self.q = q

    def received(self, reply: Message) -> Judged:
        """A client's model with its loss and its rate.

        Raises:
            InputError: the reply says no loss, or no rate above 0.
            RunError: the loss has no power: it is below 0, not finite, or too large.
        """
        found = super().received(reply)
        metrics = reply.content.metric_records["metrics"]
        loss, rate = (metrics.get(name) for name in ("loss-before", "rate"))
        if not isinstance(loss, int | float):
            raise InputError(
                "strategy q_fedavg needs of each client the loss of the model that it was sent, "
                f"and found {loss!r}",
                hint="type client=q_fedavg (client=q_fedavg_segmentation for volumes), or "
                "strategy=fedavg",
            )
        if not _has_power(loss, self.q):
            name = self.server.names[self.server.client_of(reply)]
            raise RunError(
                f"q-FedAvg takes powers of losses, at least 0, but that of site {name!r} is "
                f"{loss!r}, and q is {self.q:g}; its training diverged: try a smaller learning rate"
            )
        if not isinstance(rate, int | float) or not rate > 0:
            raise InputError(
                f"strategy q_fedavg needs of each client its learning rate, and found {rate!r}",
                hint="a rate of 0 has no step: raise client.last_learning_rate",
            )
        return Judged(found.weight, found.arrays, found.base, float(loss), float(rate))

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The global model after the step, float64."""
        assert self._global is not None
        sent, sums, total = tensors(self._global), Arrays(), 0.0
        for one in received:
            assert isinstance(one, Judged)
            loss, lipschitz, square = one.loss + FLOOR, 1 / one.rate, 0.0
            for name, change in one.changes(sent).items():
                add_scaled(sums, name, change, loss**self.q * lipschitz)
                square += float((change * change).sum()) * lipschitz**2
            total += self.q * loss ** (self.q - 1) * square + lipschitz * loss**self.q
        return {name: sent[name] + change / total for name, change in sums.items()}


def _has_power(loss: float, q: float) -> bool:
    """Whether a loss is at least 0, and its power a number."""
    if not loss >= 0:
        return False
    try:
        return math.isfinite((loss + FLOOR) ** q * (loss + FLOOR))
    except OverflowError:
        return False
