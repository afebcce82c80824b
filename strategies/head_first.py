"""The last layer from statistics first, then rounds of averaging from there.

In the first round clients send sums of what the model's head sees (`feature_gram`), and the server
solves for the head by ridge regression. In the rounds after it clients train whatever
`model.trainable` or `model.adapter` names, and the server averages: a head on frozen features goes
on, or adapters begin beside a head that fits the features already. The client's half is
`clients/head_first.py`, the method card `docs/methods/features.md`.
"""

from __future__ import annotations

from typing import Literal

from flwr.app import ConfigRecord
from pydantic import NonNegativeFloat

from fedsim import Exchange, RoundState, Server
from fedsim.statistics import Precision
from fedsim.strategies.feature_statistics import FeatureGram
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import Codec


class HeadFirst(FedAvg):
    """One round of `feature_gram`, then federated averaging.

    Args:
        codec, weighting: of the averaging, as of `fedavg`.
        sums: how the sums of the first round travel, the codec of `feature_gram`.
        penalty, balance: as of `feature_gram`.
    """

    linear = False
    made_for = ("images", "features")

    def __init__(
        self,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "samples",
        sums: Precision = "float32",
        penalty: NonNegativeFloat | None = None,
        balance: bool = True,
    ) -> None:
        super().__init__(codec, weighting)
        self.sums = sums
        self.penalty = penalty
        self.balance = balance
        self._first = FeatureGram(sums, penalty, balance)
        self._first.sender = "head_first"

    def setup(self, server: Server) -> None:
        """Refuse a model whose head is not one linear layer."""
        super().setup(server)
        self._first.setup(server)

    def phase(self, server_round: int) -> str:
        """What the first round does, and the others."""
        return "statistics" if server_round == 1 else super().phase(server_round)

    def next(self, state: RoundState) -> Exchange | None:
        """Statistics in the first round, training in the others."""
        if state.round > 1 or state.exchange:
            return super().next(state)
        self._first.begin(state.arrays)
        asked = self._first.content(state.round, state.arrays, ConfigRecord())
        return state.ask(
            "statistics",
            asked,
            lambda replies: self._first.aggregate_train(state.round, replies),
        )
