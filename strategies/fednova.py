"""FedNova's server: clients' changes are divided by the steps behind them before the mean is taken.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization"
(2020), Eq. 8 and 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message

from fedsim import InputError
from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import add_scaled, tensors


@dataclass(frozen=True)
class Normalised(Received):
    """A client's model, with its `reach`: how far a weight goes whose gradient is always 1."""

    reach: float = 1.0


class FedNova(FedAvg):
    """Average the clients' mean gradients, and go as far along them as clients went on average.

    x <- x + (sum of p_i r_i) * sum of p_i (y_i - x) / r_i, where r_i is a client's `reach`, its
    learning rate times |a_i|_1. With the same reach at all clients this is FedAvg.

    Args:
        weighting: p_i, as of `fedavg`.
    """

    payload_kind = "normalised_update"
    linear = False

    def __init__(self, weighting: Literal["samples", "uniform"] = "samples") -> None:
        super().__init__(weighting=weighting)

    def received(self, reply: Message) -> Normalised:
        """A client's model with its reach.

        Raises:
            InputError: the reply says no reach above 0.
        """
        found = super().received(reply)
        reach = reply.content.metric_records["metrics"].get("reach")
        if not isinstance(reach, int | float) or not reach > 0:
            raise InputError(
                f"strategy fednova needs of each client its reach, above 0, and found {reach!r}",
                hint="type client=fednova (client=fednova_segmentation for volumes), or "
                "strategy=fedavg",
            )
        return Normalised(found.weight, found.arrays, found.base, float(reach))

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The global model after the normalised step, float64."""
        assert self._global is not None
        sent, sums = tensors(self._global), Arrays()
        total = reach = 0.0
        for one in received:
            assert isinstance(one, Normalised)
            for name, change in one.changes(sent).items():
                add_scaled(sums, name, change, one.weight / one.reach)
            total += one.weight
            reach += one.weight * one.reach
        return {n: sent[n] + reach / total * (change / total) for n, change in sums.items()}
