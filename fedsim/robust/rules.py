"""The rules: each makes one set of arrays of what clients sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.method.received import Arrays, Computed, norm
from fedsim.robust.distances import Row, by_coordinate, cosine_distances, norms, squared_distances

Weights = NDArray[np.float64]


def mean(rows: Sequence[Row], weights: Weights) -> Arrays:
    """The weighted mean, float64; weights of 0 leave a client out, whatever it sent."""
    return _summed(rows, weights / weights.sum())


def _summed(rows: Sequence[Row], shares: Weights) -> Arrays:
    found: Arrays = {}
    for share, row in zip(shares, rows, strict=True):
        if share:
            for name, value in row.items():
                scaled = share * value.astype(np.float64)
                found[name] = found[name] + scaled if name in found else scaled
    return found


def krum_scores(distances: NDArray[np.float64], byzantine: int) -> NDArray[np.float64]:
    """Sums of squared distances to the n - f - 2 nearest others (Blanchard et al. 2017).

    Args:
        distances: squared, [n, n].
        byzantine: f, clients that may send anything.

    Raises:
        ValueError: there is no such neighbour.
    """
    near = len(distances) - byzantine - 2
    if near < 1:
        raise ValueError(
            f"byzantine: {byzantine} of {len(distances)} clients leave Krum no neighbour to "
            f"compare with: it needs at least {byzantine + 3} clients"
        )
    others = distances + np.diag(np.full(len(distances), np.inf))
    found: NDArray[np.float64] = np.sort(others, axis=1)[:, :near].sum(axis=1)
    return found


def copod(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outlier scores by empirical copulas (Li et al., "COPOD", 2020), as PyOD computes them.

    Args:
        features: [n, columns]; every row is compared with all rows.

    Returns:
        float64 [n]; the larger, the farther out.
    """
    count = len(features)
    below = (features[None] <= features[:, None]).sum(axis=1) / count
    above = (features[None] >= features[:, None]).sum(axis=1) / count
    left, right = -np.log(below), -np.log(above)
    centred = features - features.mean(axis=0)
    spread = np.square(centred).mean(axis=0)
    skew = np.divide(
        (centred**3).mean(axis=0), spread**1.5, out=np.zeros_like(spread), where=spread > 0
    )
    side = np.sign(skew)
    of_tail = -left * np.sign(side - 1) + right * np.sign(side + 1)
    found: NDArray[np.float64] = np.maximum(of_tail, (left + right) / 2).sum(axis=1)
    return found


@dataclass
class Rule(ABC):
    """What is made of what clients sent. Clients count alike unless a rule says otherwise.

    Attributes:
        of_changes: whether `combine` takes what clients changed, and not their models.
        shares: what each client counted in the last result, [clients], 1 in all, less where changes
            were shortened; of a rule that goes by coordinates, the mean over them. None before.
    """

    of_changes: ClassVar[bool] = False

    shares: Weights | None = field(default=None, init=False, compare=False)

    @classmethod
    def parameters(cls) -> list[str]:
        """The names of the parameters that the rule has."""
        return [one.name for one in fields(cls) if one.init]

    def require(self, clients: int) -> None:  # noqa: B027
        """Raise ValueError where the rule is undefined for so many clients."""

    def doubt(self, clients: int) -> str:
        """Why its proof does not cover so many clients, though it is defined; "" where it does."""
        return ""

    def certificate(self, clients: int, colluders: int) -> float | None:
        """How far colluders move the result of a round at most, as a norm; None: it has no bound.

        It is the distance to what the rule would give had they sent the middle that it clips
        around. Clients count alike.
        """
        return None

    @abstractmethod
    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """One set of arrays, float64.

        Args:
            rows: what each client sent, floating arrays of the same names and shapes; changes are
                computed each time that an array is asked for.
            weights: of a mean, [clients].
        """


@dataclass
class Median(Rule):
    """Coordinate-wise median (Yin et al. 2018)."""

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """The middle value of each coordinate, the mean of two."""
        counts = _Counts(len(rows))
        middle = (len(rows) - 1) // 2, len(rows) // 2

        def median(values: NDArray[np.float64]) -> NDArray[np.float64]:
            low, high = np.partition(values, middle, axis=0)[list(middle)]
            counts.add((values >= low) & (values <= high))
            return np.asarray((low + high) / 2)

        found = by_coordinate(rows, median)
        self.shares = counts.shares()
        return found


@dataclass
class TrimmedMean(Rule):
    """Coordinate-wise mean without the f largest and the f smallest values (Yin et al. 2018)."""

    byzantine: int = 1

    def require(self, clients: int) -> None:
        """See `Rule`."""
        if clients <= 2 * self.byzantine:
            raise ValueError(
                f"byzantine: without the {self.byzantine} largest and the {self.byzantine} "
                f"smallest of {clients} values none is left: it needs at least "
                f"{2 * self.byzantine + 1} clients"
            )

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """The mean of the values between."""
        self.require(len(rows))
        cut = slice(self.byzantine, len(rows) - self.byzantine)
        counts = _Counts(len(rows))

        def trimmed(values: NDArray[np.float64]) -> NDArray[np.float64]:
            between = np.sort(values, axis=0)[cut]
            counts.add((values >= between[0]) & (values <= between[-1]))
            return np.asarray(between.mean(axis=0))

        found = by_coordinate(rows, trimmed)
        self.shares = counts.shares()
        return found


@dataclass
class Krum(Rule):
    """The client whose neighbours are nearest, or the mean of several (Blanchard et al. 2017).

    Attributes:
        byzantine: f, clients that may send anything. The proof needs n >= 2 f + 3.
        chosen: clients of least score whose mean is taken; 1 is Krum, more is Multi-Krum.
    """

    byzantine: int = 1
    chosen: int = 1

    def require(self, clients: int) -> None:
        """See `Rule`."""
        krum_scores(np.zeros((clients, clients)), self.byzantine)
        if self.chosen > clients:
            raise ValueError(f"chosen: {self.chosen} of {clients} clients cannot be chosen")

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """Of equal scores the first clients are taken."""
        self.require(len(rows))
        scores = krum_scores(squared_distances(rows), self.byzantine)
        taken = np.zeros(len(rows))
        taken[np.argsort(scores, kind="stable")[: self.chosen]] = 1.0
        self.shares = taken / taken.sum()
        return mean(rows, taken)

    def doubt(self, clients: int) -> str:
        """n >= 2 f + 3 is the condition of the proof."""
        needed = 2 * self.byzantine + 3
        if clients >= needed:
            return ""
        return (
            f"Krum is proved for at least 2 f + 3 = {needed} clients, and there are {clients}: it "
            "runs without its guarantee, as in the experiments of DISBELIEVE (10 clients, f = 4)"
        )


@dataclass
class Bulyan(Rule):
    """Krum again and again, then a trimmed mean of those chosen (El Mhamdi et al. 2018).

    n - 2 f clients are chosen one by one; of each coordinate the n - 4 f values nearest to their
    median are averaged.

    Attributes:
        byzantine: f. The rule needs n >= 4 f + 3.
    """

    byzantine: int = 1

    def require(self, clients: int) -> None:
        """See `Rule`."""
        if clients < 4 * self.byzantine + 3:
            raise ValueError(
                f"byzantine: Bulyan needs at least {4 * self.byzantine + 3} clients for "
                f"{self.byzantine}, and there are {clients}"
            )

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """See the class."""
        self.require(len(rows))
        distances = squared_distances(rows)
        left = list(range(len(rows)))
        chosen: list[int] = []
        while len(chosen) < len(rows) - 2 * self.byzantine:
            near = max(1, len(left) - self.byzantine - 2)
            among = distances[np.ix_(left, left)]
            # The distance of a client to itself is the first.
            scores = np.sort(among, axis=1)[:, 1 : near + 1].sum(axis=1)
            # Two that are each other's nearest have one score: the one nearer to all is taken.
            chosen.append(left.pop(int(np.lexsort((among.sum(axis=1), scores))[0])))
        kept = len(chosen) - 2 * self.byzantine
        counts = _Counts(len(rows))

        def nearest_to_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
            far = np.abs(values - np.median(values, axis=0))
            nearest = np.argsort(far, axis=0, kind="stable")[:kept]
            counted = np.zeros((len(rows), values.shape[1]), np.bool_)
            np.put_along_axis(counted, np.array(sorted(chosen))[nearest], True, axis=0)
            counts.add(counted)
            return np.asarray(np.take_along_axis(values, nearest, axis=0).mean(axis=0))

        found = by_coordinate([rows[one] for one in sorted(chosen)], nearest_to_median)
        self.shares = counts.shares()
        return found


@dataclass
class GeometricMedian(Rule):
    """The point of least summed distance, smoothed (Pillutla et al., "RFA", 2022).

    Attributes:
        iterations: of Weiszfeld's algorithm. It begins at the coordinate-wise median, and not at
            the mean as the paper's: from there a few steps do not come back from a far client.
        smoothing: a client nearer than that counts no more than one at that distance.
    """

    iterations: int = 8
    smoothing: float = 1e-6

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """Weighted as a mean would be."""
        found = Median().combine(rows, weights)
        for _ in range(self.iterations):
            # One client's difference at a time is in memory.
            apart = np.array([norm({n: v - found[n] for n, v in row.items()}) for row in rows])
            counted = weights / np.maximum(self.smoothing, apart)
            self.shares = counted / counted.sum()
            found = mean(rows, counted)
        return found


@dataclass
class DOS(Rule):
    """Outlier scores of clients' distances as weights (Alkhunaizi et al. 2022, "SPAFD").

    The rows of the matrices of Euclidean and of cosine distances are scored by COPOD; weights are
    the softmax of the negative sum of both scores. No weight is 0: a client that sends a model far
    enough away moves the result, however small its weight.
    """

    def weights(self, rows: Sequence[Row]) -> Weights:
        """What each client counts, [clients], 1 in all."""
        euclidean = np.sqrt(squared_distances(rows))
        scores = copod(euclidean) + copod(cosine_distances(rows))
        shares = np.exp(scores.min() - scores)
        found: Weights = shares / shares.sum()
        return found

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """The mean by these weights."""
        self.shares = self.weights(rows)
        return mean(rows, self.shares)


@dataclass
class NormClipping(Rule):
    """The weighted mean of changes that are shortened to a norm (Sun et al. 2019).

    f colluders of n move the mean by at most f / n times the norm in a round, where clients count
    alike.

    Attributes:
        radius: the largest norm of a client's change.
    """

    of_changes = True

    radius: float = 1.0

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """Rows are changes."""
        found, self.shares = _clipped_mean(rows, weights, self.radius)
        return found

    def certificate(self, clients: int, colluders: int) -> float | None:
        """f C / n."""
        return colluders * self.radius / clients


@dataclass
class CentredClipping(Rule):
    """Changes are shortened around the aggregate of the round before (Karimireddy et al. 2021).

    Attributes:
        radius: the largest norm of what a client's change differs from the centre by.
        iterations: how often the centre is moved.
        centre: the aggregate of the round before; {} in the first.
    """

    of_changes = True

    radius: float = 1.0
    iterations: int = 1
    centre: Arrays = field(default_factory=dict, init=False)

    def combine(self, rows: Sequence[Row], weights: Weights) -> Arrays:
        """Rows are changes. The centre is kept for the next round."""
        centre = self.centre or {name: np.zeros(value.shape) for name, value in rows[0].items()}
        for _ in range(self.iterations):
            apart = [Computed(np.subtract, row, centre) for row in rows]
            step, self.shares = _clipped_mean(apart, weights, self.radius)
            centre = {name: value + step[name] for name, value in centre.items()}
        self.centre = centre
        return centre

    def certificate(self, clients: int, colluders: int) -> float | None:
        """f C / n around the centre; of several iterations none is given."""
        return colluders * self.radius / clients if self.iterations == 1 else None


RULES: dict[str, type[Rule]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "dos": DOS,
    "norm_clipping": NormClipping,
    "centred_clipping": CentredClipping,
}
"""Name in a scenario -> class."""


class _Counts:
    """In how many coordinates each client's value was taken, shared where several were."""

    def __init__(self, clients: int) -> None:
        self._sums, self._size = np.zeros(clients), 0

    def add(self, taken: NDArray[np.bool_]) -> None:
        """Which values were, [clients, ...]."""
        flat = taken.reshape(len(taken), -1)
        parts = 1.0 / flat.sum(axis=0)
        # One client at a time: the whole product would be a float64 copy of all.
        self._sums += [float(parts[of_client].sum()) for of_client in flat]
        self._size += flat.shape[1]

    def shares(self) -> Weights:
        """The mean over coordinates, [clients], 1 in all."""
        return self._sums / max(self._size, 1)


def _clipped_mean(rows: Sequence[Row], weights: Weights, radius: float) -> tuple[Arrays, Weights]:
    """The weighted mean of rows, each at most `radius` long; and what each counts in it."""
    lengths = norms(rows)
    factors = np.minimum(1.0, np.divide(radius, lengths, out=np.ones(len(rows)), where=lengths > 0))
    shares: Weights = weights / weights.sum() * factors
    return _summed(rows, shares), shares
