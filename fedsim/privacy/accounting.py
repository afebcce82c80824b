"""Privacy accounting: what a history of noisy releases costs, as pure functions of numbers.

A release is one step of the Poisson-subsampled Gaussian mechanism: each unit (record or patient)
joins the sample with probability q, and the sum of the joint contributions, at most C in Euclidean
norm each, gets Gaussian noise of standard deviation sigma * C. sigma is the noise multiplier. A
history is a sequence of entries (sigma, q, steps), plain numbers that JSON keeps exactly; it has
no order, and splitting an entry changes nothing.

Epsilon is None where no finite epsilon holds: as soon as one release carried no noise. It is 0 for
a history without releases. q = 1 (full batch) is the Gaussian mechanism without amplification.

Adjacency is add-or-remove-one (`ADJACENCY`). Several Gaussians on *one* Poisson sample are one
release at `effective_noise_multiplier`; adding their separately amplified costs claims too little.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["record", "patient", "client"]
Accountant = Literal["rdp", "prv"]

ADJACENCY: dict[Unit, str] = {
    "record": "add or remove one record",
    "patient": "add or remove one patient with all of the patient's records",
    "client": "replace the update of one client by zero",
}
"""What two data sets that epsilon tells apart differ in, for each unit of privacy."""

ORDERS: tuple[float, ...] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *range(11, 64),
    *(64, 80, 96, 128, 192, 256, 384, 512),
)
"""The orders of Renyi divergences: Opacus', the 11 that they leave out, and larger ones, without
which no epsilon below 0.1 can be shown at delta 1e-5."""

# The grid of the numerical composition grows with epsilon; beyond this the value says "no privacy".
_LARGEST_PRV_EPSILON = 100.0


@dataclass(frozen=True, order=True)
class Entry:
    """`steps` releases at one noise multiplier and one sampling rate.

    Raises:
        ValueError: a noise multiplier that is negative or not finite, a sampling rate outside
            (0, 1], or a number of steps that is negative or not whole.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(
                f"The noise multiplier must be at least 0 and finite, not {self.noise_multiplier}."
            )
        if not 0 < self.sample_rate <= 1:
            raise ValueError(
                f"The sampling rate must be above 0 and at most 1, not {self.sample_rate}."
            )
        if self.steps < 0 or self.steps != int(self.steps):
            raise ValueError(f"Steps must be a whole number of at least 0, not {self.steps}.")


def merge(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Add up the steps of equal (noise multiplier, sampling rate), sorted, without empty entries.

    The same releases in another order or split differently give the same entries, and with them
    the same epsilon to the last digit.
    """
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        key = float(entry.noise_multiplier), float(entry.sample_rate)
        steps[key] = steps.get(key, 0) + int(entry.steps)
    return tuple(Entry(*key, count) for key, count in sorted(steps.items()) if count)


def to_state(entries: Iterable[Entry]) -> list[list[float]]:
    """A history as JSON keeps it: [[noise multiplier, sampling rate, steps], ...], merged."""
    return [[e.noise_multiplier, e.sample_rate, e.steps] for e in merge(entries)]


def from_state(state: Iterable[Sequence[Any]]) -> tuple[Entry, ...]:
    """The history that `to_state` wrote."""
    return merge(Entry(float(sigma), float(q), int(steps)) for sigma, q, steps in state)


def effective_noise_multiplier(*noise_multipliers: float) -> float:
    """The one noise multiplier that costs as much as several releases of one Poisson sample.

    (sum of sigma_i^-2)^(-1/2): the Gaussians are composed inside the sample, then amplified. 0 as
    soon as one of them is 0.

    Raises:
        ValueError: no multiplier, or a negative one.
    """
    if not noise_multipliers or min(noise_multipliers) < 0:
        raise ValueError(f"Noise multipliers must be at least 0, not {noise_multipliers}.")
    if min(noise_multipliers) == 0:
        return 0.0
    if len(noise_multipliers) == 1:
        return float(noise_multipliers[0])
    return sum(sigma**-2 for sigma in noise_multipliers) ** -0.5


def split_noise_multiplier(effective: float, ratio: float) -> tuple[float, float]:
    """Two noise multipliers (sigma, ratio * sigma) that together cost as much as `effective`.

    Rounded so that they never cost more: a budget met exactly stays met.

    Raises:
        ValueError: a ratio that is not above 0.
    """
    if not ratio > 0:
        raise ValueError(f"The ratio of two noise multipliers must be above 0, not {ratio}.")
    sigma = effective * math.sqrt(1 + ratio**-2)
    while effective_noise_multiplier(sigma, ratio * sigma) < effective:
        sigma = math.nextafter(sigma, math.inf)
    return sigma, ratio * sigma


def epsilon_rdp(entries: Iterable[Entry], delta: float) -> float | None:
    """Epsilon at `delta` by Renyi differential privacy: fast, an upper bound, for every line.

    Mironov, Talwar & Zhang (2019) for one release, added up order by order, converted by Theorem
    21 of Balle et al. (2020); both as Opacus computes them, with further orders up to 512.

    Raises:
        ValueError: a delta outside (0, 1).
    """
    _require_probability(delta)
    history = merge(entries)
    if not history:
        return 0.0
    if history[0].noise_multiplier == 0:
        return None
    from opacus.accountants.analysis import rdp

    curve = np.zeros(len(ORDERS))
    for entry in history:
        curve += rdp_of_one_step(entry.noise_multiplier, entry.sample_rate) * entry.steps
    with warnings.catch_warnings():
        # "Optimal order is the largest alpha": true for tiny epsilons, which stay upper bounds.
        warnings.simplefilter("ignore")
        epsilon, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=list(curve), delta=delta)
    return max(0.0, float(epsilon)) if math.isfinite(epsilon) else None


@dataclass(frozen=True)
class Bound:
    """An upper bound on epsilon and the accountant that gave it."""

    epsilon: float | None
    accountant: Accountant


def epsilon_upper(entries: Iterable[Entry], delta: float) -> Bound:
    """The smallest upper bound on epsilon at `delta` we can compute, for a run's summary.

    Numerical composition of privacy loss random variables (Gopi et al., 2021; Opacus), at most
    0.01 above its estimate, seconds for long histories; RDP where that is smaller, where epsilon
    is beyond 100, or where the numerical composition fails. Opacus composes the direction in which
    the record is removed.

    Raises:
        ValueError: a delta outside (0, 1).
    """
    history = merge(entries)
    by_rdp = epsilon_rdp(history, delta)
    if by_rdp is None or by_rdp == 0 or by_rdp > _LARGEST_PRV_EPSILON:
        return Bound(by_rdp, "rdp")
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sample_rate, e.steps) for e in history]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            by_prv = float(accountant.get_epsilon(delta))
    except (RuntimeError, ValueError, OverflowError):  # the grid does not fit the distribution
        return Bound(by_rdp, "rdp")
    # A NaN compares false, and RDP stands.
    return Bound(max(0.0, by_prv), "prv") if by_prv < by_rdp else Bound(by_rdp, "rdp")


def largest(epsilons: Iterable[float | None]) -> float | None:
    """The guarantee of a model trained on several clients: the largest epsilon, None above all.

    Holds where no unit occurs at two clients (parallel composition). Where a patient may be at
    several, take epsilon of the `joint` history instead.
    """
    worst = 0.0
    for epsilon in epsilons:
        if epsilon is None:
            return None
        worst = max(worst, epsilon)
    return worst


def joint(histories: Iterable[Iterable[Entry]]) -> tuple[Entry, ...]:
    """All releases of all clients as one history: what a unit pays that each client may hold."""
    return merge(entry for history in histories for entry in history)


def would_exceed(
    spent: Iterable[Entry], planned: Iterable[Entry], delta: float, budget: float
) -> bool:
    """Whether epsilon (RDP) of `spent` and `planned` together is above `budget`, or not finite."""
    epsilon = epsilon_rdp([*spent, *planned], delta)
    return epsilon is None or epsilon > budget


def calibrate(plans: Iterable[Iterable[tuple[float, int]]], delta: float, target: float) -> float:
    """The smallest noise multiplier with which no client's epsilon (RDP) is above `target`.

    Args:
        plans: for each client, what it will release in all rounds: (sampling rate, steps) pairs.
        delta: the common delta.
        target: the largest epsilon allowed.

    Returns:
        A noise multiplier, at most one part in 10^6 larger than needed; the epsilon of every plan
        at it is at most `target`. Mechanisms with two releases a step divide it by
        `split_noise_multiplier`.

    Raises:
        ValueError: nothing is planned, or `target` is not above 0 or too small to be shown.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"The target epsilon must be above 0 and finite, not {target}.")
    distinct = {merge(Entry(1.0, q, steps) for q, steps in plan) for plan in plans} - {()}
    if not distinct:
        raise ValueError("There is nothing to calibrate: no client plans any step.")
    candidates, sigma = sorted(distinct), 0.0
    # The plan that costs most at the present multiplier sets the next one; others hardly ever do.
    while True:
        epsilons = [_epsilon_at(plan, sigma, delta) for plan in candidates]
        most = max(range(len(candidates)), key=lambda i: epsilons[i])
        if epsilons[most] <= target:
            return sigma
        sigma = _calibrate_one(candidates[most], delta, target, sigma)


def require_delta(delta: float, counts: Sequence[int], unit: Unit = "record") -> None:
    """Refuse a delta at which publishing one unit outright would count as private.

    Args:
        delta: the common delta of all clients.
        counts: how many units each client holds.
        unit: what the counts count.

    Raises:
        ValueError: delta is not in (0, 1) or not below 1/n of the smallest client.
    """
    _require_probability(delta)
    smallest = min(counts)
    if delta * smallest >= 1:
        raise ValueError(
            f"Delta must be below 1/n for every client, but it is {delta:g} and client "
            f"{list(counts).index(smallest)} holds {smallest} {unit}s: choose a delta below "
            f"{1 / smallest:g}."
        )


def client_noise_multiplier(
    noise_multiplier: float,
    weights: Sequence[float],
    adjacency: Literal["zero_out", "replace_one"] = "zero_out",
) -> float:
    """The noise multiplier to account for when noise z * C / n is added to a weighted mean.

    n clients' updates, clipped to C, are averaged with `weights`. The heaviest client moves the
    mean by w_max * C, which is C / n for equal weights only; replacing its update by another one
    moves it twice as far as replacing it by zero.

    Raises:
        ValueError: no weights, or weights that are negative or all zero.
    """
    if not len(weights) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"Weights must be at least 0 and not all 0, not {list(weights)}.")
    heaviest = max(weights) / sum(weights)
    moves = {"zero_out": 1, "replace_one": 2}[adjacency]
    return noise_multiplier / (len(weights) * heaviest * moves)


def _calibrate_one(plan: tuple[Entry, ...], delta: float, target: float, floor: float) -> float:
    """The smallest multiplier above `floor` that keeps one plan within `target`."""
    from scipy.optimize import brentq

    low, high = max(floor, 2.0**-7), max(2 * floor, 1.0)
    while _epsilon_at(plan, high, delta) > target:
        low, high = high, 2 * high
        if high > 2.0**20:
            raise ValueError(
                f"No noise can show epsilon {target:g} at delta {delta:g}: choose a larger target."
            )
    if _epsilon_at(plan, low, delta) <= target:
        return low

    def excess(log_sigma: float) -> float:
        epsilon = _epsilon_at(plan, math.exp(log_sigma), delta)
        return math.log(max(epsilon, 1e-300) / target)

    if excess(math.log(high)) >= 0:  # met exactly, or lost in the rounding of the logarithm
        return high
    sigma = math.exp(brentq(excess, math.log(low), math.log(high), xtol=5e-7))
    while _epsilon_at(plan, sigma, delta) > target:
        sigma *= 1 + 2.5e-7
    return sigma


def _epsilon_at(plan: tuple[Entry, ...], sigma: float, delta: float) -> float:
    epsilon = epsilon_rdp([Entry(sigma, e.sample_rate, e.steps) for e in plan], delta)
    return math.inf if epsilon is None else epsilon


@functools.lru_cache(maxsize=4096)
def rdp_of_one_step(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Renyi divergences of one release at `ORDERS`: float64, read-only."""
    from opacus.accountants.analysis import rdp

    curve = np.empty(len(ORDERS))
    for position, order in enumerate(ORDERS):
        try:
            value = rdp.compute_rdp(
                q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=float(order)
            )
            # Rounding may take a vanishing divergence below zero.
            curve[position] = max(0.0, float(value))  # type: ignore[arg-type]
        except ValueError:  # ... or break its series: this order then shows nothing.
            curve[position] = np.inf
    curve.setflags(write=False)
    return curve


def _require_probability(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"Delta must lie between 0 and 1, not {delta}.")
