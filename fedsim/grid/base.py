"""What all of fedsim's grids share: nodes, contexts, metering, and who is asked for too often."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.engine.checkpoint import Checkpoints
from fedsim.errors import ClientError, InputError, RunError
from fedsim.grid.worker import Job, Spent
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.exchanges import TRAIN, kind_of, trains
from fedsim.method.faults import Failure, Kind, Simulated
from fedsim.randomness import Streams
from fedsim.scenario.schema import Faults
from fedsim.wire import flower
from fedsim.wire.buffers import Buffers

# A strategy that waits for nodes asks again and again; nobody will ever come.
_PATIENCE = 50


class BaseGrid(Grid):
    """A Flower grid over the clients of one job.

    Replies are handed on in the order of the messages, and the messages of a round go out in client
    order, so that sums over replies have the same bits however the clients were scheduled.

    Attributes:
        round, exchange: the current round, and the number of the exchange in it, from 0; the loop
            sets them.
        payload: what is done to models in messages.
        buffers: what goes past the strategy, and is added to its messages; the loop sets it.
        contexts: node id -> the client's `Context`, owned here.
        peak_rss_mb: peak memory of each worker process seen so far.
        estimated_seconds: per client, what full answers would have taken (for trials).
        replies: where each reply is stored on arrival, and taken from on resume; None: nowhere.
        failures: messages of the current round without a usable reply.
        charged: in a private run, the clients that may still be asked to train in this exchange;
            else None. What was not charged is not asked.
        in_flight: the clients that are at work.
        delays: exchange of the current round -> seconds of simulated delay of each client that
            answered in it.
    """

    def __init__(self, job: Job, ledger: TrafficLedger, tick: Callable[[], None] | None) -> None:
        self.job, self._ledger, self._tick = job, ledger, tick
        self.buffers = Buffers(job.roles)
        self.payload = job.payload
        self.replies: Checkpoints | None = None
        self.failures: list[Failure] = []
        self.charged: set[int] | None = None
        self.delays: dict[int, dict[int, float]] = {}
        # A trial measures what a round costs when all goes well.
        real = job.step_limit is None
        self._faults = job.scenario.faults if real else Faults()
        self._simulated = Simulated(self._faults, Streams(job.seed))
        self.round, self.exchange = 0, 0
        self.in_flight: set[int] = set()
        self.peak_rss_mb: dict[str, float] = {}
        self.estimated_seconds: dict[int, float] = {}
        flower.configure_identity()
        self._run = flower.empty_run()
        self._sent = 0
        self._phase = ""
        self._asked = 0
        self._box: dict[str, Message] = {}
        count = len(job.train)
        self._client_of = {flower.node_id(client): client for client in range(count)}
        self.contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": client, "num-partitions": count},
                state=RecordDict(),
                run_config={},
            )
            for node, client in self._client_of.items()
        }

    @abstractmethod
    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        """Run the clients; yield replies, or failures, in the order of `messages`."""

    def begin_round(self, number: int) -> None:
        """Forget the failures of the round before."""
        self.round = number
        self.failures.clear()
        self.delays.clear()
        self.begin_exchange(0)

    def begin_exchange(self, number: int) -> None:
        """Count, draw and store for this exchange of the round; nobody is charged for it yet."""
        self.exchange = self._ledger.exchange_number = number
        if self.charged is not None:
            self.charged = set()

    def close(self) -> None:
        """Let go of what the grid holds."""

    def client_of(self, node: int) -> int:
        """The number of the client that a node id stands for."""
        return self._client_of[node]

    def client(self, message: Message) -> int:
        """The number of the client that a message goes to."""
        return self._client_of[message.metadata.dst_node_id]

    def share(self, other: BaseGrid) -> None:
        """Work for another grid: with its clients, at its place in the run."""
        self.contexts, self.replies = other.contexts, other.replies
        self.failures, self.in_flight = other.failures, other.in_flight
        self.peak_rss_mb, self.estimated_seconds = other.peak_rss_mb, other.estimated_seconds
        self.round, self.exchange, self._phase = other.round, other.exchange, other._phase

    def _at_work_are(self, clients: set[int]) -> None:
        """Note, in the set that others share, who is at work."""
        self.in_flight.clear()
        self.in_flight.update(clients)

    def _records(self, message: Message) -> int:
        """Training records of the client that a message goes to."""
        return len(self.job.train[self.job.names[self.client(message)]])

    def _keep(
        self, message: Message, reply: Message, context: Context, spent: Spent, worker: str
    ) -> None:
        """Take in what a client's answer changed, as it arrives."""
        client = self.client(message)
        self.contexts[message.metadata.dst_node_id] = context
        self.peak_rss_mb[worker] = max(self.peak_rss_mb.get(worker, 0.0), spent.peak_rss_mb)
        before = self.estimated_seconds.get(client, 0.0)
        self.estimated_seconds[client] = before + spent.estimated_seconds
        if self.replies is not None and trains(message):
            self.replies.save_reply(self.round, client, reply.content, context.state, self.exchange)

    def _stored(self, message: Message) -> Message | None:
        """The reply to this message from before a resume, if there is one."""
        if self.replies is None or not trains(message):
            return None
        found = self.replies.reply(self.round, self.client(message), self.exchange)
        if found is None:
            return None
        content, self.contexts[message.metadata.dst_node_id].state = found
        return Message(content, reply_to=message)

    def groups(self, messages: Sequence[Message]) -> list[list[Message]]:
        """Whose messages are answered together, in the order of the messages.

        It depends on who is asked, and on nothing else.
        """
        mode = self.job.mode
        if not all(message.metadata.message_type == TRAIN for message in messages):
            return [[message] for message in messages]
        return list(mode.groups(messages, lambda m: self.job.names[self.client(m)]))

    def together(self, group: Sequence[Message]) -> bool:
        """Whether the clients of a group may train beside others in one process."""
        mode, message = self.job.mode, group[0]
        trained = message.metadata.message_type == TRAIN
        alone = self.job.names[self.client(message)] in mode.apart
        return bool(mode.together) and trained and not alone

    def states(self) -> dict[int, RecordDict]:
        """The clients' states by client number."""
        return {self._client_of[node]: context.state for node, context in self.contexts.items()}

    def load_states(self, states: dict[int, RecordDict]) -> None:
        """Give the clients their states back."""
        for node, context in self.contexts.items():
            context.state = states[self._client_of[node]]

    def failure(self, client: int, kind: Kind, reason: str, details: str = "") -> Failure:
        """What to note of a client without a usable reply.

        Raises:
            ClientError, RunError: the scenario stops at such failures.
        """
        site = self.job.names[client]
        if self._faults.on_client_error == "stop" and kind not in ("dropout", "late"):
            if kind == "error":
                raise ClientError(client, site, self.round, details)
            raise RunError(f"client {client} (site {site!r}) in round {self.round}: {reason}")
        return Failure(client, site, self._phase, kind, reason, details, self.exchange)

    def drops_out(self, client: int) -> bool:
        """Whether a client gets the messages of this exchange and never answers."""
        return self._simulated.drops_out(self.round, client, self.exchange)

    def delay(self, client: int) -> float:
        """Simulated seconds that a client's reply in this exchange comes late by."""
        return self._simulated.delay(self.round, client, self.exchange)

    def wait(self) -> float | None:
        """Seconds of simulated delay that a server would have waited for in the current round."""
        each = [self._simulated.wait(list(some.values())) for some in self.delays.values()]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if known else self._simulated.wait([])

    # --- Flower's Grid -------------------------------------------------------------------------

    def set_run(self, run: Any) -> None:
        """Set the run that the grid belongs to."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run that the grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node (Flower's older way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Node ids in client order."""
        self._asked += 1
        if self._asked > _PATIENCE:
            raise InputError(
                f"the strategy waits for more clients than the {len(self._client_of)} there are",
                hint="lower its min_available_nodes or min_train_nodes, or add clients",
            )
        return list(self._client_of)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and yield the replies in client order, each metered on both ways."""
        self._asked = 0
        states = {node: context.state for node, context in self.contexts.items()}
        whole = self.buffers.complete(sorted(messages, key=self.client), states)
        ordered = self.payload.sent(whole)
        for message in ordered:
            self._require_charged(message)
            self._sent += 1
            self._phase = kind_of(message)
            flower.stamp(message, f"m{self._sent}")
        asked = {self.client(message) for message in ordered}
        gone = {client for client in asked if self.drops_out(client)}
        here = [message for message in ordered if self.client(message) not in gone]
        stored = {self.client(message): self._stored(message) for message in here}
        fresh = self._execute([m for m in here if stored[self.client(m)] is None])
        with contextlib.closing(fresh):
            for message, plain in zip(ordered, whole, strict=True):
                client = self.client(message)
                if client in gone:
                    outcome: Message | Failure = self.failure(client, "dropout", "dropped out")
                else:
                    outcome = stored[client] or next(fresh)
                self._meter(message, outcome)
                outcome = self._decompressed(plain, outcome)
                outcome = self._delayed(message, outcome)
                if isinstance(outcome, Failure):
                    self.failures.append(outcome)
                else:
                    yield outcome
        self._ledger.forget_contents()

    def _require_charged(self, message: Message) -> None:
        """Refuse training that the privacy ledger was not told of, or that was asked for before."""
        if self.charged is None or not trains(message):
            return
        client = self.client(message)
        if client not in self.charged:
            raise RunError(
                f"the strategy asks client {client} to train in round {self.round}, exchange "
                f"{self.exchange}, although the privacy ledger was not charged for it: in a "
                "private run a client trains at most once an exchange, by a message that "
                "configure_train or an Exchange names"
            )
        self.charged.remove(client)

    def _meter(self, message: Message, outcome: Message | Failure) -> None:
        """Count a message and what came back: a reply, the report of an error, or nothing."""
        client = self.client(message)
        if isinstance(outcome, Failure):
            if outcome.kind != "error":
                self._ledger.unanswered(self.round, client, message)
                return
            outcome = flower.error_reply(message, outcome.reason)
        self._ledger.exchange(self.round, client, message, outcome)

    def _decompressed(self, message: Message, outcome: Message | Failure) -> Message | Failure:
        """The reply as it was before it was compressed, or the failure that it cannot be read."""
        if isinstance(outcome, Failure):
            return outcome
        try:
            return self.payload.arrived(message, outcome, self.round)
        except ValueError as error:
            reason = f"sent a compressed model that cannot be read: {error}"
            return self.failure(self.client(message), "error", reason, reason)

    def _delayed(self, message: Message, outcome: Message | Failure) -> Message | Failure:
        """The reply, or the failure that it came after the deadline."""
        if isinstance(outcome, Failure):
            return outcome
        client = self.client(message)
        delay = self.delay(client)
        self.delays.setdefault(self.exchange, {})[client] = delay
        if not self._simulated.too_late(delay):
            return outcome
        reason = f"answered {delay:.1f} s late, after the deadline of {self._faults.deadline} s"
        return self.failure(client, "late", reason)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients and keep their replies for `pull_messages`."""
        replies = list(self.send_and_receive(messages))
        self._box |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand over the replies kept for these message ids."""
        return [self._box.pop(i) for i in list(message_ids) if i in self._box]
