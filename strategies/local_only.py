"""Local-only training: no update travels, each client keeps its own model. The reference line."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim import Strategy
from fedsim.method import MetricMeans


class LocalOnly(Strategy):
    """Let every client train for itself; nothing is aggregated.

    Each client's model is scored on the test split of all, and the run's metrics are means over
    clients. The few bytes of traffic are the command to train and the reported loss.
    """

    local = True
    payload = "nothing"
    payload_kind = "own_model"
    linear = False

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The command to train; no model travels."""
        return RecordDict({"config": config})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: object
    ) -> Iterable[Message]:
        """Nobody: there is no global model to evaluate."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the clients' losses."""
        means = MetricMeans()
        for reply in replies:
            means.add(reply.content)
        return None, means.record()
