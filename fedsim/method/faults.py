"""Clients that fail, drop out or come late: how a run notes it, and what is only simulated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedsim.randomness import Streams
from fedsim.scenario.schema import Faults

Kind = Literal["error", "worker", "timeout", "diverged", "dropout", "late"]
"""What happened: the client raised; its worker process died twice; it took longer than
`faults.client_timeout`; it sent NaN or infinite values; it was drawn to drop out; it was drawn to
answer after `faults.deadline`."""


@dataclass(frozen=True)
class Failure:
    """A message that led to no usable reply.

    Attributes:
        client, site: who.
        phase: the kind of the exchange: "train", "evaluate", or the strategy's own.
        kind: what happened.
        reason: one line for a person.
        details: the client's own traceback, or "".
        exchange: number of the exchange in its round, from 0.
    """

    client: int
    site: str
    phase: str
    kind: Kind
    reason: str
    details: str = ""
    exchange: int = 0

    def row(self) -> dict[str, Any]:
        """The entry of a round's `failed` list."""
        return asdict(self)


class Simulated:
    """Dropouts and delays drawn for each client and exchange, from streams of their own."""

    def __init__(self, faults: Faults, streams: Streams) -> None:
        self._faults, self._streams = faults, streams

    def drops_out(self, round: int, client: int, exchange: int = 0) -> bool:
        """Whether the client gets the exchange's messages and never answers."""
        if not self._faults.dropout:
            return False
        draws = self._streams.numpy("dropout", round, client, exchange)
        return bool(draws.random() < self._faults.dropout)

    def delay(self, round: int, client: int, exchange: int = 0) -> float:
        """Seconds that the client's reply comes late by: exponential with mean `faults.delay`."""
        if not self._faults.delay:
            return 0.0
        draws = self._streams.numpy("delay", round, client, exchange)
        return float(draws.exponential(self._faults.delay))

    def too_late(self, delay: float) -> bool:
        """Whether a reply that late is no longer waited for."""
        return self._faults.deadline is not None and delay > self._faults.deadline

    def wait(self, delays: list[float]) -> float | None:
        """Seconds that a server would have waited for these delays; None if none are simulated."""
        if not self._faults.delay:
            return None
        longest = max(delays, default=0.0)
        return longest if self._faults.deadline is None else min(longest, self._faults.deadline)
