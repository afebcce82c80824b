"""Exchanges: what a round is made of, and what of it outlives an interruption.

An exchange is messages to clients, and what becomes of their replies. A round has one, or as many
as `Strategy.next` makes; each has its own number, counted from 0 in its round. The number enters
every random stream, what is simulated of faults, the lines of traffic and privacy, and the keys of
noise, so that two exchanges of a round share none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.method.faults import Failure

if TYPE_CHECKING:
    from fedsim.grid.base import BaseGrid

TRAIN, EVALUATE = MessageType.TRAIN, MessageType.EVALUATE
# What stands before the names of scores: metrics of an exchange begin with its kind.
_TAKEN = ("external", "test", "val")
_FLOWERS = (TRAIN, EVALUATE, MessageType.QUERY)

WITHOUT_FORGOTTEN = "without-forgotten"
"""Key of a message's config: the client trains without the records that it is asked to forget."""
ANEW = "anew"
"""Key of a message's config: the client forgets first what its method kept of earlier rounds."""
PROXIMAL = "proximal-mu"
"""Key of a message's config: mu of the proximal term that the client adds to its loss, as Flower's
FedProx has it."""

Aggregated = tuple[ArrayRecord | None, MetricRecord | None]
"""The new global arrays, or None to keep the old ones; and numbers for the round's metrics."""

Aggregate = Callable[[Iterable[Message]], Aggregated]


def kind_of(message: Message) -> str:
    """The kind of the exchange that a message is of."""
    category, _, action = message.metadata.message_type.partition(".")
    return action or category


def type_of(kind: str) -> str:
    """Flower's message type for a kind: one of the author's own is a kind of training."""
    return kind if kind in _FLOWERS else f"{TRAIN}.{kind}"


def trains(message: Message) -> bool:
    """Whether the client may learn from its training records to answer: then it is charged."""
    return message.metadata.message_type.partition(".")[0] == TRAIN


@dataclass(frozen=True)
class Exchange:
    """Messages to clients, and what becomes of the replies; `RoundState.ask` makes most of them.

    Attributes:
        kind: "train", "evaluate", or a name of the author's own, such as "losses". A client method
            answers the latter by a method of that name or, without one, by `train` with
            `site.kind` telling it. In a private run all kinds but "evaluate" are charged.
        messages: what is sent, or a function that makes it. Of a kind of the author's own there may
            be none: the server's own work.
        aggregate: is handed the replies in client order, and must read all; returns the new global
            arrays (or None) and numbers for the round's metrics (or None).
    """

    kind: str
    messages: Iterable[Message] | Callable[[], Iterable[Message]]
    aggregate: Aggregate
    _methods: tuple[str, str] = field(default=("next", "aggregate"), repr=False)

    def __post_init__(self) -> None:
        if not self.kind.isidentifier() or self.kind.startswith("_"):
            raise ValueError(f"The kind of an exchange is a name, but it is {self.kind!r}.")
        if self.kind in _TAKEN:
            raise ValueError(
                f"The kind of an exchange cannot be {self.kind!r}: its metrics would have the "
                "names of scores. Choose another one."
            )

    def made(self) -> list[Message]:
        """The messages."""
        return list(self.messages() if callable(self.messages) else self.messages)

    @property
    def metric_prefix(self) -> str:
        """What stands before the names of metrics that the strategy reports of it."""
        return f"{self.kind}_"

    @property
    def client_prefix(self) -> str:
        """What stands before the names of metrics that its clients report."""
        return {TRAIN: "", EVALUATE: "val_"}.get(self.kind, f"{self.kind}_")


@dataclass(frozen=True)
class RoundState:
    """Where a run is when a strategy is asked for the next exchange.

    Attributes:
        round: number of the round, from 1.
        rounds: how many the scenario allows.
        exchange: number of the exchange to come, from 0.
        phase: what `Strategy.phase` says of the round.
        arrays: the global parameters now.
        clients: the sampled clients of the round, ascending.
        grid: the nodes, in client order.
        proximal: weight of the proximal term that clients are asked to add; 0: none.
    """

    round: int
    rounds: int
    exchange: int
    phase: str
    arrays: ArrayRecord
    clients: Sequence[int]
    grid: Grid
    proximal: float = 0.0

    def ask(
        self,
        kind: str,
        content: RecordDict,
        aggregate: Aggregate,
        clients: Sequence[int] | None = None,
    ) -> Exchange:
        """An exchange in which all clients are sent the same content.

        Args:
            kind: see `Exchange`.
            content: what is sent.
            aggregate: see `Exchange`.
            clients: whom to ask; the sampled clients of the round by default.
        """
        nodes = list(self.grid.get_node_ids())
        asked = self.clients if clients is None else clients
        messages = [Message(content, nodes[client], type_of(kind)) for client in asked]
        return Exchange(kind, messages, aggregate)


def training(strategy: FlowerStrategy, state: RoundState) -> Exchange:
    """The exchange that every Flower strategy has: `configure_train`, then `aggregate_train`."""
    config = ConfigRecord({PROXIMAL: state.proximal} if state.proximal else {})
    return Exchange(
        TRAIN,
        lambda: strategy.configure_train(state.round, state.arrays, config, state.grid),
        lambda replies: strategy.aggregate_train(state.round, replies),
        ("configure_train", "aggregate_train"),
    )


@dataclass
class RoundSoFar:
    """What a round that is going on has come to; a checkpoint between two exchanges holds it.

    Attributes:
        exchange: number of the exchange to come.
        kinds: of the exchanges that are done.
        clients: who was asked.
        by_client: client number as text -> what it reported.
        reported: what the strategy reported, by the name of a metric of the round.
        answered: usable replies.
        returned: whether the strategy returned arrays.
        seconds: that earlier processes spent on the round.
        attacks: what colluders did in each exchange, where they change what is sent.
        seen: what the server saw of each client in each exchange, where it is inspected.
        failures, delays: of the grid, see there; only where they are stored.
    """

    exchange: int = 0
    kinds: list[str] = field(default_factory=list)
    clients: list[int] = field(default_factory=list)
    by_client: dict[str, dict[str, Any]] = field(default_factory=dict)
    reported: dict[str, Any] = field(default_factory=dict)
    answered: int = 0
    returned: bool = False
    seconds: float = 0.0
    attacks: list[dict[str, Any]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    delays: dict[int, dict[int, float]] = field(default_factory=dict)

    def done(self, exchange: Exchange, clients: Sequence[int]) -> None:
        """Count an exchange that is over."""
        self.kinds.append(exchange.kind)
        asked = sorted(clients)
        self.clients = sorted({*self.clients, *asked}) if self.clients else asked
        self.exchange += 1

    def state_dict(self, grid: BaseGrid, seconds: float) -> dict[str, Any]:
        """What a checkpoint must hold; `seconds` were spent on the round so far."""
        noted = {"failures": [failure.row() for failure in grid.failures], "delays": grid.delays}
        return asdict(self) | noted | {"seconds": seconds}

    @classmethod
    def from_state(cls, state: dict[str, Any], grid: BaseGrid) -> RoundSoFar:
        """The round as `state_dict` gave it; the grid is given back what it had noted.

        Raises:
            TypeError: the state is of another form.
        """
        found = cls(**state)
        grid.failures[:] = [Failure(**row) for row in found.failures]
        grid.delays.update(found.delays)
        return found
