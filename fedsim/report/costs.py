"""What a result costs on the wire: megabytes until a score is reached, and seconds on a link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.tasks.metric import Metric


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
    rounds: Iterable[Mapping[str, Any]], metric: Metric | str, target: float
) -> float | None:
    """MB up and down, all rounds so far added up, when the metric was first as good as the target.

    Rounds that were not scored count their bytes only. None if the target was never reached.

    Args:
        rounds: lines of rounds.jsonl.
        metric: the metric on the test split; by its name alone, one of which more is better.
        target: an unscaled value of it.
    """
    one = Metric(metric, metric) if isinstance(metric, str) else metric
    aim = one.merit(target)
    for line in rounds:
        merit = one.merit(line["metrics"].get(one.name))
        if merit is not None and aim is not None and merit >= aim:
            return float(line["mb_up_total"] + line["mb_down_total"])
    return None
