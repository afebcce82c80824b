"""Mechanisms: how the per-sample gradients of one Poisson sample become one noisy release.

Every mechanism is a frozen set of numbers with one pure function
`aggregate(gradients, state, rng) -> (released, info)`, so that an audit attacks exactly what
training uses. `released` is all that may leave the step, and `remember(state, released)` makes of
it the state of the next one; `info` is the simulator's own view of the step, private data that
must not steer training.

What makes a filter sound (`certified`): the decision about a record depends on its own gradient
and on released quantities only, so adding or removing one record moves every sum by at most the
clipping norm C; sums are divided by the fixed expected batch, never by a count; a gradient that is
not finite counts as zero; a sample without records releases noise like any other.

Noise is a `fedsim.privacy.noise.Noise`. Seeded noise is for simulation: who knows the seed can take
it off again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from fedsim.privacy.accounting import effective_noise_multiplier
from fedsim.privacy.gradients import (
    Gradients,
    Part,
    add_weighted,
    clip,
    parts,
    require_multipliers,
    written,
    zeros,
)
from fedsim.privacy.noise import BLOCK, Noise, settle


@dataclass(frozen=True)
class State:
    """What a mechanism remembers: a function of past releases alone. Rebuilt from `vars(state)`.

    Attributes:
        step: releases so far.
        reference: [d] the last unfiltered release, a sum; None where no rule needs it.
        mean, square: [d] averages of the unfiltered releases and of their squares, with weights
            that fall by `MEMORY` a release, starting at zero; None where no rule needs them.
        seen: releases in these averages.
    """

    step: int = 0
    reference: Tensor | None = None
    mean: Tensor | None = None
    square: Tensor | None = None
    seen: int = 0


MEMORY = 0.9


@dataclass(frozen=True)
class Released:
    """All that leaves one step.

    Attributes:
        update: [d] the gradient for the optimiser.
        reference: [d] the sum of all clipped gradients with noise, where this step released it.
    """

    update: Tensor
    reference: Tensor | None = None


@dataclass(frozen=True)
class Info:
    """Private diagnostics of one step.

    Attributes:
        kept: bool [B] the records whose gradient entered the update.
        clipped: how many gradients were longer than C.
        nonfinite: how many gradients had no finite norm and counted as zero.
    """

    kept: Tensor
    clipped: int
    nonfinite: int


@dataclass(frozen=True)
class Dimensions:
    """Compare directions only in the coordinates where a measure is above its gamma-quantile.

    measure: `magnitude` |mean|, `std`, or `cov` = std / |mean|.
    gamma: share of the coordinates left out, 0 <= gamma < 1.
    """

    measure: Literal["magnitude", "std", "cov"]
    gamma: float

    def __post_init__(self) -> None:
        if self.measure not in ("magnitude", "std", "cov"):
            raise ValueError(f"The measure must be magnitude, std or cov, not {self.measure!r}.")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"Gamma must be at least 0 and below 1, not {self.gamma}.")

    def observe(self, state: State, release: Tensor) -> State:
        """The state whose averages include one more unfiltered release [d]."""
        mean = torch.zeros_like(release) if state.mean is None else state.mean
        square = torch.zeros_like(release) if state.square is None else state.square
        return replace(
            state,
            mean=MEMORY * mean + (1 - MEMORY) * release,
            square=MEMORY * square + (1 - MEMORY) * release.square(),
            seen=state.seen + 1,
        )

    def of_releases(self, state: State) -> Tensor | None:
        """The coordinates that count, bool [d], from past releases alone; None means all."""
        if state.mean is None or state.square is None:
            return None
        started = 1 - MEMORY**state.seen
        mean = state.mean / started
        deviation = (state.square / started - mean.square()).clamp_min(0).sqrt()
        return self.above_quantile(mean.abs(), deviation, mean)

    def above_quantile(self, magnitude: Tensor, deviation: Tensor, mean: Tensor) -> Tensor | None:
        """Coordinates strictly above the quantile, bool [d]; None where there are none."""
        values = {
            "magnitude": magnitude,
            "std": deviation,
            "cov": deviation / (mean.abs() + 1e-12),
        }[self.measure]
        rank = math.floor(self.gamma * (len(values) - 1)) + 1
        above = values > values.kthvalue(rank).values
        return above if bool(above.any()) else None


@dataclass(frozen=True, kw_only=True)
class Mechanism(ABC):
    """What all mechanisms share.

    Attributes:
        noise_multiplier: sigma; the noise on a sum has standard deviation sigma * C. 0: no noise,
            and no privacy.
        max_grad_norm: C, the largest Euclidean norm of one gradient; infinity clips nothing and
            is refused together with noise.
        expected_batch: L = q * n, what every sum is divided by.

    Raises:
        ValueError: a number out of range.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch: float

    certified: ClassVar[bool] = True
    """Whether `accounted_noise_multiplier` is proved; without, it is what is claimed."""
    passes: ClassVar[int] = 1
    """How often the gradients of a logical batch are needed."""

    def __post_init__(self) -> None:
        require_multipliers(noise_multiplier=self.noise_multiplier)
        if not self.max_grad_norm > 0:
            raise ValueError(f"The clipping norm must be above 0, not {self.max_grad_norm}.")
        if math.isinf(self.max_grad_norm) and self.noise_multiplier:
            raise ValueError("Noise needs a finite clipping norm: without one it has no scale.")
        if not (math.isfinite(self.expected_batch) and self.expected_batch > 0):
            raise ValueError(f"The expected batch must be above 0, not {self.expected_batch}.")

    @property
    def accounted_noise_multiplier(self) -> float:
        """The noise multiplier of one step that the accountant is told."""
        return self.noise_multiplier

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on each number of a sum, before it is divided."""
        return self._scale(self.noise_multiplier)

    @abstractmethod
    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step.

        Args:
            gradients: float [B, d] of one Poisson sample, B >= 0, or its parts.
            state: what `remember` made of the releases before; `State()` at first.
            rng: the noise of this release, see `Noise.for_release`.
        """

    def remember(self, state: State, released: Released) -> State:
        """The state after a release: computed from what was released, so it costs nothing."""
        return replace(state, step=state.step + 1)

    def _noise(self, total: Tensor, rng: Noise) -> Tensor:
        """Noise for a sum [d], float64."""
        return rng.gaussian(total.shape, self._scale(self.noise_multiplier), total)

    def _noisy(self, exact: Tensor, dtype: torch.dtype, rng: Noise) -> Tensor:
        """What is released of a sum [d]: with its noise, in the gradients' dtype."""
        if exact.device.type != "cpu":
            return self._settle(exact + self._noise(exact, rng), dtype)
        # In blocks, which stay in a core's cache: fresh memory costs more than to compute.
        result = torch.empty(exact.shape, dtype=dtype)
        for some, out in zip(exact.split(BLOCK), result.split(BLOCK), strict=True):
            out.copy_(self._settle(some + self._noise(some, rng), dtype))
        return result

    def _settle(self, exact: Tensor, dtype: torch.dtype) -> Tensor:
        """What is released of a sum [d] with its noise, in the gradients' dtype."""
        return settle(exact, self._scale(self.noise_multiplier), dtype)

    def _scale(self, noise_multiplier: float) -> float:
        """Standard deviation of the noise on a sum; 0 noise is 0 even where C is infinite."""
        return noise_multiplier * self.max_grad_norm if noise_multiplier else 0.0


@dataclass(frozen=True, kw_only=True)
class DPSGD(Mechanism):
    """Plain DP-SGD (Abadi et al., 2016): clip, add up, add noise, divide by the expected batch."""

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step, see `Mechanism.aggregate`."""
        exact, dtype, info = _filtered_sum(gradients, self.max_grad_norm)
        return Released(self._noisy(exact, dtype, rng).div_(self.expected_batch)), info


@dataclass(frozen=True, kw_only=True)
class NoiseShare(DPSGD):
    """One client's part of a sum over several clients, with its share of the noise.

    By itself it is not as private as it is accounted for; the sum of all parts is.

    Attributes:
        parties: how many clients there are; each adds 1 / parties of the variance.
    """

    parties: int

    def _scale(self, noise_multiplier: float) -> float:
        return super()._scale(noise_multiplier) / math.sqrt(self.parties)

    @property
    def summed(self) -> SecureSum:
        """The mechanism whose releases the server sees."""
        return SecureSum(**vars(self))


@dataclass(frozen=True, kw_only=True)
class SecureSum(NoiseShare):
    """What is released of a sum to which each of several clients adds its share of the noise."""

    def _noise(self, total: Tensor, rng: Noise) -> Tensor:
        shares = [super(SecureSum, self)._noise(total, rng) for _ in range(self.parties)]
        return torch.stack(shares).sum(0)

    def _noisy(self, exact: Tensor, dtype: torch.dtype, rng: Noise) -> Tensor:
        # Whole: a client draws all of its share at once.
        return self._settle(exact + self._noise(exact, rng), dtype)


@dataclass(frozen=True, kw_only=True)
class PrivateReference(Mechanism):
    """DP-SGD that keeps gradients pointing along a private sum of the same sample.

    First R, the noisy sum of all clipped gradients, is released; then S, the noisy sum of those
    whose cosine with R is above psi. The update mixes both. Two Gaussians on one Poisson sample:
    accounted at the effective multiplier of both.

    Attributes:
        reference_noise_multiplier: that of R.
        psi: keep a record where its cosine with the signal in R is above psi, -1 <= psi < 1;
            psi = -1 keeps all. The norm of R is mostly noise in high dimensions; its expectation
            is taken off, and where nothing is left the sign of the cosine decides.
        combine: weight of R in the update, between 0 and 1.
        dimensions: coordinates to compare; None compares all.
    """

    reference_noise_multiplier: float
    psi: float = 0.0
    combine: float = 0.5
    dimensions: Dimensions | None = None
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_multipliers(reference_noise_multiplier=self.reference_noise_multiplier)
        _require_psi(self.psi)
        if math.isinf(self.max_grad_norm) and self.reference_noise_multiplier:
            raise ValueError("Noise needs a finite clipping norm: without one it has no scale.")
        if not 0 <= self.combine <= 1:
            raise ValueError(f"The weight combine must lie between 0 and 1, not {self.combine}.")

    @property
    def accounted_noise_multiplier(self) -> float:
        """The effective multiplier of both releases."""
        return effective_noise_multiplier(self.noise_multiplier, self.reference_noise_multiplier)

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step, see `Mechanism.aggregate`."""
        exact, dtype, _ = _filtered_sum(gradients, self.max_grad_norm)
        # The noise of S first: at psi = -1 and combine = 0 this is DP-SGD bit for bit.
        noise = self._noise(exact, rng)
        scale = self._scale(self.reference_noise_multiplier)
        drawn = rng.gaussian(exact.shape, scale, exact)
        reference = settle(exact + drawn, scale, dtype)
        mask = self.dimensions.of_releases(state) if self.dimensions else None
        rule = _Filter(reference, scale, self.psi, mask)
        exact, dtype, info = _filtered_sum(gradients, self.max_grad_norm, rule)
        total = self._settle(exact + noise, dtype)
        mixed = (1 - self.combine) * total + self.combine * reference
        return Released(mixed / self.expected_batch, reference), info

    def remember(self, state: State, released: Released) -> State:
        """The state after a release, see `Mechanism.remember`."""
        if self.dimensions is not None and released.reference is not None:
            state = self.dimensions.observe(state, released.reference)
        return replace(state, step=state.step + 1)


@dataclass(frozen=True, kw_only=True)
class AlternatingReference(Mechanism):
    """DP-SGD whose every second step keeps gradients that point along the step before.

    Steps 0, 2, 4, ... are plain; the others compare with the last plain release, which is public
    already: accounted as DP-SGD. (A reference out of filtered releases follows itself and
    training collapses.)

    Attributes:
        psi, dimensions: as in `PrivateReference`.
    """

    psi: float = 0.0
    dimensions: Dimensions | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_psi(self.psi)

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step, see `Mechanism.aggregate`."""
        rule = None
        if state.step % 2 and state.reference is not None:
            mask = self.dimensions.of_releases(state) if self.dimensions else None
            rule = _Filter(state.reference, self._scale(self.noise_multiplier), self.psi, mask)
        exact, dtype, info = _filtered_sum(gradients, self.max_grad_norm, rule)
        total = self._noisy(exact, dtype, rng)
        return Released(total / self.expected_batch, None if rule else total), info

    def remember(self, state: State, released: Released) -> State:
        """The state after a release, see `Mechanism.remember`."""
        if released.reference is not None:
            if self.dimensions is not None:
                state = self.dimensions.observe(state, released.reference)
            state = replace(state, reference=released.reference)
        return replace(state, step=state.step + 1)


@dataclass(frozen=True)
class _Filter:
    """Keep gradients whose cosine with the signal in a released sum is above psi."""

    reference: Tensor
    noise_scale: float
    psi: float
    mask: Tensor | None

    def __call__(self, gradients: Part, norms: Tensor) -> Tensor:
        """bool [b] for gradients [b, d] of these norms [b]; each decides for itself."""
        if self.psi <= -1:
            return torch.ones(len(gradients), dtype=torch.bool, device=gradients.device)
        reference = self.reference
        if self.mask is not None:
            reference = reference[self.mask]
            gradients = written(gradients)[:, self.mask]
            norms = gradients.norm(dim=1)
        energy = reference.square().sum() - len(reference) * self.noise_scale**2
        lengths = norms * energy.clamp_min(1e-24).sqrt()
        return (gradients @ reference / lengths.clamp_min(1e-30)).clamp(-1, 1) > self.psi


class _Sum(NamedTuple):
    """A sum without noise: float64 [d], the dtype of what was added up, and what went into it."""

    exact: Tensor
    dtype: torch.dtype
    info: Info


def _filtered_sum(gradients: Gradients, max_grad_norm: float, rule: _Filter | None = None) -> _Sum:
    """Sum of the clipped gradients that the rule keeps.

    One record must not move it by more than C, see `add_weighted`.
    """
    total: Tensor | None = None
    dtype = torch.float32
    kept, clipped, nonfinite = [], 0, 0
    for part in parts(gradients):
        ready = clip(part, max_grad_norm)
        keep = torch.ones_like(ready.finite) if rule is None else rule(ready.gradients, ready.norms)
        if total is None:
            total = zeros(part)
            dtype = part.dtype
        add_weighted(total, ready.factors * keep, ready.gradients)
        kept.append(keep & ready.finite)
        clipped += int((ready.norms > max_grad_norm).sum())
        nonfinite += int((~ready.finite).sum())
    assert total is not None  # `parts` yields one at least
    return _Sum(total, dtype, Info(torch.cat(kept), clipped, nonfinite))


def _require_psi(psi: float) -> None:
    if not -1 <= psi < 1:
        raise ValueError(f"psi must be at least -1 and below 1, not {psi}.")
