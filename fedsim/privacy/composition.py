"""Numerical composition of privacy losses (PRV): a tighter epsilon than Renyi divergences give.

Gopi, Lee & Wutschitz, "Numerical Composition of Differential Privacy" (2021), as Opacus implements
it. Opacus composes one direction, the one in which the unit leaves; a guarantee holds for both, and
under composition neither is known to be the worse one always (Lebeda et al., "Avoiding Pitfalls for
Privacy Accounting of Subsampled Mechanisms under Composition", 2024). So both are composed here.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.opacus_analysis import prv

EPS_ERROR = 0.01
"""How far the bound may lie above the estimate."""

_ERROR = 1e-3  # of delta, as in Opacus
# 8 million points are about 1 GB of temporary arrays.
_LARGEST_GRID = 2**23

Release = tuple[float, float, int]
"""Noise multiplier, sampling rate, steps."""


@functools.lru_cache(maxsize=4096)
def epsilon_prv(history: tuple[Release, ...], delta: float, tail: float) -> float | None:
    """An upper bound on epsilon at `delta`, the larger one of both directions.

    Args:
        history: releases, noise multipliers above 0.
        delta: in (0, 1).
        tail: a loss that is hardly ever passed: epsilon of the history at `tail_deltas`' first, and
            of each of its releases at the second, whichever is largest.

    Returns:
        At most `EPS_ERROR` above the estimate; None where the numerical composition fails, or its
        grid would be too large.
    """
    leaving = [prv().PoissonSubsampledGaussianPRV(q, sigma) for sigma, q, _ in history]
    joining = [_Joining(q, sigma) for sigma, q, _ in history]
    steps = [count for _, _, count in history]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            both = [_compose(losses, steps, delta, tail) for losses in (leaving, joining)]
    except (RuntimeError, ValueError, OverflowError):  # the grid does not fit the distribution
        return None
    return max(0.0, *both) if all(map(math.isfinite, both)) else None


def tail_deltas(history: Sequence[Release], delta: float) -> tuple[float, float]:
    """Where the grid may end: the deltas of a whole history and of one release (remark 5.6)."""
    error = _ERROR * delta
    return error / 4, error / (8 * sum(steps for _, _, steps in history))


def _compose(losses: Sequence[Any], steps: list[int], delta: float, tail: float) -> float:
    """The bound in one direction.

    Raises:
        ValueError: the grid would be too large.
        RuntimeError: it does not fit the distribution.
    """
    delta_error = _ERROR * delta
    # As Opacus' `compute_safe_domain_size`, which takes seconds to compute the tail anew.
    size = max(tail, EPS_ERROR) + 3
    mesh = EPS_ERROR / math.sqrt(sum(steps) * math.log(12 / delta_error) / 2)
    if not 2 * size / mesh <= _LARGEST_GRID:
        raise ValueError(f"A grid of {2 * size / mesh:.0f} points is too large.")
    domain = prv().Domain.create_aligned(-size, size, mesh)
    truncated = [
        prv().TruncatedPrivacyRandomVariable(x, domain.t_min, domain.t_max) for x in losses
    ]
    composed = prv().compose_heterogeneous([prv().discretize(x, domain) for x in truncated], steps)
    return float(composed.compute_epsilon(delta, delta_error, EPS_ERROR)[2])


class _Joining:
    """The privacy loss of a release when the unit joins: log N(0) / ((1 - q) N(0) + q N(1))."""

    def __init__(self, sample_rate: float, noise_multiplier: float) -> None:
        self.sample_rate, self.noise_multiplier = sample_rate, noise_multiplier

    def cdf(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of a loss of at most `t`, under N(0, sigma^2)."""
        from scipy.special import erfc

        q, sigma = self.sample_rate, self.noise_multiplier
        # The loss falls in x: it is at most t from the x on where the mixture's ratio is e^-t.
        ratio = (np.exp(-np.asarray(t, dtype=np.float64)) - (1 - q)) / q
        x = sigma**2 * np.log(np.where(ratio > 0, ratio, 1.0)) + 0.5
        found = np.where(ratio > 0, erfc(x / (sigma * math.sqrt(2))) / 2, 1.0)
        return np.asarray(found, dtype=np.float64)
