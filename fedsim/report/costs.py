"""What a result costs on the wire: megabytes until a score is reached, and seconds on a link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """The link between each client and the server.

    Attributes:
        mbit_per_second: bandwidth of each client's link, in 10^6 bits a second, above 0.
        latency_ms: milliseconds that each message takes beside its bytes, at least 0.
    """

    mbit_per_second: float
    latency_ms: float = 0.0

    def seconds(self, size: int) -> float:
        """Time of one message of this many bytes."""
        return self.latency_ms / 1e3 + size * 8 / (self.mbit_per_second * 1e6)


def wire_seconds(traffic: Iterable[Mapping[str, Any]], link: Link) -> float:
    """Seconds that a run's messages take, computation not included.

    The clients of a round transfer at the same time, each over a link of its own, and the server's
    link is no bottleneck: a round takes as long as its slowest client takes for all its messages,
    down and up. Rounds follow each other.

    Args:
        traffic: lines of traffic.jsonl.
        link: the link of each client.
    """
    spent: dict[tuple[int, int], float] = {}
    for line in traffic:
        key = line["round"], line["client"]
        spent[key] = spent.get(key, 0.0) + link.seconds(line["bytes"])
    slowest: dict[int, float] = {}
    for (number, _), seconds in spent.items():
        slowest[number] = max(slowest.get(number, 0.0), seconds)
    return sum(slowest.values())


def megabytes_to_reach(
    rounds: Iterable[Mapping[str, Any]], metric: str, target: float
) -> float | None:
    """MB up and down, all rounds so far added up, when the metric was first at least the target.

    Rounds that were not scored count their bytes only. None if the target was never reached.

    Args:
        rounds: lines of rounds.jsonl.
        metric: name of the metric on the test split, such as "auc".
        target: between 0 and 1.
    """
    for line in rounds:
        value = line["metrics"].get(metric)
        if value is not None and value >= target:
            return float(line["mb_up_total"] + line["mb_down_total"])
    return None
