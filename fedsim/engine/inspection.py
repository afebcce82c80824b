"""What the server sees of each client in a round: an operator's view, and how well it tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedsim.errors import InputError
from fedsim.method.capabilities import capabilities
from fedsim.method.received import Arrays, Received
from fedsim.method.strategy import Strategy
from fedsim.privacy.plan import PrivacyPlan
from fedsim.scenario import Scenario
from fedsim.wire import flower

# Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): scores above 3.5 are outliers.
_OUTLYING = 3.5
_SIGMA = 0.6745  # of the median absolute deviation, in standard deviations of a Gaussian


def inspects(scenario: Scenario, strategy: FlowerStrategy, privacy: PrivacyPlan | None) -> bool:
    """Whether rounds are inspected: as the scenario says, else where there is something to see."""
    asked = scenario.evaluation.inspect
    if asked is not None:
        return asked
    if _server_sees_a_sum(privacy):
        return False
    # A strategy that says itself what replies count has a rule of its own.
    own = isinstance(strategy, Strategy) and type(strategy).counted is not Strategy.counted
    return scenario.adversary is not None or own


def require_inspectable(scenario: Scenario, privacy: PrivacyPlan | None) -> None:
    """Raise InputError where a claim takes for granted that the server sees no single update."""
    if scenario.evaluation.inspect and _server_sees_a_sum(privacy):
        assert privacy is not None
        why = "trust: secure_sum" if privacy.shares_noise else "unit: client"
        raise InputError(
            f"evaluation.inspect writes down what single clients sent, which privacy.{why} keeps "
            "from everybody",
            hint="type evaluation.inspect=false",
        )


def _server_sees_a_sum(privacy: PrivacyPlan | None) -> bool:
    return privacy is not None and (privacy.settings.unit == "client" or privacy.shares_noise)


@dataclass
class Tally:
    """How often clients were flagged, over rounds: honest ones and colluders.

    Attributes:
        honest, colluders: clients that were looked at, each in each exchange.
        honest_flagged, colluders_flagged: far from the aggregate, as told by distances alone.
        honest_left, colluders_left: left out by the rule; None where it does not say.
    """

    honest: int = 0
    colluders: int = 0
    honest_flagged: int = 0
    colluders_flagged: int = 0
    honest_left: int | None = None
    colluders_left: int | None = None

    def add(self, rows: Sequence[Mapping[str, Any]], colluders: Collection[int]) -> None:
        """Take in what was seen in a round."""
        for row in rows:
            guilty = np.isin(row["clients"], list(colluders))
            flagged = np.array(row["flagged"], np.bool_)
            self.colluders += int(guilty.sum())
            self.honest += int((~guilty).sum())
            self.colluders_flagged += int((guilty & flagged).sum())
            self.honest_flagged += int((~guilty & flagged).sum())
            if row["chosen"] is not None:
                left = ~np.array(row["chosen"], np.bool_)
                self.colluders_left = (self.colluders_left or 0) + int((guilty & left).sum())
                self.honest_left = (self.honest_left or 0) + int((~guilty & left).sum())

    def metrics(self) -> dict[str, float | None]:
        """Precision and recall of those flagged and of those left out, and honest ones left out."""
        if not self.colluders:
            return {}
        flagged = self.colluders_flagged + self.honest_flagged
        found = {
            "flagged_precision": _ratio(self.colluders_flagged, flagged),
            "flagged_recall": _ratio(self.colluders_flagged, self.colluders),
        }
        if self.colluders_left is None or self.honest_left is None:
            return found
        left = self.colluders_left + self.honest_left
        return found | {
            "left_out_precision": _ratio(self.colluders_left, left),
            "left_out_recall": _ratio(self.colluders_left, self.colluders),
            "honest_left_out": _ratio(self.honest_left, self.honest),
        }

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return asdict(self)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass
class Inspection:
    """Holds the replies of an exchange until there is an aggregate to compare them with.

    Args:
        strategy: says what a reply counts.
        wanted: whether anything is held.
    """

    strategy: FlowerStrategy
    wanted: bool
    _held: list[tuple[int, Received, Mapping[str, NDArray[Any]]]] = field(default_factory=list)

    def begin(self) -> None:
        """An exchange begins."""
        self._held = []

    def add(self, client: int, received: Received, sent: Mapping[str, NDArray[Any]]) -> None:
        """Hold a reply, and the model that the client was sent."""
        self._held.append((client, received, sent))

    def close(self, exchange: int, arrays: ArrayRecord | None) -> dict[str, Any] | None:
        """What is seen of each client, a column each; None where nothing was aggregated.

        Args:
            exchange: number of the exchange.
            arrays: what the strategy returned: the aggregate.
        """
        held, self._held = self._held, []
        if arrays is None or not held:
            return None
        aggregate = flower.tensors(arrays)
        seen = [_compared(received, sent, aggregate) for _, received, sent in held]
        distances = np.array([one[0] for one in seen])
        weights = self._weights([received for _, received, _ in held])
        plain = np.array([received.weight for _, received, _ in held])
        plain = plain / plain.sum() if plain.sum() else plain
        return {
            "exchange": exchange,
            "clients": [client for client, _, _ in held],
            "distance": [_short(one) for one in distances],
            "cosine": [None if one[1] is None else _short(one[1]) for one in seen],
            "weight": None if weights is None else [_short(one) for one in weights],
            "chosen": None if weights is None else (weights >= plain / 2).tolist(),
            "flagged": outlying(distances).tolist(),
        }

    def _weights(self, received: Sequence[Received]) -> NDArray[np.float64] | None:
        if not isinstance(self.strategy, Strategy):
            return None
        counted = self.strategy.counted()
        if counted is not None and len(counted) == len(received):
            return np.asarray(counted, np.float64)
        if not capabilities(self.strategy).linear:
            return None
        weights = np.array([one.weight for one in received], np.float64)
        return weights / weights.sum()


def outlying(distances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which distances are far above the others: modified z-scores above 3.5."""
    middle = np.median(distances)
    spread = np.median(np.abs(distances - middle))
    # Where half of all are alike, whatever is farther by more than rounding is an outlier.
    spread = max(float(spread), 1e-6 * float(middle))
    found: NDArray[np.bool_] = _SIGMA * (distances - middle) > _OUTLYING * spread
    return found


def decoded(strategy: FlowerStrategy, reply: Message, record: str) -> Received:
    """A reply's model or change; of Flower's own strategies, the model in the record."""
    if isinstance(strategy, Strategy):
        return strategy.received(reply)
    counts = [
        count
        for one in reply.content.metric_records.values()
        if isinstance(count := one.get("num-examples"), int | float)
    ]
    arrays = flower.tensors(reply.content.array_records[record])
    return Received(float(counts[0]) if counts else 1.0, arrays)


def _compared(
    received: Received, sent: Mapping[str, NDArray[Any]], aggregate: Arrays
) -> tuple[float, float | None]:
    """Euclidean distance of a client's model to the aggregate, and the cosine of their changes."""
    apart = own = common = whole = 0.0
    for name, value in received.changes(sent).items():
        if name not in aggregate:
            continue
        other = aggregate[name].astype(value.dtype) - sent[name]
        apart += float(np.square(np.abs(value - other)).sum())
        own += float(np.square(np.abs(value)).sum())
        whole += float(np.square(np.abs(other)).sum())
        common += float(np.vdot(value, other).real)
    cosine = common / np.sqrt(own * whole) if own and whole else None
    return float(np.sqrt(apart)), cosine


def _short(value: float) -> float:
    """Six digits are enough for a picture."""
    return float(f"{value:.6g}")
