"""Attacks on a training: canaries in its releases, and tests of what its claim takes for granted.

In three ways the client's own training runs, with its own `Releases`, method and optimiser:

- *marked*: Canaries (Steinke, Nasr & Jagielski, 2023) among the records. Each of m is in by a fair
  coin; afterwards the attack guesses from the releases who was. The guesses bound epsilon whatever
  the mechanism is, and are held against the whole privacy profile that the accountant composes.
  The samples must be Poisson samples at the rate that was claimed, a canary may move a release by
  C, and where nobody moves it there must be the noise that was claimed.
- *silent*: All clients and several rounds, where no record has a gradient, with the client's data
  and with one record less: noise and nothing else, and each time other noise.
- *scripted*: Releases that were written before, with the client's data and with every second record
  replaced. What the client sends must be the same, and so must the other records' gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.accounting import Entry, epsilon_upper
from fedsim.privacy.attacks.checks import (
    Check,
    lagged_p_value,
    quiet_p_value,
    quietest_p_value,
    repeated_p_value,
    sampled_p_values,
)
from fedsim.privacy.attacks.watched import Marks, Script, Silence
from fedsim.privacy.audit import LowerBound, gaussian_epsilon, many_run, one_run
from fedsim.privacy.mechanisms import DPSGD, AlternatingReference, Mechanism, PrivateReference
from fedsim.privacy.releases import Releases

CANARIES = 1000
"""Canaries of an audit: enough for bounds up to 5.3 at 95 %."""

LIMIT = 1e-7
"""A check fails below this p-value: with some twenty of them, one sound audit in 500,000."""

PROFILE = (1e-3, 1e-2, 0.05, 0.1, 0.2, 0.3)
"""Deltas at which canaries are held against the accountant, beside the claim's own."""

_SILENT = 512  # coordinates beside the canaries that nobody touches
_WIDTH = 4096  # coordinates of silent releases
_KEPT = 4  # releases of a round that are looked at in silent and scripted trainings
_ROUNDS, _CLIENTS = 3, 4  # of silent trainings, at most
_PROFILE_SHARE = 0.2  # of the significance
_COLUMNS = 8  # releases from which on coordinates are compared with each other


class Training(Protocol):
    """One client's training, for an audit to run and to watch.

    Attributes:
        records: how many the client has; a record is a unit.
        rounds: of the whole training.
        steps: releases of a round.
        clients: how many could train in one federation.
    """

    records: int
    rounds: int
    steps: int
    clients: int

    def run(
        self,
        watch: Callable[[Releases], Releases],
        *,
        rounds: int | None = None,
        more: int = 0,
        fewer: int = 0,
        replaced: bool = False,
        clients: int = 1,
    ) -> list[Mapping[str, NDArray]]:
        """Train, with what `watch` makes of the client's `Releases` in each round.

        Args:
            watch: called at the start of each round, of each client.
            rounds: to train; None for all.
            more: records that the client holds beside its own, behind them, at the same rate.
            fewer: of its last records that it does not hold, at the same rate.
            replaced: whether every second record, from the second on, is replaced by a copy of
                another one.
            clients: how many take part.

        Returns:
            All that left the clients, in order.
        """


@dataclass(frozen=True)
class Attacked:
    """What an attack on a training showed.

    Attributes:
        bound: on epsilon, by canaries.
        checks: of what the claim takes for granted.
    """

    bound: LowerBound
    checks: tuple[Check, ...]


def attack_training(
    mechanism: Mechanism,
    training: Training,
    sample_rate: float,
    steps: int,
    delta: float,
    seed: int,
    *,
    canaries: int = CANARIES,
    significance: float = 0.05,
    say: Callable[[str], None] = lambda line: None,
) -> Attacked:
    """Train and look.

    Args:
        mechanism: of the training.
        training: runs it.
        sample_rate: probability with which a record joins a step's sample.
        steps: releases that the claim covers.
        delta: the delta of the claim.
        seed: of the coins.
        canaries: how many.
        significance: the probability with which the bound may be wrong; checks add about
            20 * `LIMIT`.
        say: told what is going on.

    Raises:
        RuntimeError: the training made no release, or more than `steps`.
        ValueError: a release was not finite.
    """
    coins = np.random.default_rng([seed, 1]).random(canaries) < 0.5
    marks = Marks(coins, _SILENT)
    say(f"run 1 of 5: the training with {canaries} canaries")
    training.run(marks.watch, more=canaries)
    made = len(marks.seen)
    if not 0 < made <= steps:
        raise RuntimeError(f"the training made {made} releases, and the claim covers {steps}")
    scores = np.sum(marks.seen, axis=0)
    bound = one_run(scores, coins, delta, significance * (1 - _PROFILE_SHARE))
    checks = _checks_of_marks(mechanism, marks, sample_rate, training.steps)
    if mechanism.certified:
        entry = Entry(mechanism.accounted_noise_multiplier, sample_rate, steps)
        checks.append(_profile(scores, coins, entry, delta, significance * _PROFILE_SHARE))
    checks += _silent(mechanism, training, say)
    checks += _scripted(training, seed, say)
    return Attacked(bound, tuple(checks))


def promised_scale(mechanism: Mechanism) -> float | None:
    """Standard deviation of the noise that a release claims, as a sum and in units of C.

    Out of the mechanism's numbers alone, not of its code. None for rules that are not known.
    """
    if isinstance(mechanism, PrivateReference):
        own, other = mechanism.noise_multiplier, mechanism.reference_noise_multiplier
        return float(np.hypot((1 - mechanism.combine) * own, mechanism.combine * other))
    if isinstance(mechanism, DPSGD | AlternatingReference):
        return mechanism.noise_multiplier
    return None


def _checks_of_marks(
    mechanism: Mechanism, marks: Marks, rate: float, steps_of_round: int
) -> list[Check]:
    seen, silence, joined = map(np.array, (marks.seen, marks.silence, marks.joined))
    if not np.isfinite(seen).all():
        raise ValueError("A release was not finite: the training may have diverged.")
    checks = _sampling(joined, rate, steps_of_round)
    checks += _repeats(silence, "steps", steps_of_round)
    if not mechanism.certified:
        return checks
    took_part = joined[:, joined.shape[1] - len(marks.included) :] & marks.included
    moved = seen[took_part]
    scale = promised_scale(mechanism)
    if scale is None:
        # A rule of somebody else's: its own unit is what it makes of a canary.
        gain = float(np.clip(moved.mean(), 0, None)) if len(moved) else 0.0
        scale = gain * mechanism.accounted_noise_multiplier
    else:
        checks.append(_clipping(moved, silence))
    if scale:
        checks += _loudness(silence, scale, "a release")
    return checks


def _sampling(joined: NDArray[np.bool_], rate: float, steps_of_round: int) -> list[Check]:
    """Whether samples are Poisson samples; where all records may join, none can be too large."""
    if rate >= 1:
        return []
    told = {
        "size": f"samples hold {joined.mean() / rate:.3g} times the records that the rate allows",
        "unit": "a record joins more samples than the rate allows",
        "fixed": "samples are of a fixed size",
        "overlap": "samples are not independent of each other",
    }
    lags = [1, 2, steps_of_round]
    found = sampled_p_values(joined, rate, lags)
    return [Check(f"sampling: {k}", p, LIMIT, told[k]) for k, p in found.items()]


def _repeats(rows: NDArray[np.float64], over: str, steps_of_round: int = 0) -> list[Check]:
    """Whether noise [k, d] is new each time, and in each coordinate."""
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 400)).astype(int))]
    told = f"the noise of {over} repeats"
    checks = [Check(f"noise over {over}", repeated_p_value(some), LIMIT, told)]
    checks += [
        Check(f"noise over {over}, {lag} apart", lagged_p_value(rows, lag), LIMIT, told)
        for lag in sorted({1, 2, steps_of_round} - {0})
    ]
    if len(rows) >= _COLUMNS:
        columns = np.ascontiguousarray(rows[:, :_SILENT].T)
        told = "the noise of coordinates repeats"
        checks.append(Check("noise over coordinates", repeated_p_value(columns), LIMIT, told))
    return checks


def _loudness(rows: NDArray[np.float64], scale: float, of: str) -> list[Check]:
    share = float(np.sqrt(np.square(rows).mean())) / scale
    told = f"the noise of {of} is {share:.2f} of what the claim needs"
    return [
        Check(f"noise of {of}", quiet_p_value(rows, scale), LIMIT, told),
        Check(f"noise of {of}, by coordinate", quietest_p_value(rows, scale), LIMIT, told),
    ]


def _clipping(moved: NDArray[np.float64], silence: NDArray[np.float64]) -> Check:
    """Whether canaries move a release by C at the most, in the mean."""
    from scipy.special import ndtr

    if not len(moved):
        return Check("clipping", 1.0, LIMIT, "")
    mean = float(moved.mean())
    deviation = max(float(np.sqrt(np.square(silence).mean())), 1e-3) / np.sqrt(len(moved))
    p_value = float(ndtr(-(mean - 1) / deviation))
    return Check("clipping", p_value, LIMIT, f"a record moves a release by {mean:.3g} C")


def _profile(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    entry: Entry,
    delta: float,
    significance: float,
) -> Check:
    """Whether canaries are told apart better than the accounting allows, at any delta.

    For noise that is as claimed, each canary is a trial of its own.
    """
    deltas = (delta, *PROFILE)
    worst, told = 0.0, ""
    sides = scores[~included], scores[included]
    if min(map(len, sides)) < 4:
        return Check("privacy profile", 1.0, LIMIT, "")
    for one in deltas:
        claimed = _allowed(entry, one)
        found = many_run(*sides, one, significance / len(deltas)).epsilon
        if claimed is not None and found - claimed > worst:
            worst = found - claimed
            told = (
                f"canaries are told apart as if epsilon were {found:.2f} at delta {one:g}, where "
                f"the accounting allows {claimed:.2f}"
            )
    return Check("privacy profile", 0.0 if worst else 1.0, LIMIT, told)


@functools.lru_cache(maxsize=64)
def _allowed(entry: Entry, delta: float) -> float | None:
    """Epsilon at `delta` of all releases together, as the accounting composes them."""
    if entry.sample_rate >= 1:
        return gaussian_epsilon(entry.steps**0.5 / entry.noise_multiplier, delta)
    return epsilon_upper([entry], delta).epsilon


def _silent(mechanism: Mechanism, training: Training, say: Callable[[str], None]) -> list[Check]:
    """Noise on zero gradients, over steps, rounds, clients and neighbouring data."""
    rounds, clients = min(training.rounds, _ROUNDS), min(training.clients, _CLIENTS)
    with_all, without_one = Silence(_WIDTH, _KEPT), Silence(_WIDTH, _KEPT)
    say(f"run 2 of 5: {clients} client(s) and {rounds} round(s) without gradients")
    training.run(with_all.watch, rounds=rounds, clients=clients)
    say("run 3 of 5: the same with one record less")
    training.run(without_one.watch, rounds=rounds, clients=clients, fewer=1)
    rows, neighbours = np.array(with_all.rows), np.array(without_one.rows)
    if not rows.size:
        return []
    checks = _repeats(rows, "rounds and clients")
    count = min(len(rows), len(neighbours))
    both = np.concatenate([rows[:count], neighbours[:count]])
    p_value = repeated_p_value(both) if checks[0].p_value >= LIMIT else 1.0
    told = "the same seed gives the same noise on data that differ by a record"
    checks.append(Check("noise on neighbouring data", p_value, LIMIT, told))
    scale = promised_scale(mechanism)
    if scale and mechanism.certified:
        checks += _loudness(rows, scale, "a release of no gradients")
    return checks


def _scripted(training: Training, seed: int, say: Callable[[str], None]) -> list[Check]:
    """What a client does with releases, and with other records beside one."""
    if training.records < 2:
        return []
    rounds = min(training.rounds, 2)
    found = []
    for number, replaced in ((4, False), (5, True)):
        say(f"run {number} of 5: releases written before, {'other' if replaced else 'own'} records")
        script = Script(seed, training.records, _KEPT)
        sent = training.run(script.watch, rounds=rounds, replaced=replaced)
        found.append((sent, script.gradients))
    (sent, gradients), (others_sent, others_gradients) = found
    same = len(sent) == len(others_sent) and all(map(_same_content, sent, others_sent))
    alone = len(gradients) == len(others_gradients) and all(
        map(_same_rows, gradients, others_gradients)
    )
    return [
        Check(
            "what is sent",
            float(same),
            LIMIT,
            "what a client sends depends on more than what was released",
        ),
        Check(
            "gradients of a record",
            float(alone),
            LIMIT,
            "a record's gradient depends on other records",
        ),
    ]


def _same_content(one: Mapping[str, NDArray], other: Mapping[str, NDArray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=True) for name in one
    )


def _same_rows(one: Tensor, other: Tensor) -> bool:
    """Whether gradients [k, d] are the same, up to what the rounding of another batch does."""
    if one.shape != other.shape:
        return False
    apart = (one - other).double().norm(dim=1)
    return bool((apart <= 1e-3 * one.double().norm(dim=1) + 1e-9).all())
