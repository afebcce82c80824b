"""Faults that make an epsilon false, each patched into the code that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsim.privacy import mechanisms, training
from fedsim.privacy.gradients import Clipped, clip
from fedsim.privacy.noise import Noise
from fedsim.privacy.per_sample import PerSampleGradients
from fedsim.privacy.training import fit_private

Mutate = Callable[[pytest.MonkeyPatch], None]


def noise_times(factor: float) -> Mutate:
    """Noise of another scale than the one that was asked for."""
    gaussian = Noise.gaussian

    def mutate(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            Noise, "gaussian", lambda self, shape, s, like: gaussian(self, shape, factor * s, like)
        )

    return mutate


def clip_at_twice_c(patch: pytest.MonkeyPatch) -> None:
    """Clipping to another norm than the noise is made for."""
    patch.setattr(mechanisms, "clip", lambda gradients, norm: clip(gradients, 2 * norm))


def clip_per_coordinate(patch: pytest.MonkeyPatch) -> None:
    """Each coordinate to C, not all together."""

    def each(gradients: torch.Tensor, norm: float) -> Clipped:
        found = clip(gradients, float("inf"))
        short = found.gradients.clamp(-norm, norm)
        return found._replace(gradients=short, factors=torch.ones_like(found.factors))

    patch.setattr(mechanisms, "clip", each)


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    """Gradients as they are."""
    patch.setattr(mechanisms, "clip", lambda gradients, norm: clip(gradients, float("inf")))


def fixed_batch(patch: pytest.MonkeyPatch) -> None:
    """One sample for all steps."""
    patch.setattr(Noise, "for_sample", lambda self, number: Noise.seeded(b"one"))


def shuffled_batches(patch: pytest.MonkeyPatch) -> None:
    """A permutation of the records, batch by batch: not the sample that amplifies."""
    uniform = Noise.uniform

    def of_a_permutation(self: Noise, count: int) -> Any:
        ranks = uniform(self, count).argsort().argsort()
        return (ranks + 0.5) / count

    patch.setattr(Noise, "uniform", of_a_permutation)


def every_record(patch: pytest.MonkeyPatch) -> None:
    """All records in each step, charged at the sampling rate."""
    uniform = Noise.uniform
    patch.setattr(Noise, "uniform", lambda self, count: 0 * uniform(self, count))


def same_noise_in_all_steps(patch: pytest.MonkeyPatch) -> None:
    """New noise each round, but not each step."""
    patch.setattr(Noise, "for_release", lambda self, number: self.derive("release", 0))


def same_noise_in_all_rounds_and_clients(patch: pytest.MonkeyPatch) -> None:
    """New noise each step, but not each round, nor for each client."""
    patch.setattr(Noise, "for_release", lambda self, number: Noise.seeded(b"step %d" % number))


def same_noise_for_all_clients(patch: pytest.MonkeyPatch) -> None:
    """A key that forgets whose it is."""
    derive = Noise.derive

    def without_client(self: Noise, *labels: Any) -> Noise:
        return derive(self, *(labels[:-1] if labels[0] == "client" else labels))

    patch.setattr(Noise, "derive", without_client)


def same_noise_on_other_data(patch: pytest.MonkeyPatch) -> None:
    """A key that forgets what was released."""
    seeded = Noise.seeded

    def of_nothing(digest: bytes) -> Noise:
        return seeded(b"seed")

    patch.setattr(Noise, "seeded", of_nothing)


def one_draw_for_all_coordinates(patch: pytest.MonkeyPatch) -> None:
    """One number of noise, added everywhere."""
    gaussian = Noise.gaussian

    def one(self: Noise, shape: Any, scale: float, like: torch.Tensor) -> torch.Tensor:
        return gaussian(self, (1,), scale, like).expand(shape).clone()

    patch.setattr(Noise, "gaussian", one)


class _Raw:
    """Releases noise, and hands on the sum without it."""

    def __init__(self, releases: Any) -> None:
        self._releases = releases

    def __getattr__(self, name: str) -> Any:
        return getattr(self._releases, name)

    def release(self, gradients: Any) -> torch.Tensor:
        rows = torch.cat([part.clone() for part in gradients])
        self._releases.release(rows)
        return rows.sum(0) / self.plan.mechanism.expected_batch  # type: ignore[no-any-return]


def trained_on_the_raw_sum(patch: pytest.MonkeyPatch) -> None:
    """The noisy sum is released, and the model is moved by another one."""

    def raw(model: Any, read: Any, releases: Any, *rest: Any, **options: Any) -> None:
        fit_private(model, read, _Raw(releases), *rest, **options)

    patch.setattr(training, "fit_private", raw)


def gradients_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    """Each "per-sample" gradient is the sum of all."""
    gradients = PerSampleGradients.gradients

    def summed(self: Any, *arguments: Any) -> torch.Tensor:
        rows = gradients(self, *arguments)
        return rows.sum(0).expand_as(rows).clone()

    for name in ("gradients", "contributions"):
        patch.setattr(PerSampleGradients, name, summed)


MECHANISM: dict[str, Mutate] = {
    "noise x 1/2": noise_times(0.5),
    "noise x 0.7": noise_times(0.7),
    "noise x 0.9": noise_times(0.9),
    "no noise": noise_times(0.0),
    "clip at 2C": clip_at_twice_c,
    "clip per coordinate": clip_per_coordinate,
    "no clipping": no_clipping,
    "one draw for all coordinates": one_draw_for_all_coordinates,
}
"""What the level `mechanism` finds."""

RUN: dict[str, tuple[Mutate, str]] = {
    "noise x 1/2": (noise_times(0.5), "noise of a release is 0.5"),
    "noise x 1/4": (noise_times(0.25), "noise of a release is 0.2"),
    "noise x 0.9": (noise_times(0.9), "noise of a release"),
    "no noise": (noise_times(0.0), "noise of a release is 0.00"),
    "no clipping": (no_clipping, "moves a release by"),
    "clip at 2C": (clip_at_twice_c, "moves a release by"),
    "clip per coordinate": (clip_per_coordinate, "moves a release by"),
    "fixed batch": (fixed_batch, "samples are not independent"),
    "shuffled batches": (shuffled_batches, "fixed size"),
    "every record": (every_record, "samples hold 5 times"),
    "same noise in all steps": (same_noise_in_all_steps, "noise of steps repeats"),
    "same noise in all rounds and clients": (
        same_noise_in_all_rounds_and_clients,
        "noise of rounds and clients repeats",
    ),
    "same noise for all clients": (
        same_noise_for_all_clients,
        "noise of rounds and clients repeats",
    ),
    "same noise on other data": (same_noise_on_other_data, "data that differ by a record"),
    "one draw for all coordinates": (
        one_draw_for_all_coordinates,
        "noise of coordinates repeats",
    ),
    "trained on the raw sum": (trained_on_the_raw_sum, "depends on more than what was released"),
    "gradients of the batch": (gradients_of_the_batch, "depends on other records"),
}
"""What the level `run` finds, and what it says of it."""
