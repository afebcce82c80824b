"""What strategies share whose clients send a vector for each class, and no model.

`fed_proto` and `fed_distill` derive from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim import RunError, Strategy
from fedsim.method import MetricMeans
from fedsim.statistics import ClassMeans
from fedsim.wire import tensor_record, tensors

MEANS = "class_means"
"""The record of a message with a vector for each class."""


class ClassMeanSharing(Strategy):
    """Base: each client keeps its own model, and replies are vectors of classes."""

    local = True
    payload = "statistics"
    made_for = ("images", "features")
    linear = False

    @property
    def size(self) -> int:
        """Numbers of a vector, k."""
        return self.server.task.num_classes

    def take(self, received: Sequence[tuple[int, ClassMeans]]) -> None:
        """Keep what clients sent in a round.

        Args:
            received: the number of each client and its means, in client order; one at least.
        """
        raise NotImplementedError

    def message(self, config: ConfigRecord, means: ClassMeans | None) -> RecordDict:
        """What a client is sent: the settings and, once there are any, means of classes."""
        content = RecordDict({"config": config})
        if means is not None and means.known.any():
            # How many records stand behind a mean is nobody's business.
            told = ClassMeans(means.means, means.known.astype(float))
            content[MEANS] = tensor_record(told.arrays())
        return content

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The means of the clients' metrics; there is no model."""
        metrics, received = MetricMeans(), []
        for reply in replies:
            received.append((self.server.client_of(reply), self._read(reply)))
            metrics.add(reply.content)
        if received:
            self.take(received)
        return None, metrics.record()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Each client is asked for its own model's metrics; no model travels."""
        content = RecordDict({"config": config})
        return [Message(content, node, MessageType.EVALUATE) for node in grid.get_node_ids()]

    def _read(self, reply: Message) -> ClassMeans:
        """What a client sent, checked."""
        record = reply.content.array_records.get(MEANS)
        try:
            if record is None:
                raise ValueError(f"no record {MEANS}")
            return ClassMeans.read(tensors(record), self.server.task.num_classes, self.size)
        except ValueError as error:
            name = self.server.names[self.server.client_of(reply)]
            raise RunError(
                f"site {name!r} sent {error}; strategy {self.payload_kind} asks for what "
                f"client.name={self.payload_kind} sends"
            ) from error
