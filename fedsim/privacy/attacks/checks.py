"""Statistical tests of what a claim takes for granted: fresh noise, large enough, and fair samples.

Each takes what was seen and returns the probability of something at least as strange if all were
as claimed. The noise is Gaussian and its scale is claimed, so that the tests are exact, or count
on the safe side where that is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Steps of a training, at most, of which every two are compared.
_PAIRED = 300


@dataclass(frozen=True)
class Check:
    """One test of one thing that the claim takes for granted.

    Attributes:
        name: what was tested, such as "noise over steps".
        p_value: probability of what was seen, or of something stranger, if the claim's premises
            hold; 0 where it cannot happen at all.
        limit: the check fails below it.
        told: what is wrong, where the check fails.
    """

    name: str
    p_value: float
    limit: float
    told: str

    @property
    def failed(self) -> bool:
        """Whether a premise of the claim does not hold."""
        return self.p_value < self.limit


def quiet_p_value(values: Floats, scale: float) -> float:
    """Of noise [...] at most as loud as this, if its standard deviation were `scale`.

    Chi-square, lower tail: the noise may be louder than claimed.
    """
    from scipy.special import gammainc

    energy = float(np.square(values / scale).sum())
    return float(gammainc(values.size / 2, energy / 2))


def quietest_p_value(values: Floats, scale: float) -> float:
    """The same of the quietest column of noise [k, d], as one of d."""
    from scipy.special import gammainc

    energies = np.square(values / scale).sum(0)
    return min(1.0, values.shape[1] * float(gammainc(len(values) / 2, energies.min() / 2)))


def repeated_p_value(rows: Floats) -> float:
    """Of two rows of noise [k, d] at least as alike, or opposed, as the most alike ones.

    The squared cosine of two independent ones is Beta(1/2, (d - 1)/2). Rows that are all zero are
    like no other.
    """
    from scipy.special import betaincc

    count, width = rows.shape
    if count < 2 or width < 2:
        return 1.0
    cosines = _unit(rows) @ _unit(rows).T
    np.fill_diagonal(cosines, 0.0)
    largest = min(1.0, float(np.square(cosines).max()))
    pairs = count * (count - 1) / 2
    return min(1.0, pairs * float(betaincc(0.5, (width - 1) / 2, largest)))


def lagged_p_value(rows: Floats, lag: int) -> float:
    """Of noise [k, d] that follows, or opposes, the rows `lag` before it as much in the mean.

    Finds what is too weak to show in any two rows. Normal approximation of the sum of k - lag
    uncorrelated cosines; each of them is near to normal for d above 30.
    """
    from scipy.special import ndtr

    count, width = rows.shape
    if not 0 < lag < count:
        return 1.0
    unit = _unit(rows)
    total = float((unit[lag:] * unit[:-lag]).sum())
    return min(1.0, 2 * float(ndtr(-abs(total) * math.sqrt(width / (count - lag)))))


def sampled_p_values(
    joined: NDArray[np.bool_], rate: float, lags: Iterable[int]
) -> dict[str, float]:
    """Of samples [T, n] that are as far from Poisson samples at this rate, 0 < rate < 1.

    Returns:
        What was tested -> p-value, corrected for what it looks at. "size": more units join than
        the rate allows. "unit": one of them joins more often. "fixed": sizes vary too little.
        "overlap": samples share too many units, or too few, with those `lags` before, or with any
        other.
    """
    from scipy.special import bdtr, bdtrc, gammaln, xlog1py, xlogy

    steps, units = joined.shape
    counts = joined.sum(1)
    found = {
        "size": float(bdtrc(counts.sum() - 1, steps * units, rate)),
        "unit": min(1.0, units * float(bdtrc(joined.sum(0).max() - 1, steps, rate))),
    }

    def both(shared: ArrayLike, size: ArrayLike) -> tuple[float, float]:
        """p-values of the largest and of the smallest overlap, of one pair."""
        shared = np.asarray(shared, dtype=float)
        above, below = bdtrc(shared - 1, size, rate), bdtr(shared, size, rate)
        return float(np.min(above)), float(np.min(below))

    # The number of steps of one and the same size, whichever size that is.
    commonest = int(np.bincount(counts).max())
    size = np.arange(units + 1)
    ways = gammaln(units + 1) - gammaln(size + 1) - gammaln(units - size + 1)
    chances = np.exp(ways + xlogy(size, rate) + xlog1py(units - size, -rate))
    found["fixed"] = min(1.0, float(bdtrc(commonest - 1, steps, chances).sum()))

    picked = np.unique(np.linspace(0, steps - 1, min(steps, _PAIRED)).astype(int))
    some = joined[picked].astype(np.float32)
    first, second = np.triu_indices(len(picked), 1)
    tails = [1.0]
    if len(first):
        overlaps = (some @ some.T)[first, second]
        tails += [len(first) * p for p in both(overlaps, counts[picked][first])]
    # Disjoint pairs of samples are independent: given the first ones, their overlaps add up.
    tested = sorted({lag for lag in lags if 0 < lag < steps})
    for lag in tested:
        starts = np.array([s for s in range(steps - lag) if s % (2 * lag) < lag])
        shared = (joined[starts] & joined[starts + lag]).sum()
        tails += [len(tested) * p for p in both(shared, counts[starts].sum())]
    # Two tails, and two ways to look.
    found["overlap"] = min(1.0, 4 * min(tails))
    return found


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))
