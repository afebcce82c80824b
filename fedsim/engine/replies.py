"""The replies of one exchange as a strategy reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from fedsim.engine.inspection import decoded
from fedsim.errors import FedsimError, RunError
from fedsim.method.exchanges import EVALUATE, TRAIN, Exchange
from fedsim.method.strategy import Strategy
from fedsim.observers.base import Reply
from fedsim.scenario.parameters import shown
from fedsim.wire import flower

if TYPE_CHECKING:
    from fedsim.engine.loop import Rounds


class NobodyAnsweredError(FedsimError):
    """A round without replies that the scenario lets pass."""


class Replies:
    """The replies of one exchange as a strategy reads them: checked, and noted who was heard."""

    def __init__(
        self,
        rounds: Rounds,
        replies: Iterable[Message],
        exchange: Exchange,
        sent: Mapping[int, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self._rounds, self._exchange, self._sent = rounds, exchange, sent
        self._evaluate = exchange.kind == EVALUATE
        self._trains = exchange.kind == TRAIN
        self._replies = self._checked(replies)
        self._examples: list[float] = []
        self.read = 0
        self.exhausted = False
        self.expected = True  # Whether there must be some.

    def __iter__(self) -> Iterator[Message]:
        return self._replies

    def _checked(self, replies: Iterable[Message]) -> Iterator[Message]:
        usable = self._usable(replies)
        if self._trains and self._sent is not None and self._rounds.colluders.forge:
            usable = self._rounds.colluders.between(usable, self._sent)
        for client, reply in usable:
            self._keep(client, reply)
            yield reply
        self._finish()

    def _usable(self, replies: Iterable[Message]) -> Iterator[tuple[int, Message]]:
        """Client and reply, of the replies that are numbers; the others are failures."""
        grid = self._rounds.grid
        for reply in replies:
            client = grid.client_of(reply.metadata.src_node_id)
            diverged = _diverged(reply, self._rounds.buffers.current)
            miscounted = "" if diverged else _miscounted(reply)
            self._tell(client, reply, diverged or miscounted)
            if diverged:
                grid.failures.append(grid.failure(client, "diverged", diverged))
                continue
            if miscounted:
                grid.failures.append(grid.failure(client, "error", miscounted, miscounted))
                continue
            self.read += 1
            self._note(client, reply)
            self._rounds.buffers.take(reply.content, trained=self._trains)
            yield client, reply

    def _finish(self) -> None:
        """All replies were read: refuse an exchange that there is nothing to aggregate of."""
        grid = self._rounds.grid
        self.exhausted = True
        self._require_weight()
        least = self._rounds.scenario.faults.min_clients
        if self.expected and not self._evaluate and self.read < max(least, 1):
            if least == 0:
                raise NobodyAnsweredError
            raise RunError(
                f"{self.read} client(s) answered in round {grid.round}, fewer than "
                f"faults.min_clients={least}:\n"
                + "\n".join(f"  client {f.client} ({f.site}): {f.reason}" for f in grid.failures)
            )

    def _tell(self, client: int, reply: Message, problem: str) -> None:
        """Let observers know of a reply as it came."""
        metrics: dict[str, Any] = {}
        for record in reply.content.metric_records.values():
            metrics |= record
        rounds, kind = self._rounds, self._exchange.kind
        name = rounds.server.names[client]
        rounds.observers.reply(
            Reply(
                rounds.grid.round,
                kind,
                client,
                name,
                metrics,
                problem,
                lambda: _values(reply.content),
            )
        )

    def _keep(self, client: int, reply: Message) -> None:
        """Put what the client changed into the history, and hold it for the inspection."""
        strategy, server = self._rounds.strategy, self._rounds.server
        inspection, record = self._rounds.inspection, self._rounds.buffers.roles.record
        if self._sent is None or not self._trains:
            return
        if server.history.keeps != "none" and isinstance(strategy, Strategy):
            received = strategy.received(reply)
            server.history.add(server.exchange, client, received, self._sent[client])
        # What is no model, there is nothing to compare of.
        if inspection.wanted and record in reply.content.array_records:
            inspection.add(client, decoded(strategy, reply, record), self._sent[client])

    def _require_weight(self) -> None:
        """Refuse a training round in which all clients say that they stand for no records."""
        weightless = self._examples and len(self._examples) == self.read and not any(self._examples)
        if weightless and self._exchange.kind == TRAIN:
            raise RunError(
                f"all {self.read} client(s) reported num-examples 0 in round "
                f"{self._rounds.grid.round}: there is nothing to average"
            )

    def _note(self, client: int, reply: Message) -> None:
        """Keep the metrics that a client reports."""
        prefix, by_client = self._exchange.client_prefix, self._rounds.so_far.by_client
        for record in reply.content.metric_records.values():
            if isinstance(count := record.get("num-examples"), int | float):
                self._examples.append(count)
            values = {f"{prefix}{name}": value for name, value in record.items()}
            by_client.setdefault(str(client), {}).update(values)


def not_finite(record: ArrayRecord, known: Mapping[str, np.ndarray] | None = None) -> str:
    """Which arrays hold NaN or infinite values; "" when none does.

    Args:
        record: the arrays.
        known: arrays that may be what they are (the mask of a model may be infinite), by name.
    """
    known = known or {}
    bad = [
        f"{name} ({int((~np.isfinite(values)).sum())} of {values.size} values)"
        for name, values in flower.tensors(record).items()
        if np.issubdtype(values.dtype, np.floating)
        and not np.isfinite(values).all()
        and not (name in known and np.array_equal(values, known[name], equal_nan=True))
    ]
    return f"NaN or infinite in {', '.join(bad[:5])}" if bad else ""


def _diverged(reply: Message, known: Mapping[str, np.ndarray]) -> str:
    """Why a reply's arrays are no numbers; "" if they are, or are buffers that were sent so."""
    for name, arrays in reply.content.array_records.items():
        if problem := not_finite(arrays, known):
            return (
                f"sent {name!r} that are no numbers: {problem}; its training diverged: try a "
                "smaller learning rate"
            )
    return ""


def _miscounted(reply: Message) -> str:
    """Why a reply's `num-examples` cannot be a number of records; "" if it can, or is not there."""
    for record in reply.content.metric_records.values():
        count = record.get("num-examples", 0)
        if not isinstance(count, int | float) or not 0 <= count < np.inf:
            return f"reported num-examples {shown(count)}: expected a finite number, at least 0"
    return ""


def _values(content: RecordDict) -> dict[str, np.ndarray]:
    """All values of a reply, by record and name."""
    found = {
        f"{record}/{name}": values
        for record, arrays in content.array_records.items()
        for name, values in flower.tensors(arrays).items()
    }
    for records in (content.metric_records, content.config_records):
        for record, some in records.items():
            found |= {f"{record}/{name}": np.asarray(value) for name, value in some.items()}
    return found
