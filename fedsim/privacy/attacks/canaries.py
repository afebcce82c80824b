"""One-run audit of a real training: canaries in coordinates that no real record touches.

Steinke, Nasr & Jagielski (2023). Each of m canaries is in the training data with probability 1/2.
Its gradient is C in a coordinate of its own, added to the model's: there, what is released is the
mechanism's noise and the canary. (In live coordinates real gradients drown it.) The canaries go in
where the mechanism is called, so that sampling, batching, noise and the number of releases are
those of the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.privacy.attacks import TrainWith
from fedsim.privacy.audit import LowerBound, one_run
from fedsim.privacy.gradients import Gradients, parts
from fedsim.privacy.mechanisms import Info, Mechanism, PrivateReference, Released, State
from fedsim.privacy.noise import Noise

CANARIES = 1000
"""Canaries of an audit: enough for bounds up to 5.3 at 95 %."""

# Rows of canaries that are handed over at a time: with a large model they are long.
_ROWS = 64


def attack_training(
    mechanism: Mechanism,
    train_with: TrainWith,
    sample_rate: float,
    steps: int,
    delta: float,
    rng: torch.Generator,
    *,
    canaries: int = CANARIES,
    significance: float = 0.05,
) -> LowerBound:
    """Train once with canaries and bound epsilon by what the releases say about them.

    Gross faults show: missing noise, a wrong scale, steps that nobody counted. A leak that needs
    the worst case does not, and at small sampling rates little does.

    Args:
        mechanism: of the training.
        train_with: runs the training with the mechanism that it is given.
        sample_rate: probability with which a record, and so a canary, joins a step's sample.
        steps: releases that the claim covers.
        delta: the delta of the claim.
        rng: source of the coins and of the canaries' sampling, on the CPU.
        canaries: how many.
        significance: the probability with which the bound may be wrong.

    Raises:
        RuntimeError: the training made no release, or more than `steps`.
        ValueError: a release was not finite.
    """
    marked = WithCanaries(mechanism, canaries, sample_rate, rng)
    train_with(marked)
    if not 0 < marked.releases <= steps:
        raise RuntimeError(
            f"the training made {marked.releases} releases, and the claim covers {steps}"
        )
    return one_run(marked.evidence.numpy(), marked.included.numpy(), delta, significance)


class WithCanaries(Mechanism):
    """A mechanism that slips canaries into every sample it is given, and watches for them.

    The training sees the releases of its own coordinates only. Unlike other mechanisms this one
    keeps something.

    Attributes:
        inner: the mechanism under audit.
        included: bool [m], the coins.
        evidence: float64 [m], what the releases say for each canary.
        releases: how many were made.
    """

    passes: ClassVar[int] = 2  # As many as any mechanism needs.

    def __init__(
        self, inner: Mechanism, canaries: int, sample_rate: float, rng: torch.Generator
    ) -> None:
        super().__init__(
            noise_multiplier=inner.noise_multiplier,
            max_grad_norm=inner.max_grad_norm,
            expected_batch=inner.expected_batch,
        )
        self.inner = inner
        self.included = torch.rand(canaries, generator=rng) < 0.5
        self.evidence = torch.zeros(canaries, dtype=torch.float64)
        self.releases = 0
        self._sample_rate, self._rng = sample_rate, rng
        self._last: Released | None = None

    @property
    def accounted_noise_multiplier(self) -> float:
        """That of the mechanism under audit."""
        return self.inner.accounted_noise_multiplier

    def aggregate(self, gradients: Gradients, state: State, rng: Noise) -> tuple[Released, Info]:
        """Release one step of the records and the sampled canaries, see `Mechanism.aggregate`."""
        count = len(self.included)
        joins = torch.rand(count, generator=self._rng, dtype=torch.float64) < self._sample_rate
        sampled = (self.included & joins).nonzero().flatten()
        both = _Both(gradients, sampled, count, self.max_grad_norm)
        released, info = self.inner.aggregate(both, state, rng)
        self.evidence += _evidence(self.inner, released)[-count:].double().cpu()
        self.releases += 1
        self._last = released
        kept = info.kept[: len(info.kept) - len(sampled)]
        return Released(released.update[:-count]), Info(kept, info.clipped, info.nonfinite)

    def remember(self, state: State, released: Released) -> State:
        """The state after the last release, of all coordinates."""
        assert self._last is not None
        return self.inner.remember(state, self._last)


class _Both:
    """Parts [b, d + m] of a sample: its records, then the canaries."""

    def __init__(
        self, gradients: Gradients, sampled: Tensor, canaries: int, max_grad_norm: float
    ) -> None:
        self._gradients, self._sampled = gradients, sampled
        self._canaries, self._norm = canaries, max_grad_norm

    def __iter__(self) -> Iterator[Tensor]:
        for part in parts(self._gradients):
            yield torch.nn.functional.pad(part, (0, self._canaries))
            width, like = part.shape[1], part
        for rows in self._sampled.split(_ROWS):
            canaries = like.new_zeros(len(rows), width + self._canaries)
            # A little above C, so that clipping leaves C whole.
            canaries[torch.arange(len(rows)), width + rows] = self._norm * (1 + 2e-6)
            yield canaries


def _evidence(mechanism: Mechanism, released: Released) -> Tensor:
    """A release [d] as a sum in which a canary that took part stands out by C."""
    update = released.update * mechanism.expected_batch
    reference = released.reference
    if not isinstance(mechanism, PrivateReference) or reference is None:
        return update
    weight = mechanism.combine
    score = reference / mechanism.reference_noise_multiplier**2
    if weight < 1:
        # Take the update apart, and weigh both sums by how sure they are.
        filtered = (update - weight * reference) / (1 - weight)
        score = score + filtered / mechanism.noise_multiplier**2
    return score
