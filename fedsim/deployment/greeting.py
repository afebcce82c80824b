"""What a node says of itself before the first round, and how a message says which round it is of.

Before the first round the server asks every node who it is: one message each way. After that, the
messages are those of a simulation, and what a simulator tells a client beside its message stands in
Flower's `group_id`: the numbers of round and exchange, "3.0".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

HELLO = f"{MessageType.QUERY}.hello"
"""The message type of the question."""

_RECORD = "node"
PROMISE = "fedsim.noise"
"""The record of a training message that holds the noise multiplier of a private run."""


@dataclass(frozen=True)
class Greeting:
    """Who a node is.

    Attributes:
        client: the number of the client that it is, from 0.
        source: "path" where its records are from a folder, "embedded" for the generated stand-in.
        records: training records.
        held_out: records that it evaluates on when it is asked to.
        units: in a private run, records or patients that it protects; else 0.
        most_records: training records of the patient who has most.
    """

    client: int
    source: str
    records: int
    held_out: int
    units: int
    most_records: int

    def content(self) -> RecordDict:
        """What travels."""
        return RecordDict({_RECORD: ConfigRecord(asdict(self))})

    @classmethod
    def of(cls, content: RecordDict) -> Greeting:
        """Take back what `content` gave; ValueError where it is something else."""
        found = dict(content.config_records.get(_RECORD, {}))
        kinds = {one.name: str if one.name == "source" else int for one in fields(cls)}
        wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
        if wrong or set(found) != set(kinds):
            raise ValueError("answered with something else than who it is")
        return cls(**found)  # type: ignore[arg-type]


def address(message: Message, round: int, exchange: int) -> Message:
    """Write into a message which exchange it is of, and return it."""
    message.metadata.group_id = f"{round}.{exchange}"
    return message


def addressed(message: Message) -> tuple[int, int]:
    """The round and the exchange that a message is of; ValueError where it does not say."""
    round, _, exchange = message.metadata.group_id.partition(".")
    return int(round), int(exchange)
