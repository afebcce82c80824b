"""The traffic ledger: every message counted once, in bytes on the wire and in payload bytes.

`bytes` is what Flower's SuperLink would account for the message (`fedsim.wire.flower.wire_bytes`),
with framing, and with equal arrays sent once. `fields` is the raw payload of each record, after the
codec: what the formulas of papers count. The difference is overhead (or, where arrays are equal by
value, a saving). MB is 10^6 bytes.

Where one process stands for two ends of a link, as in split learning, a reply's record `LINK` says
what would have crossed beside the two messages, and what of them would not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from flwr.app import ArrayRecord, Message, RecordDict

from fedsim.wire.flower import ContentSize, array_bytes, measure, wire_bytes

Direction = Literal["up", "down"]
"""Seen from the client: "up" is client to server, "down" is server to client."""


LINK = "link"
"""The record of a reply with the corrections of a link: "up/<field>" or "down/<field>" -> bytes,
above 0 for what crossed beside the messages, below 0 for what of them did not. The record itself is
not counted: it is the simulator's own."""


def fields(content: RecordDict) -> dict[str, int]:
    """Payload bytes of each record, by the record's name.

    Arrays count elements times item size, an array under several names once; numbers count 8
    bytes, booleans 1, strings their UTF-8 length, bytes their length; names count nothing.
    """
    return {
        name: array_bytes(record)
        if isinstance(record, ArrayRecord)
        else sum(_value_bytes(value) for value in record.values())
        for name, record in content.items()
        if name != LINK
    }


def _corrections(content: RecordDict, direction: Direction) -> dict[str, int]:
    """What `LINK` says of one direction, by field; {} where there is none.

    Raises:
        ValueError: it says something else than a number of bytes.
    """
    found: dict[str, int] = {}
    for name, count in content.config_records.get(LINK, {}).items():
        towards, _, field = name.partition("/")
        if towards not in ("up", "down") or not field or not isinstance(count, int):
            raise ValueError(f"A reply's {LINK!r} has {name!r}: {count!r}, no bytes of a field.")
        if towards == direction:
            found[field] = count
    return found


def _corrected(counted: dict[str, int], corrections: dict[str, int]) -> dict[str, int]:
    """The payload of each field, corrected."""
    names = [*counted, *(name for name in corrections if name not in counted)]
    return {name: counted.get(name, 0) + corrections.get(name, 0) for name in names}


def _value_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(_value_bytes(item) for item in value)
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    return 1 if isinstance(value, bool) else 8


class TrafficLedger:
    """Adds up what a run sends.

    Args:
        sink: is handed each row, a dict `round, exchange, client, direction, bytes, fields`, as it
            is made; None keeps the totals only.

    Attributes:
        exchange_number: of the exchange that messages are counted in, from 0; the grid sets it.
    """

    def __init__(self, sink: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._sink = sink
        self.exchange_number = 0
        self._rounds: dict[int, dict[Direction, int]] = {}
        self._sizes: dict[int, tuple[RecordDict, ContentSize]] = {}

    def add(
        self, round: int, client: int, direction: Direction, bytes: int, fields: dict[str, int]
    ) -> dict[str, Any]:
        """Count one message and return its row."""
        totals = self._rounds.setdefault(round, {"up": 0, "down": 0})
        totals[direction] += bytes
        row = {
            "round": round,
            "exchange": self.exchange_number,
            "client": client,
            "direction": direction,
            "bytes": bytes,
            "fields": fields,
        }
        if self._sink is not None:
            self._sink(row)
        return row

    def exchange(
        self, round: int, client: int, message: Message, reply: Message
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Count a message to a client and the reply (or the error) it led to: rows down and up.

        The small requests and acknowledgements around the two messages are counted in the row of
        the direction in which they travel.
        """
        sent = wire_bytes(message, self._size(message.content))
        content = reply.content if reply.has_content() else RecordDict()
        more: dict[Direction, dict[str, int]] = {
            "up": _corrections(content, "up"),
            "down": _corrections(content, "down"),
        }
        content.pop(LINK, None)
        received = wire_bytes(reply)
        bytes_down = sent.down + received.down + sum(more["down"].values())
        asked = _corrected(fields(message.content), more["down"])
        down = self.add(round, client, "down", bytes_down, asked)
        bytes_up = sent.up + received.up + sum(more["up"].values())
        up = self.add(round, client, "up", bytes_up, _corrected(fields(content), more["up"]))
        return down, up

    def unanswered(self, round: int, client: int, message: Message) -> dict[str, Any]:
        """Count a message to a client that never answered: one row, down.

        The requests with which the client fetched it travel up; they are left out, having no row.
        """
        sent = wire_bytes(message, self._size(message.content))
        return self.add(round, client, "down", sent.down, fields(message.content))

    def _size(self, content: RecordDict) -> ContentSize:
        """The size of a content, measured once however many clients it is sent to."""
        if id(content) not in self._sizes:
            # The content is kept so that nothing else can take its id.
            self._sizes[id(content)] = content, measure(content)
        return self._sizes[id(content)][1]

    def forget_contents(self) -> None:
        """Let go of the contents measured so far; call at the end of each broadcast."""
        self._sizes.clear()

    def round_megabytes(self, round: int) -> tuple[float, float]:
        """MB up and MB down of one round."""
        totals = self._rounds.get(round, {"up": 0, "down": 0})
        return totals["up"] / 1e6, totals["down"] / 1e6

    def total_megabytes(self) -> tuple[float, float]:
        """MB up and MB down of all rounds."""
        up = sum(totals["up"] for totals in self._rounds.values())
        down = sum(totals["down"] for totals in self._rounds.values())
        return up / 1e6, down / 1e6

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, ready for JSON: bytes up and down of each round."""
        return {"rounds": [[n, t["up"], t["down"]] for n, t in sorted(self._rounds.items())]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; what was counted before is dropped."""
        self._rounds = {n: {"up": up, "down": down} for n, up, down in state["rounds"]}
