"""FedBABU's server: bodies are averaged, and after the last round every client fine-tunes.

Oh et al. (2022), arXiv:2106.06042, Algorithm 1. The client's half is `clients/fed_babu.py`, the
method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedsim import Exchange, RoundState
from fedsim.method import MetricMeans
from fedsim.strategies.fedavg import FedAvg


class FedBABU(FedAvg):
    """Average what travels; after the last round all clients tune a model of their own.

    Until then the shared model is scored, once for each client.

    Args:
        codec, weighting: as of `fedavg`.
    """

    local = True
    payload_kind = "fed_babu"
    linear = False

    def next(self, state: RoundState) -> Exchange | None:
        """Training; in the last round also the fine-tuning, of all clients."""
        if state.round < state.rounds or state.exchange != 1:
            return super().next(state)
        return state.ask(
            "fine_tune",
            self.content(state.round, state.arrays, ConfigRecord()),
            self._tuned,
            range(len(self.server.names)),
        )

    @staticmethod
    def _tuned(replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the clients' losses; no model comes back."""
        means = MetricMeans()
        for reply in replies:
            means.add(reply.content)
        return None, means.record()
