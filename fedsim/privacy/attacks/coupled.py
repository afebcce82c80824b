"""One noise, two neighbouring data sets: what a record moves, and how loud the noise is.

Where noise is added to something, the same noise taken twice falls out of the difference: what is
left is exactly what one record moves. The noise alone is what is released of no records. Both
together are mu, the sensitivity in standard deviations of the noise, to a percent: far sharper
than to guess who was there. It holds for noise that is Gaussian, as the accounting takes it to be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.attacks.checks import Check, Floats, repeated_p_value
from fedsim.privacy.attacks.sources import Sources
from fedsim.privacy.audit import LowerBound, gaussian_epsilon
from fedsim.privacy.mechanisms import (
    AlternatingReference,
    Mechanism,
    PrivateReference,
    Released,
    State,
)
from fedsim.privacy.noise import Noise

DRAWS, WIDTH = 400, 128
"""Releases of no records, and their coordinates: they tell the noise's scale to 2 %."""

SIGNIFICANCE = 1e-7
"""With which probability each statement here may be wrong, all of its parts together."""

# Differences that are rounding, in units of the clipping norm and of the noise.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Measured:
    """What was measured of a mechanism that adds noise.

    Attributes:
        bound: epsilon, at the least, if the noise is Gaussian.
        record: the target that moved most, such as "long".
        checks: of the noise.
    """

    bound: LowerBound
    record: str
    checks: tuple[Check, ...]


def measure(
    mechanism: Mechanism,
    delta: float,
    noise: Sources,
    after: Callable[[Tensor], State],
) -> Measured | None:
    """Measure sensitivity and noise of one release.

    Args:
        mechanism: what releases. A filter is opened where it decides by the same sample's noise.
        delta: the delta of the claim.
        noise: sources of noise.
        after: a direction [d] -> what the mechanism remembers after a release along it.

    Returns:
        None where noise and data do not come apart, as in rules that draw noise for each record.
    """
    if isinstance(mechanism, PrivateReference | AlternatingReference):
        opened = dataclasses.replace(mechanism, psi=-1.0)
        return _measure(mechanism, delta, noise, after) or _measure(opened, delta, noise, after)
    return _measure(mechanism, delta, noise, after)


def _measure(
    mechanism: Mechanism,
    delta: float,
    noise: Sources,
    after: Callable[[Tensor], State],
) -> Measured | None:
    best, record = 0.0, ""
    checks: tuple[Check, ...] = ()
    targets = _targets(mechanism)
    each = SIGNIFICANCE / (2 * (WIDTH + 2 * len(targets)))
    some = 3 * mechanism.max_grad_norm * torch.randn(6, WIDTH, generator=_seeded(0))
    nobody = some[:0]
    for first in (True, False):
        state = State() if first else after(targets["dense"] / targets["dense"].norm())
        source = noise(f"alone, {'first' if first else 'second'} step")
        alone = np.stack([_seen(mechanism, nobody, state, source) for _ in range(DRAWS)])
        scatter = np.einsum("nkd,nld->kl", alone, alone)
        checks += _checks(alone)
        for name, target in targets.items():
            if not first:
                state = after(target / target.norm())
            for others in (nobody, some):
                moved = _moved(mechanism, others, target, state, noise)
                if moved is None:
                    return None
                mu = _least_mu(moved, scatter, DRAWS * WIDTH, each)
                if name == "dense":
                    mu = max(mu, _by_coordinate(moved, alone, each))
                if mu > best:
                    best, record = mu, name
    epsilon = gaussian_epsilon(best, delta) if math.isfinite(best) else math.inf
    return Measured(LowerBound(epsilon, 1 - SIGNIFICANCE, None, DRAWS, 0), record, checks)


def _checks(alone: Floats) -> tuple[Check, ...]:
    """Whether noise [n, k, d] is new each time, and in each coordinate."""
    columns = np.ascontiguousarray(alone[:, 0].T)
    # Update and reference of a release share noise: each is compared with its own kind.
    kinds = range(alone.shape[1])
    alike = min(repeated_p_value(np.ascontiguousarray(alone[:, kind])) for kind in kinds)
    return (
        Check(
            "noise of releases",
            min(1.0, len(kinds) * alike),
            SIGNIFICANCE,
            "the noise of releases repeats",
        ),
        Check(
            "noise of coordinates",
            repeated_p_value(columns),
            SIGNIFICANCE,
            "the noise of coordinates repeats",
        ),
    )


def _by_coordinate(moved: Floats, alone: Floats, significance: float) -> float:
    """The largest mu of a record in one coordinate, from what a dense one moves [k, d] there."""
    own = np.einsum("nkd,nld->dkl", alone, alone)
    gain = moved * math.sqrt(WIDTH) / max(1.0, float(np.linalg.norm(moved[0])))
    return max(_least_mu(gain[:, [j]], own[j], DRAWS, significance) for j in range(WIDTH))


def _targets(mechanism: Mechanism) -> dict[str, Tensor]:
    """Records that move a release as far as clipping lets them."""
    norm = mechanism.max_grad_norm
    one = torch.zeros(WIDTH)
    one[0] = 1.0
    every = torch.ones(WIDTH)
    signs = torch.where(torch.arange(WIDTH) % 3 == 0, -1.0, 1.0)
    return {
        "short": norm / 2 * one,
        "as long as C": norm * one,
        "long": 1e4 * norm * one,
        "dense": 1e4 * norm * every,
        "signed": 10 * norm * signs,
        "as dense as C": norm / math.sqrt(WIDTH) * every,
        "short and dense": 2 * norm / math.sqrt(WIDTH) * signs,
        "very long": torch.where(one > 0, 1e25 * norm, one),
    }


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _moved(
    mechanism: Mechanism,
    others: Tensor,
    target: Tensor,
    state: State,
    noise: Sources,
) -> Floats | None:
    """What the target moves [k, d]; None where that depends on the noise."""
    both = torch.cat([others, target[None]])
    found, size = [], 1.0
    for label in ("first", "second"):
        without = _seen(mechanism, others, state, noise(label))
        with_target = _seen(mechanism, both, state, noise(label))
        size = max(size, float(np.abs(without).max(initial=0)))
        found.append(with_target - without)
    one, other = found
    return one if np.allclose(one, other, rtol=0, atol=_ROUNDING * size) else None


def _seen(mechanism: Mechanism, gradients: Tensor, state: State, noise: Noise) -> Floats:
    """All that a release shows, [k, d], as sums in units of C."""
    with torch.inference_mode():
        released, _ = mechanism.aggregate(gradients, state, noise)
    return _sums(mechanism, released) / mechanism.max_grad_norm


def _sums(mechanism: Mechanism, released: Released) -> Floats:
    update = released.update.double().numpy() * mechanism.expected_batch
    if released.reference is None:
        return np.asarray(update[None])
    return np.stack([update, released.reference.double().numpy()])


def _least_mu(moved: Floats, scatter: Floats, draws: int, significance: float) -> float:
    """A lower confidence limit of mu: a record moves [k, d], the noise has this scatter [k, k].

    For a fixed a and a Wishart matrix S of n draws, a' Sigma^-1 a / a' S^-1 a is chi-square with
    n - k + 1 degrees of freedom.
    """
    from scipy.special import gammaincinv

    values, vectors = np.linalg.eigh(scatter)
    along = vectors.T @ moved
    silent = values <= 1e-9 * max(float(values.max()), 1e-12 * draws)
    if np.abs(along[silent]).max(initial=0) > 1e-2:
        return math.inf
    ratio = float((np.square(along[~silent]).sum(1) / values[~silent]).sum())
    freedom = draws - len(scatter) + 1
    return math.sqrt(2 * ratio * float(gammaincinv(freedom / 2, significance)))
