"""Empirical lower bounds on epsilon: what the scores of an attack prove, at a given confidence.

A bound above the claimed epsilon contradicts the claim; a bound below it supports nothing. Every
bound has a cap, the value it would take without a single error of the attack: a claim above the
cap cannot be contradicted with so few trials, and the cap is part of the result.

Trying several attacks or settings and reporting the largest bound needs a smaller significance
for each: divide it by their number (Bonferroni), as `one_run` does for its own levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

ABSTENTION_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
"""Shares of the canaries that `one_run` guesses to be in, and as many to be out."""


@dataclass(frozen=True)
class LowerBound:
    """A lower bound on epsilon at the delta it was asked for.

    Attributes:
        epsilon: the bound, at least 0.
        confidence: the probability with which the bound holds, such as 0.95.
        cap: the bound of an attack without errors on as many trials; None: there is none.
        trials: the decisions of the attack that the bound rests on.
        errors: how many of them were wrong.
        indicative: `many_run` only: the bound if the mechanism were exactly Gaussian. Tighter,
            but of any other mechanism it only says that it is not Gaussian at less noise.
        indicative_cap: the cap of that.
    """

    epsilon: float
    confidence: float
    cap: float | None
    trials: int
    errors: int
    indicative: float | None = None
    indicative_cap: float | None = None

    @property
    def gaussian(self) -> LowerBound:
        """The bound on a mechanism that is claimed to be as private as a Gaussian one.

        Such a claim allows less at every pair of error rates than its epsilon at one delta does.
        """
        assert self.indicative is not None
        return replace(self, epsilon=self.indicative, cap=self.indicative_cap)

    def out_of_reach(self, claimed: float) -> bool:
        """Whether no result of as many trials could have contradicted the claim."""
        return self.cap is not None and claimed >= self.cap

    def contradicts(self, claimed: float) -> bool:
        """Whether a mechanism with this bound cannot have the claimed epsilon."""
        return self.epsilon > claimed


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of the Gaussian mechanism whose sensitivity is `mu` standard deviations of its noise.

    Balle & Wang (2018), Theorem 8.
    """
    from scipy.special import log_ndtr, ndtr

    tail = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
    return float(ndtr(mu / 2 - epsilon / mu)) - tail


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon at `delta` of the Gaussian mechanism of `gaussian_delta`.

    T releases of the full batch at noise multiplier sigma have mu = sqrt(T) / sigma.
    """
    from scipy.optimize import brentq

    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high))


def gaussian_difference(epsilon: float, delta: float) -> float:
    """The largest `mu` at which `gaussian_epsilon` is at most `epsilon`, 0 < delta < 1."""
    from scipy.optimize import brentq

    low = high = 1.0
    while gaussian_delta(epsilon, low) > delta:
        low /= 2
    while gaussian_delta(epsilon, high) <= delta:
        high *= 2
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, low, high, xtol=1e-14))


def clopper_pearson_upper(
    errors: ArrayLike, trials: int, significance: float
) -> NDArray[np.float64]:
    """Upper confidence limit of an error rate, for each number of errors.

    The true rate is above the limit with probability at most `significance`.
    """
    from scipy.special import betaincinv

    errors = np.asarray(errors)
    limits = betaincinv(errors + 1, np.maximum(trials - errors, 1), 1 - significance)
    return np.where(errors >= trials, 1.0, limits)


def epsilon_from_rates(
    false_positive: ArrayLike, false_negative: ArrayLike, delta: float
) -> NDArray[np.float64]:
    """The smallest epsilon at which a private mechanism allows these error rates of an attack.

    Kairouz, Oh & Viswanath (2015): FPR + e^epsilon FNR >= 1 - delta, and with the two swapped.
    """
    a, b = np.asarray(false_positive, dtype=float), np.asarray(false_negative, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = np.log(np.maximum(1 - delta - b, 0) / a)
        backward = np.log(np.maximum(1 - delta - a, 0) / b)
    return np.fmax(0.0, np.fmax(forward, backward))


def many_run_epsilon(
    false_positives: ArrayLike,
    negatives: int,
    false_negatives: ArrayLike,
    positives: int,
    delta: float,
    significance: float = 0.05,
) -> NDArray[np.float64]:
    """Lower bound on epsilon from counts of errors, each rate at half the significance.

    Args:
        false_positives: trials without the record that the attack flagged.
        negatives: all trials without the record.
        false_negatives: trials with the record that the attack missed.
        positives: all trials with the record.
        delta: the delta epsilon belongs to.
        significance: the probability with which the bound may be wrong.
    """
    return epsilon_from_rates(
        clopper_pearson_upper(false_positives, negatives, significance / 2),
        clopper_pearson_upper(false_negatives, positives, significance / 2),
        delta,
    )


def many_run_mu(
    false_positives: ArrayLike,
    negatives: int,
    false_negatives: ArrayLike,
    positives: int,
    significance: float = 0.05,
) -> NDArray[np.float64]:
    """Lower bound on `mu` of a Gaussian mechanism from counts of errors, as `many_run_epsilon`.

    Phi^-1(1 - FPR) - Phi^-1(FNR) (Nasr et al., 2023). Indicative where the mechanism is not known
    to be Gaussian.
    """
    from scipy.special import ndtri

    a = clopper_pearson_upper(false_positives, negatives, significance / 2)
    b = clopper_pearson_upper(false_negatives, positives, significance / 2)
    # A limit of 1 gives minus infinity: no bound.
    return np.fmax(0.0, ndtri(1 - a) - ndtri(b))


def many_run(
    without: ArrayLike, with_record: ArrayLike, delta: float, significance: float = 0.05
) -> LowerBound:
    """Bound epsilon by independent runs of a mechanism without and with one record.

    The threshold that decides is chosen on the first half of each side's scores and the bound
    computed on the second half, so that the choice costs no confidence.

    Args:
        without: [n] scores of the attack on runs without the record.
        with_record: [m] scores on runs with the record; larger where the attack sees it.
        delta: the delta epsilon belongs to.
        significance: the probability with which the bound may be wrong.

    Raises:
        ValueError: fewer than 4 scores on a side, or a NaN among them.
    """
    sides = [np.asarray(side, dtype=float) for side in (without, with_record)]
    if min(side.size for side in sides) < 4 or any(np.isnan(side).any() for side in sides):
        raise ValueError("A bound needs at least 4 scores of each side, and none may be NaN.")
    chosen_on = [np.sort(side[: side.size // 2]) for side in sides]
    tested_on = [np.sort(side[side.size // 2 :]) for side in sides]
    quantiles = np.linspace(0, 1, 801)
    thresholds = np.unique(np.quantile(np.concatenate(chosen_on), quantiles))

    def errors(
        halves: list[NDArray[np.float64]], at: ArrayLike
    ) -> tuple[NDArray, int, NDArray, int]:
        """A score at or above the threshold says "the record was there"."""
        null, alternative = halves
        flagged = null.size - np.searchsorted(null, at, "left")
        return flagged, null.size, np.searchsorted(alternative, at, "left"), alternative.size

    bounds = many_run_epsilon(*errors(chosen_on, thresholds), delta, significance)
    counted = errors(tested_on, thresholds[np.argmax(bounds)])
    mus = many_run_mu(*errors(chosen_on, thresholds), significance)
    mu = many_run_mu(*errors(tested_on, thresholds[np.argmax(mus)]), significance)
    negatives, positives = counted[1], counted[3]
    return LowerBound(
        epsilon=float(many_run_epsilon(*counted, delta, significance)),
        confidence=1 - significance,
        cap=many_run_cap(negatives, positives, delta, significance),
        trials=negatives + positives,
        errors=int(counted[0] + counted[2]),
        indicative=gaussian_epsilon(float(mu), delta),
        indicative_cap=gaussian_epsilon(
            float(many_run_mu(0, negatives, 0, positives, significance)), delta
        ),
    )


def many_run_cap(negatives: int, positives: int, delta: float, significance: float = 0.05) -> float:
    """The bound of `many_run_epsilon` without errors: about ln(n / 3.7) for n trials a side."""
    return float(many_run_epsilon(0, negatives, 0, positives, delta, significance))


def one_run_p_value(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Probability of at least so many correct guesses if training were (epsilon, delta)-private.

    Steinke, Nasr & Jagielski (2023), Theorem 5.2. Each of the canaries is in the training data
    with probability 1/2, independently, and the attack guesses for `guesses` of them.
    """
    from scipy.special import bdtrc, gammaln, xlog1py, xlogy

    rate = 1 / (1 + math.exp(-epsilon))
    p_value = float(bdtrc(correct - 1, guesses, rate))
    if delta > 0 and correct > 0:
        hits = np.arange(correct - 1, -1, -1)
        misses = guesses - hits
        ways = gammaln(guesses + 1) - gammaln(hits + 1) - gammaln(misses + 1)
        # P[correct > X >= correct - i] for i = 1 ... correct, X binomial (guesses, rate).
        below = np.cumsum(np.exp(ways + xlogy(hits, rate) + xlog1py(misses, -rate)))
        p_value += 2 * canaries * delta * float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, p_value)


def one_run_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, significance: float = 0.05
) -> float:
    """Lower bound on epsilon from one training run: the largest that the guesses contradict.

    Raises:
        ValueError: not 0 <= correct <= guesses <= canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"There cannot be {correct} correct ones among {guesses} guesses on {canaries} "
            "canaries."
        )

    def contradicted(epsilon: float) -> bool:
        return one_run_p_value(canaries, guesses, correct, epsilon, delta) < significance

    if not contradicted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while contradicted(high):
        low, high = high, high + 1
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if contradicted(middle) else (low, middle)
    return low


def one_run(
    scores: ArrayLike,
    included: ArrayLike,
    delta: float,
    significance: float = 0.05,
    levels: Sequence[float] = ABSTENTION_LEVELS,
) -> LowerBound:
    """Bound epsilon by one run with canaries that were included by independent fair coins.

    At each level the attack guesses "in" for that share of the canaries with the highest scores,
    "out" for as many with the lowest, and abstains on the rest. The largest of the levels' bounds
    holds, because each is tested at `significance` divided by their number.

    Args:
        scores: [m], larger where the attack believes that the canary was included.
        included: bool [m], the coins.
        delta: the delta epsilon belongs to.
        significance: the probability with which the bound may be wrong.
        levels: shares between 0 and 0.5.

    Raises:
        ValueError: shapes that differ, fewer than 2 canaries, or a NaN among the scores.
    """
    scores, coins = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    count = scores.size
    if scores.shape != coins.shape or count < 2 or np.isnan(scores).any():
        raise ValueError(
            "One run needs at least 2 canaries, each with one coin and one score that is not NaN."
        )
    # The order depends on the scores alone, and with it every guess.
    ranked = coins[np.argsort(-scores, kind="stable")]
    each = significance / len(levels)
    best: tuple[float, int, int] = (-1.0, 0, 0)
    cap = 0.0
    for level in levels:
        side = min(max(1, int(level * count)), count // 2)
        correct = int(ranked[:side].sum() + (~ranked[count - side :]).sum())
        bound = one_run_epsilon(count, 2 * side, correct, delta, each)
        best = max(best, (bound, 2 * side, 2 * side - correct), key=lambda found: found[0])
        cap = max(cap, one_run_epsilon(count, 2 * side, 2 * side, delta, each))
    return LowerBound(best[0], 1 - significance, cap, best[1], best[2])
