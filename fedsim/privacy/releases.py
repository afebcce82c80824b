"""The client's half of a private run: sampling, releasing, and counting the releases."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.gradients import Gradients
from fedsim.privacy.mechanisms import State
from fedsim.privacy.plan import ClientPlan
from fedsim.schema import Privacy


class Releases:
    """What a client may do with its records in one round, if the run is private.

    All that a private client method learns from its records goes through `sample` and `release`,
    once each a step and as often as the plan says.

    Attributes:
        settings: the scenario's `privacy:` block.
        plan: what the client releases in this round.
        made: releases so far.
    """

    def __init__(
        self,
        settings: Privacy,
        plan: ClientPlan,
        units: np.ndarray,
        sampling: torch.Generator,
        noise: torch.Generator,
    ) -> None:
        """`units` [n] are the unit of each record, numbered from 0."""
        self.settings, self.plan = settings, plan
        self.made = 0
        self._units = units
        order = np.argsort(units, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(units, minlength=plan.units))[:-1])
        self._sampling, self._noise = sampling, noise
        self._state = State()

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw a Poisson sample: every unit joins with probability q, whatever the others do.

        Returns:
            Positions of the records [B], int64, ordered by unit, and the place [B] of each one's
            unit in the sample, 0 <= place < number of sampled units. Both may be empty.
        """
        draws = torch.rand(self.plan.units, generator=self._sampling, dtype=torch.float64)
        chosen = np.flatnonzero(draws.numpy() < self.plan.sample_rate)
        if not len(chosen):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        members = [self._members[unit] for unit in chosen]
        places = np.repeat(np.arange(len(chosen)), [len(m) for m in members])
        return np.concatenate(members).astype(np.int64), places.astype(np.int64)

    def release(self, gradients: Gradients) -> Tensor:
        """Make one release out of a sample's contributions; the only way out of the site.

        Args:
            gradients: [units of the sample, d], or parts of it, see `Mechanism.aggregate`.

        Returns:
            [d], the noisy sum over the expected batch.
        """
        if self.made >= self.plan.steps:
            raise RuntimeError(
                f"the plan allows {self.plan.steps} releases in a round, and one more was asked for"
            )
        mechanism = self.plan.mechanism
        released, _ = mechanism.aggregate(gradients, self._state, self._noise)
        self._state = mechanism.remember(self._state, released)
        self.made += 1
        return released.update
