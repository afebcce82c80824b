"""Worst-case attacks on one release of a mechanism: hand-made gradients through its own rule.

The adversary of differential privacy knows all records but one, and may choose them. So does this
one: it picks the others' gradients and the target's, calls `aggregate` many times without and with
the target, and tells the two apart. No sampling (q = 1) and one release, so the claim is the exact
epsilon of the Gaussian mechanism at the multiplier that the accountant is told. A mechanism that
does not hold here holds nowhere; no training is needed, and none would find as much.

What the accounting composes is more than that epsilon at one delta: it takes a release to be as
private as a Gaussian one of mu = 1 / sigma. So each attack is held against that, too (Dong, Roth &
Su, "Gaussian Differential Privacy", 2022): errors that no Gaussian release of this mu allows
contradict the claim as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.attacks.checks import Check
from fedsim.privacy.attacks.coupled import measure
from fedsim.privacy.attacks.sources import Sources
from fedsim.privacy.audit import LowerBound, gaussian_epsilon, many_run
from fedsim.privacy.mechanisms import MEMORY, Mechanism, State
from fedsim.privacy.noise import Noise

TRIALS = 2500
"""Releases without the target, and as many with it, for each attack."""

GRID = ((4.0, 4.0, 64), (2.0, 4.0, 64), (1.0, 2.0, 64))
"""(sigma, second noise multiplier, expected batch) that are tried beside a mechanism's own."""

SAME_NOISE = "same noise"
"""The finding of `fedsim.privacy.attacks.coupled`, among those of the attacks."""

_DENSE = 64  # coordinates of the dense target

_SECOND = {"cosine_noise_multiplier": "tau", "reference_noise_multiplier": "sigma_ref"}


@dataclass(frozen=True)
class Attack:
    """Records that the adversary chose.

    Attributes:
        name: of the attack.
        others: [n, d] gradients of the records that are always there.
        target: [d] gradient of the record that is or is not.
        state: what the mechanism remembers: past releases, which the adversary may choose too.
    """

    name: str
    others: Tensor
    target: Tensor
    state: State


@dataclass(frozen=True)
class Finding:
    """What one attack showed about a mechanism at one setting.

    Attributes:
        attack: its name.
        setting: the mechanism's noise and expected batch.
        claimed: epsilon that one release claims.
        plain: the lower bound that was found, whatever the mechanism; None where only the other
            one can be had.
        gaussian: the lower bound on mechanisms that are claimed to be as private as a Gaussian.
        checks: that were made beside it.
    """

    attack: str
    setting: str
    claimed: float
    plain: LowerBound | None
    gaussian: LowerBound
    checks: tuple[Check, ...] = ()

    @property
    def bound(self) -> LowerBound:
        """The plain bound where it contradicts the claim, else the larger one."""
        if self.plain is not None and self.plain.contradicts(self.claimed):
            return self.plain
        return self.gaussian

    @property
    def method(self) -> str:
        """What was done to find the bound, in words."""
        if self.plain is None:
            return self.attack
        plain = self.bound is self.plain
        return f"{self.attack}{'' if plain else ', Gaussian DP'}, n={TRIALS}+{TRIALS}"

    @property
    def excess(self) -> float:
        """How far the bound is above the claim; negative below it."""
        return self.bound.epsilon - self.claimed


def attacks_on(mechanism: Mechanism) -> list[Attack]:
    """The attacks, with gradients of the mechanism's clipping norm C.

    Cosine flip: as many gradients +C as -C, so that the target turns the mean around and with it
    every cosine. Alone: the target is the only one in its coordinate. Outlier: a huge gradient,
    clipped in the sum but perhaps not in the reference. These meet a mechanism in its second step,
    with a past release that points along the target; so does dense, a target that is long in many
    coordinates. In its first step: empty, a sample of no record but the target; infinite, a
    gradient without a finite norm. The last two are left out for rules without a proof, where no
    paper says what such a sample releases.
    """
    norm, count = mechanism.max_grad_norm, max(2, round(mechanism.expected_batch))
    half = count // 2
    flip = torch.cat([torch.ones(half + 1, 1), -torch.ones(half, 1)])
    flip[0] = 0.5  # They add up to +C/2: the target's -C is more.
    along, across = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    against = torch.tensor([0.6, -0.8])

    def after(direction: Tensor) -> State:
        return after_release(mechanism, direction)

    every = torch.ones(_DENSE)
    beside = torch.zeros(count, _DENSE)
    beside[:, 0] = norm
    found = [
        Attack("cosine flip", norm * flip, torch.tensor([-norm]), after(-torch.ones(1))),
        Attack("alone", norm * along.repeat(count, 1), norm * across, after(across)),
        Attack("outlier", norm * against.repeat(count, 1), 1e4 * norm * across, after(across)),
        Attack("dense", beside, 1e4 * norm * every, after(every / every.norm())),
    ]
    if mechanism.certified:
        found.append(Attack("empty", torch.zeros(0, 1), torch.tensor([norm]), State()))
        found.append(Attack("infinite", torch.zeros(1, 1), torch.tensor([math.inf]), State()))
    return found


def after_release(mechanism: Mechanism, direction: Tensor) -> State:
    """What a mechanism remembers of one release along a direction [d] of length 1."""
    release = direction * mechanism.max_grad_norm * max(2, round(mechanism.expected_batch))
    mean, square = (1 - MEMORY) * release, (1 - MEMORY) * release.square()
    return State(1, release, mean, square, 1)


def settings_of(mechanism: Mechanism) -> list[Mechanism]:
    """The mechanism as it is, and with the noise and expected batch of `GRID`."""
    second = next((name for name in _SECOND if hasattr(mechanism, name)), None)
    found = [mechanism]
    for sigma, other, batch in GRID:
        changes = {"noise_multiplier": sigma, "expected_batch": float(batch)}
        if second is not None:
            changes[second] = other
        found.append(dataclasses.replace(mechanism, **changes))
    return list(dict.fromkeys(found))


def setting_name(mechanism: Mechanism) -> str:
    """The noise multipliers and the expected batch, such as "sigma=4 tau=4 L=64"."""
    parts = [f"sigma={mechanism.noise_multiplier:.4g}"]
    parts += [
        f"{short}={getattr(mechanism, name):.4g}"
        for name, short in _SECOND.items()
        if hasattr(mechanism, name)
    ]
    return " ".join([*parts, f"L={mechanism.expected_batch:.4g}"])


def attack_mechanism(
    mechanism: Mechanism,
    delta: float,
    noise: Sources,
    *,
    trials: int = TRIALS,
    significance: float = 0.05,
    more: int = 0,
) -> Iterator[Finding]:
    """Attack one release of a mechanism at its own values and on the grid.

    Args:
        mechanism: what releases; its noise must not be 0.
        delta: the delta of the claim.
        noise: sources of all noise.
        trials: releases without, and as many with the target, for each attack and setting.
        significance: the probability with which any bound of an attack may be wrong; each has its
            share of it (Bonferroni). What `coupled` measures adds `coupled.SIGNIFICANCE` for each
            setting.
        more: attacks that somebody makes beside these, which have their share, too.

    Yields:
        One finding for each setting and attack, the mechanism's own values first; after a
        setting's attacks what was measured of it, for rules with a proof.
    """
    settings = settings_of(mechanism)
    each = share(significance, mechanism, more)
    for one in settings:
        claimed, setting = (
            gaussian_epsilon(1 / one.accounted_noise_multiplier, delta),
            setting_name(one),
        )
        for attack in attacks_on(one):
            without, with_target = scores(one, attack, noise(f"{setting} {attack.name}"), trials)
            bound = many_run(without, with_target, delta, each)
            yield Finding(attack.name, setting, claimed, bound, bound.gaussian)
        if one.certified:
            yield _measured(one, claimed, delta, noise)


def share(significance: float, mechanism: Mechanism, more: int = 0) -> float:
    """What each bound has of a significance: every attack, at every setting, has two.

    `more` attacks are made beside these.
    """
    return significance / (2 * (len(settings_of(mechanism)) * len(attacks_on(mechanism)) + more))


def _measured(mechanism: Mechanism, claimed: float, delta: float, noise: Sources) -> Finding:
    setting = setting_name(mechanism)
    found = measure(
        mechanism,
        delta,
        lambda label: noise(f"{setting} {SAME_NOISE} {label}"),
        lambda direction: after_release(mechanism, direction),
    )
    if found is None:
        return Finding(SAME_NOISE, setting, claimed, None, LowerBound(0.0, 1.0, None, 0, 0))
    attack = f"{SAME_NOISE}, a {found.record} record"
    return Finding(attack, setting, claimed, None, found.bound, found.checks)


def scores(
    mechanism: Mechanism, attack: Attack, rng: Noise, trials: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores [trials] of releases without and with the target, larger where it seems to be there.

    The score is linear in what was released, once for each sign pattern of the released reference,
    on which a filter's decision hangs. Its weights are fitted on the first half of the trials, on
    which `many_run` chooses its threshold too.
    """
    along = attack.target / attack.target.norm()
    without = _releases(mechanism, attack.others, attack.state, rng, trials, along)
    records = torch.cat([attack.others, attack.target[None]])
    with_target = _releases(mechanism, records, attack.state, rng, trials, along)
    half = trials // 2
    known = np.concatenate([without[:half], with_target[:half]])
    side = np.repeat([-1.0, 1.0], half)
    # Least squares on the two sides is Fisher's linear discriminant.
    weights = np.linalg.lstsq(known, side, rcond=None)[0]
    return without @ weights, with_target @ weights


def _releases(
    mechanism: Mechanism,
    gradients: Tensor,
    state: State,
    rng: Noise,
    trials: int,
    along: Tensor,
) -> NDArray[np.float64]:
    """Features [trials, k] of independent releases of the same gradients.

    Of more than two coordinates what they show along one direction [d].
    """
    narrow = gradients.shape[1] <= 2
    updates, references = [], []
    with torch.inference_mode():
        for _ in range(trials):
            released, _ = mechanism.aggregate(gradients, state, rng)
            reference = released.reference
            if reference is None:
                reference = gradients.new_zeros(0)
            elif not narrow:
                reference = (along @ reference)[None]
            updates.append(released.update if narrow else (along @ released.update)[None])
            references.append(reference)
    # In units of C, as sums, so that columns are of about the same size.
    sums = torch.stack(updates).double() * mechanism.expected_batch
    seen = torch.stack(references).double().numpy()
    values = np.hstack([sums.numpy(), seen]) / mechanism.max_grad_norm
    broken = ~np.isfinite(values).all(axis=1)
    values[broken] = 0.0
    columns: NDArray[np.float64] = np.column_stack([np.ones(trials), broken, values])
    return np.hstack([columns, *(np.sign(side)[:, None] * columns for side in seen.T)])
