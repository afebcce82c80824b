"""Attacks on a release of what a client method makes of its worst records, as it makes it.

A mechanism clips whatever it is given. Here the rows are the method's own: they must be no longer
than the clipping norm before anybody clips, the release must hide each of them, and the noise must
be as loud as claimed in every coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.attacks import release
from fedsim.privacy.attacks.checks import Check, quietest_p_value
from fedsim.privacy.attacks.sources import Sources
from fedsim.privacy.audit import LowerBound, gaussian_epsilon, many_run
from fedsim.privacy.mechanisms import Mechanism, State

NOISE = "noise of each number"
"""The finding of releases of nothing, among those of the attacks."""

_LIMIT = 1e-7
_DRAWS = 400
_ROUNDING = 1e-9


def attack_rows(
    mechanism: Mechanism,
    rows: Mapping[str, Tensor],
    delta: float,
    noise: Sources,
    significance: float,
) -> Iterator[release.Finding]:
    """Attack one release at the mechanism's own values.

    Args:
        mechanism: what releases; its noise must not be 0.
        rows: name -> float [d], what one unit with the worst contents contributes.
        delta: the delta of the claim.
        noise: sources of all noise.
        significance: the probability with which one bound may be wrong.

    Yields:
        A finding for each row; then one for each width of rows, of releases of nothing.
    """
    claimed = gaussian_epsilon(1 / mechanism.accounted_noise_multiplier, delta)
    setting = release.setting_name(mechanism)
    for name, row in rows.items():
        attack = release.Attack(name, row.new_zeros(0, len(row)), row, State())
        sides = release.scores(mechanism, attack, noise(name), release.TRIALS)
        bound = many_run(*sides, delta, significance)
        length = float(row.norm()) / mechanism.max_grad_norm
        check = Check(
            f"length: {name}",
            float(length <= 1 + _ROUNDING),
            _LIMIT,
            f"a unit contributes {length:.3g} C before it is clipped, where the method says C",
        )
        yield release.Finding(name, setting, claimed, bound, bound.gaussian, (check,))
    for width in sorted({len(row) for row in rows.values()}):
        none = LowerBound(0.0, 1.0, None, 0, 0)
        check = _loudness(mechanism, width, noise)
        yield release.Finding(NOISE, setting, claimed, None, none, (check,))


def _loudness(mechanism: Mechanism, width: int, noise: Sources) -> Check:
    """Whether releases of nothing are as loud as claimed in each number."""
    source = noise(f"{NOISE} {width}")
    nothing = torch.zeros(0, width, dtype=torch.float64)
    drawn = torch.stack(
        [mechanism.aggregate(nothing, State(), source)[0].update for _ in range(_DRAWS)]
    )
    sums = drawn.double().numpy() * mechanism.expected_batch / mechanism.max_grad_norm
    scale = mechanism.noise_multiplier
    quietest = float(np.sqrt(np.square(sums).mean(axis=0).min())) / scale
    told = f"the noise of a number is {quietest:.2f} of what the claim needs"
    return Check(f"{NOISE}, {width} numbers", quietest_p_value(sums, scale), _LIMIT, told)
