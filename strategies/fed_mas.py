"""The server's half of Fed-MAS: an average that is weighted by the clients' rescue factors.

Elbatel et al., "Federated Model Aggregation via Self-Supervised Priors for Highly Imbalanced
Medical Image Classification" (2023).
"""

from __future__ import annotations

import math

from flwr.app import Message

from fedsim import InputError
from fedsim.method import Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import Codec

_LEAST = 1e-30


class FedMAS(FedAvg):
    """Average the clients' models, weighted by the rescue factor that each reports (E5).

    The factor is a sum over classes of the distance to a frozen network before and during local
    training. How many images a client has does not count. Where all factors are 0, all count alike.

    Args:
        codec: how tensors travel, as in `fedavg`.
    """

    payload_kind = "rescue_factor"
    made_for = "images"
    linear = False
    weighted_by_key = "rescue-factor"  # By which the engine averages running statistics, too.

    def __init__(self, codec: Codec = "float32") -> None:
        super().__init__(codec)

    def received(self, reply: Message) -> Received:
        """A client's model with its factor.

        Raises:
            InputError: the reply has no factor.
            ValueError: it is negative or not finite.
        """
        found = super().received(reply)
        factor = reply.content.metric_records["metrics"].get("rescue-factor")
        if factor is None:
            raise InputError(
                "strategy fed_mas weights clients by their rescue factor, and they report none",
                hint="type client=fed_mas, or strategy=fedavg",
            )
        if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
            raise ValueError(
                f"A reply's metrics need a number rescue-factor, at least 0, but it is {factor!r}."
            )
        # A floor, so that factors of 0 alone are an average of equals.
        return Received(max(float(factor), _LEAST), found.arrays, found.base)
