"""Private training of a model: what it equals, and what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.models import SmallCNN
from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan, build_mechanism
from fedsim.privacy.releases import Releases
from fedsim.privacy.training import fit_private
from fedsim.scenario.schema import Privacy

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 2
STEPS = 6


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def read(positions: np.ndarray) -> tuple[Tensor, Tensor]:
    return IMAGES[positions], LABELS[positions]


def small() -> SmallCNN:
    torch.manual_seed(0)
    return SmallCNN(2, 3, 8, width=8)


def releases(
    units: np.ndarray | None = None, batch: int = 10, steps: int = STEPS, **keys: object
) -> Releases:
    units = np.arange(40) if units is None else units
    count = int(units.max()) + 1
    block = Privacy(**{"noise_multiplier": 0.0, "max_grad_norm": 1e9} | keys)
    mechanism = build_mechanism(block, block.noise_multiplier or 0.0, batch)
    plan = ClientPlan(count, min(1.0, batch / count), steps, mechanism)
    return Releases(block, plan, units, Noise.seeded(b"3"))


def trained(given: Releases, **options: object) -> Tensor:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    device = torch.device("cpu")
    fit_private(model, read, given, range(STEPS), optimizer, losses, device=device, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_without_clipping_and_noise_it_is_sgd_on_the_same_samples() -> None:
    model, samples = small(), releases()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        positions, places = samples.sample()
        images, labels = read(positions)
        optimizer.zero_grad()
        (F.cross_entropy(model(images), labels, reduction="sum") / 10).backward()
        optimizer.step()
        samples.release(torch.zeros(len(places), 1))
    plain = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(trained(releases()), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("reference", [None, "private"])
def test_splitting_a_sample_changes_nothing(size: int, reference: str | None) -> None:
    keys = {"max_grad_norm": 1.0, "noise_multiplier": 1.0}
    if reference:
        keys["filter"] = {"reference": reference}
    whole = trained(releases(**keys, physical_batch=64))
    torch.testing.assert_close(
        trained(releases(**keys, physical_batch=size)), whole, rtol=1e-5, atol=1e-6
    )


def test_psi_minus_one_is_plain_dp_sgd() -> None:
    keys = {"max_grad_norm": 1.0, "noise_multiplier": 1.0}
    plain = trained(releases(**keys))
    kept = trained(releases(**keys, filter={"reference": "alternating", "psi": -1.0}))
    assert torch.equal(plain, kept)


def test_records_of_a_patient_are_sampled_and_clipped_as_one() -> None:
    """One patient with all records: the update is one clipped sum, however many there are."""
    units = np.zeros(40, dtype=np.int64)
    given = releases(units, batch=1, max_grad_norm=0.5, physical_batch=7)
    seen = []
    original = given.release
    given.release = lambda parts: seen.append(torch.cat(list(parts))) or original(parts)  # type: ignore
    trained(given)
    model = small()
    total = F.cross_entropy(model(IMAGES), LABELS, reduction="sum")
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, [*model.parameters()])])
    assert [tuple(rows.shape) for rows in seen] == [(1, len(expected))] * STEPS
    torch.testing.assert_close(seen[0][0], expected, rtol=1e-4, atol=1e-5)


def test_units_join_samples_independently_with_the_planned_rate() -> None:
    units = np.repeat(np.arange(20), 2)
    given = releases(units, batch=5, steps=4000)
    counts = np.zeros(20)
    for _ in range(4000):
        positions, places = given.sample()
        assert (np.diff(places) >= 0).all()
        assert sorted(np.bincount(places)) == [2] * (len(positions) // 2)
        counts[np.unique(units[positions])] += 1
        given.release(torch.zeros(len(positions) // 2, 1))
    assert np.abs(counts / 4000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_augmented_copies_of_a_record_share_its_norm() -> None:
    """Copies that are all alike change nothing: a record's gradients are averaged."""
    keys = {"max_grad_norm": 0.3}
    once = trained(releases(**keys))
    four = trained(releases(**keys, augmentations=4, physical_batch=10))
    torch.testing.assert_close(once, four, rtol=1e-4, atol=1e-6)


def test_augmentation_draws_for_every_copy() -> None:
    shapes = []

    def augment(images: Tensor) -> Tensor:
        shapes.append(len(images))
        return images

    given = releases(augmentations=3)
    trained(given, augment=augment)
    again, expected = releases(), []
    for _ in range(STEPS):
        expected.append(3 * len(again.sample()[0]))
        again.release(torch.zeros(expected[-1] // 3, 1))
    assert shapes == expected


def test_averaged_iterates_are_sent_in_place_of_the_last() -> None:
    model, decay = small(), 0.5
    last = trained(releases())
    averaged = trained(releases(averaging=decay))
    assert not torch.equal(last, averaged)
    # By hand: the weights of the iterates fall by `decay` and sum to one.
    iterates = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.register_step_post_hook(
        lambda *_: iterates.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    )
    device = torch.device("cpu")
    fit_private(model, read, releases(), range(STEPS), optimizer, losses, device=device)
    weights = torch.tensor([decay ** (STEPS - 1 - i) for i in range(STEPS)])
    expected = (torch.stack(iterates) * weights[:, None]).sum(0) / weights.sum()
    torch.testing.assert_close(averaged, expected, rtol=1e-5, atol=1e-6)


def test_an_empty_sample_releases_noise() -> None:
    given = releases(batch=1, noise_multiplier=1.0, max_grad_norm=1.0)
    given.plan.__dict__["sample_rate"] = 1e-12
    start = torch.cat([p.detach().flatten() for p in small().parameters()])
    moved = trained(given)
    assert given.made == STEPS
    assert (moved != start).all()


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    broken = releases(batch=40, max_grad_norm=1.0)

    def read_broken(positions: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = read(positions)
        images[0] = float("inf")
        return images, labels

    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    device = torch.device("cpu")
    fit_private(model, read_broken, broken, range(STEPS), optimizer, losses, device=device)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_norms_of_long_gradients_are_right_to_single_precision() -> None:
    from fedsim.privacy.gradients import clip

    rows = torch.randn(4, 3_000_000, generator=torch.Generator().manual_seed(0))
    exact = rows.double().norm(dim=1)
    torch.testing.assert_close(clip(rows, 1.0).norms.double(), exact, rtol=2e-6, atol=0.0)


def test_plain_dp_sgd_holds_one_part_at_a_time() -> None:
    given, alive = releases(max_grad_norm=1.0, physical_batch=2), []
    original = given.release

    def watched(parts):
        assert not isinstance(parts, list)
        alive.append(sum(1 for _ in parts))
        return original(parts)

    given.release = watched  # type: ignore[method-assign]
    trained(given)
    assert max(alive) > 2
