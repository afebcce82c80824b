"""Distribution matching out of noisy sums."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.distillation import redraw
from fedsim.distillation.private import match_privately
from fedsim.models import ConvNet
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan, build_mechanism
from fedsim.privacy.releases import Releases
from fedsim.scenario.schema import Privacy

REAL = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
OWN = torch.tensor([0] * 9 + [1] * 3)
LABELS = torch.tensor([0, 0, 1, 1])


def releases(steps: int = 1, units: np.ndarray | None = None, **keys: object) -> Releases:
    units = np.arange(12) if units is None else units
    block = Privacy(**{"noise_multiplier": 0.0, "max_grad_norm": 1e9} | keys)
    count = int(units.max()) + 1
    mechanism = build_mechanism(block, block.noise_multiplier or 0.0, count)
    plan = ClientPlan(count, 1.0, steps, mechanism)
    return Releases(block, plan, units, Noise.seeded(b"5"))


def moved(given: Releases, steps: int = 1) -> tuple[Tensor, Tensor, nn.Module]:
    """Images before and after, and the encoder."""
    encoder = ConvNet(2, 3, 16, 8, 3).features.requires_grad_(False)
    draws = torch.Generator().manual_seed(2)
    start = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    images = start.clone().requires_grad_(True)
    match_privately(
        images,
        LABELS,
        encoder,
        lambda: redraw(encoder, draws),
        lambda at: (REAL[at], OWN[at]),
        given,
        range(steps),
        torch.optim.SGD([images], lr=1.0),
        classes=2,
        pool=1,
        after=lambda: None,
    )
    return start, images.detach(), encoder


def test_without_noise_it_matches_the_classes_by_their_share() -> None:
    start, after, encoder = moved(releases())
    images = start.clone().requires_grad_(True)

    def means(pictures: Tensor, labels: Tensor) -> Tensor:
        pooled = encoder(pictures).view(len(pictures), 8, -1).mean(2)
        return torch.stack([pooled[labels == c].mean(0) for c in (0, 1)])

    away = (means(REAL, OWN) - means(images, LABELS)).square().sum(1)
    loss = (away * 2 * torch.tensor([9 / 12, 3 / 12])).sum()
    (gradient,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(start - after, gradient, rtol=1e-3, atol=1e-6)


def test_one_record_moves_a_release_by_at_most_the_clipping_norm() -> None:
    given, seen = releases(max_grad_norm=0.1), []
    original = given.release
    given.release = lambda rows: seen.append(rows) or original(rows)  # type: ignore
    moved(given)
    assert seen[0].shape == (12, 2 * 8)
    # A record counts in the place of its own class alone.
    parts = seen[0].view(12, 2, 8).norm(dim=2)
    assert (parts[torch.arange(12), OWN] > 0).all()
    assert (parts[torch.arange(12), 1 - OWN] == 0).all()


def test_records_of_a_patient_count_together() -> None:
    units = np.array([0] * 6 + [1] * 6)
    given, seen = releases(units=units), []
    original = given.release
    given.release = lambda rows: seen.append(rows) or original(rows)  # type: ignore
    moved(given)
    assert seen[0].shape == (2, 16)


def test_noise_alone_moves_images_where_no_record_was_sampled() -> None:
    given = releases(noise_multiplier=1.0, max_grad_norm=1.0)
    given.plan.__dict__["sample_rate"] = 1e-12
    start, after, _ = moved(given)
    assert (start != after).any()
    assert torch.isfinite(after).all()
