"""Privacy accounting: what a history of noisy releases costs, as pure functions of numbers.

A release is one step of the Poisson-subsampled Gaussian mechanism: each unit (record or patient)
joins the sample with probability q, and the sum of the joint contributions, at most C in Euclidean
norm each, gets Gaussian noise of standard deviation sigma * C. sigma is the noise multiplier. A
history is a sequence of entries (sigma, q, steps), plain numbers that JSON keeps exactly; it has
no order, and splitting an entry changes nothing.

Epsilon is None where no finite epsilon holds: as soon as one release carried no noise. It is 0 for
a history without releases. q = 1 (full batch) is the Gaussian mechanism without amplification.

Two data sets are neighbours if the contents of one unit of the first are replaced by nothing in the
second: it is drawn as before and contributes zero, and n is public (`ADJACENCY`).

Several Gaussians on *one* Poisson sample are one release at `effective_noise_multiplier`; adding
their separately amplified costs claims too little.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.audit import gaussian_epsilon
from fedsim.privacy.composition import epsilon_prv, tail_deltas
from fedsim.privacy.opacus_analysis import rdp

Unit = Literal["record", "patient", "client"]
Accountant = Literal["rdp", "prv", "analytic"]

ACCOUNTANT_NAMES: dict[Accountant, str] = {
    "rdp": "RDP",
    "prv": "PRV upper",
    "analytic": "exact Gaussian",
}
"""What each accountant is called in a line."""

ADJACENCY: dict[Unit, str] = {
    "record": "the contents of one record replaced by nothing, with the number of records public",
    "patient": "the contents of all records of one patient or lesion replaced by nothing, with the "
    "number of patients or lesions public",
    "client": "the update of one client replaced by zero, with the number of clients public",
}
"""What two data sets that epsilon tells apart differ in, for each unit of privacy."""

UNIT_NAMES: dict[Unit, str] = {
    "record": "record",
    "patient": "patient or lesion",
    "client": "client",
}
"""What each unit is called in a sentence."""

_PLURALS: dict[Unit, str] = {
    "record": "records",
    "patient": "patients or lesions",
    "client": "clients",
}

ORDERS: tuple[float, ...] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *range(11, 64),
    *(64, 80, 96, 128, 192, 256, 384, 512),
)
"""The orders of Renyi divergences: Opacus', the 11 that they leave out, and larger ones, without
which no epsilon below 0.1 can be shown at delta 1e-5."""

FEW_ORDERS: tuple[float, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
"""Whole orders, whose divergences take a hundredth of the time; the bound is a little larger."""

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


def epsilon_rdp(
    entries: Iterable[Entry], delta: float, orders: tuple[float, ...] = ORDERS
) -> float | None:
    """Epsilon at `delta` by Renyi differential privacy: fast, an upper bound, for every line.

    Mironov, Talwar & Zhang (2019) for one release, added up order by order, converted by Theorem
    21 of Balle et al. (2020); both as Opacus computes them, with further orders up to 512.

    Raises:
        ValueError: a delta outside (0, 1).
    """
    history = merge(entries)
    if not history:
        _require_probability(delta)
        return 0.0
    return epsilon_of_curve(rdp_curve(history, orders), delta, orders)


def rdp_curve(entries: Iterable[Entry], orders: tuple[float, ...] = ORDERS) -> NDArray[np.float64]:
    """Renyi divergences of a history at `orders`, added up; infinite where there was no noise."""
    curve = np.zeros(len(orders))
    for entry in merge(entries):
        if entry.noise_multiplier == 0:
            return np.full(len(orders), np.inf)
        curve += rdp_of_one_step(entry.noise_multiplier, entry.sample_rate, orders) * entry.steps
    return curve


def epsilon_of_curve(
    curve: NDArray[np.float64], delta: float, orders: tuple[float, ...] = ORDERS
) -> float | None:
    """Epsilon at `delta` of a mechanism with these Renyi divergences; None: no finite one holds.

    Raises:
        ValueError: a delta outside (0, 1).
    """
    _require_probability(delta)
    if not np.isfinite(curve).any():
        return None
    with warnings.catch_warnings():
        # "Optimal order is the largest alpha": true for tiny epsilons, which stay upper bounds.
        warnings.simplefilter("ignore")
        epsilon, _ = rdp().get_privacy_spent(orders=list(orders), rdp=list(curve), delta=delta)
    return max(0.0, float(epsilon)) if math.isfinite(epsilon) else None


@dataclass(frozen=True)
class Bound:
    """An upper bound on epsilon and the accountant that gave it."""

    epsilon: float | None
    accountant: Accountant


def epsilon_upper(entries: Iterable[Entry], delta: float) -> Bound:
    """The smallest upper bound on epsilon at `delta` we can compute: what is claimed of a run.

    Where every release is of the full batch (q = 1) it is exact: releases compose to one Gaussian
    mechanism, whose epsilon Balle & Wang (2018) give. Else numerical composition of privacy losses
    in both directions, see `fedsim.privacy.composition`; RDP where that is smaller, where epsilon
    is beyond 100, or where the composition fails.

    Raises:
        ValueError: a delta outside (0, 1).
    """
    history = merge(entries)
    if is_full_batch(history):
        return Bound(gaussian_epsilon(mean_difference(history), delta), "analytic")
    by_rdp = epsilon_rdp(history, delta)
    if by_rdp is None or by_rdp == 0 or by_rdp > _LARGEST_PRV_EPSILON:
        return Bound(by_rdp, "rdp")
    releases = tuple((e.noise_multiplier, e.sample_rate, e.steps) for e in history)
    of_all, of_one = tail_deltas(releases, delta)
    # The Renyi divergences of a unit that leaves are at least those of one that joins.
    tails = [epsilon_rdp(history, of_all)]
    tails += [epsilon_rdp([replace(e, steps=1)], of_one) for e in history]
    tail = max(math.inf if one is None else one for one in tails)
    by_prv = epsilon_prv(releases, delta, tail)
    if by_prv is None or by_prv >= by_rdp:
        return Bound(by_rdp, "rdp")
    return Bound(by_prv, "prv")


def is_full_batch(history: Sequence[Entry]) -> bool:
    """Whether there are releases, all of the full batch and all with noise."""
    return bool(history) and all(e.sample_rate == 1 and e.noise_multiplier > 0 for e in history)


def mean_difference(history: Iterable[Entry]) -> float:
    """mu of the one Gaussian mechanism that releases of the full batch compose to.

    The square root of the sum of 1 / sigma^2 over all releases.
    """
    return math.sqrt(math.fsum(e.steps / e.noise_multiplier**2 for e in history))


def largest_upper(histories: Iterable[Iterable[Entry]], delta: float) -> Bound:
    """The largest of the histories' best upper bounds."""
    worst = Bound(0.0, "rdp")
    for rough, history in _dearest_first(histories, delta):
        if rough is None:
            return Bound(None, "rdp")
        if rough <= (worst.epsilon or 0.0):
            break
        bound = epsilon_upper(history, delta)
        if bound.epsilon is None:
            return bound
        if bound.epsilon > (worst.epsilon or 0.0):
            worst = bound
    return worst


def largest_rdp(histories: Iterable[Iterable[Entry]], delta: float) -> float | None:
    """The largest of the histories' epsilons (RDP), None above all."""
    worst = 0.0
    for rough, history in _dearest_first(histories, delta):
        if rough is None:
            return None
        if rough <= worst:
            break
        epsilon = epsilon_rdp(history, delta)
        if epsilon is None:
            return None
        worst = max(worst, epsilon)
    return worst


def _dearest_first(
    histories: Iterable[Iterable[Entry]], delta: float
) -> list[tuple[float | None, tuple[Entry, ...]]]:
    """Distinct histories, each with a rough upper bound; the largest first, None before all.

    No better bound is above the rough one, so whoever looks for the largest may soon stop.
    """
    distinct = sorted({merge(history) for history in histories})
    rough = [(epsilon_rdp(history, delta, FEW_ORDERS), history) for history in distinct]
    return sorted(rough, key=lambda one: math.inf if one[0] is None else one[0], reverse=True)


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
    """Whether epsilon of `spent` and `planned` together is above `budget`, or not finite.

    By the best upper bound, which is what is claimed: RDP alone would stop runs whose noise was
    found by a tighter bound. RDP is faster, and settles the matter where it is within the budget.
    """
    history = [*spent, *planned]
    epsilon = epsilon_rdp(history, delta)
    if epsilon is not None and epsilon > budget:
        epsilon = epsilon_upper(history, delta).epsilon
    return epsilon is None or epsilon > budget


def require_delta(delta: float, counts: Sequence[int], unit: Unit = "record") -> None:
    """Refuse a delta at which publishing one unit outright would count as private.

    Whoever publishes each of n units with probability delta satisfies (0, delta). So delta must be
    below 1/n for every client, which is to say for the largest one.

    Args:
        delta: the common delta of all clients.
        counts: how many units each client holds; where units are at several clients, how many
            there are in all.
        unit: what the counts count.

    Raises:
        ValueError: delta is not in (0, 1) or not below 1/n of the largest client.
    """
    _require_probability(delta)
    most = max(counts)
    if delta * most >= 1:
        where = f"client {list(counts).index(most)} holds" if len(counts) > 1 else "there are"
        raise ValueError(
            f"Delta must be below 1/n for every client, but it is {delta:g} and {where} "
            f"{most} {_PLURALS[unit]}: choose a delta below {1 / most:g}."
        )


@functools.lru_cache(maxsize=4096)
def rdp_of_one_step(
    noise_multiplier: float, sample_rate: float, orders: tuple[float, ...] = ORDERS
) -> NDArray[np.float64]:
    """Renyi divergences of one release at `orders`: float64, read-only."""
    curve = np.empty(len(orders))
    for position, order in enumerate(orders):
        try:
            value = rdp().compute_rdp(
                q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=float(order)
            )
            # Rounding may take a vanishing divergence below zero.
            curve[position] = max(0.0, float(value))
        except ValueError:  # ... or break its series: this order then shows nothing.
            curve[position] = np.inf
    curve.setflags(write=False)
    return curve


def _require_probability(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"Delta must lie between 0 and 1, not {delta}.")
