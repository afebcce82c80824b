"""Masks, the transform, and the scores by their definitions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsim.errors import InputError
from fedsim.tasks.reconstruction import (
    Reconstruction,
    Sampling,
    centre_lines,
    from_kspace,
    line_mask,
    magnitude,
    model_input,
    poisson_mask,
    to_kspace,
)
from fedsim.tasks.reconstruction.metrics import psnr, ssim


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lines_of_256_at_4x_with_24_in_the_middle() -> None:
    mask = line_mask((256, 256), 4.0, 24, chance())
    assert int(mask[0].sum()) == 64
    assert mask[0, 116:140].all()
    assert (mask == mask[0]).all()
    assert not torch.equal(mask, line_mask((256, 256), 4.0, 24, chance(1)))
    assert torch.equal(mask, line_mask((256, 256), 4.0, 24, chance()))


def test_lines_in_the_middle_follow_the_size() -> None:
    assert [centre_lines(24, width) for width in (256, 128, 64, 8)] == [24, 12, 6, 1]


def test_poisson_points_are_as_many_as_asked_and_denser_in_the_middle() -> None:
    mask = poisson_mask((64, 64), 4.0, 6, chance())
    assert int(mask.sum()) == pytest.approx(1024, rel=0.06)
    assert mask[29:35, 29:35].all()
    assert mask[16:48, 16:48].mean() > 1.5 * mask.mean()


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (lambda: Sampling(acceleration=0.5), "acceleration must be at least 1"),
        (lambda: Sampling(centre=0), "centre must be at least one line"),
        (lambda: Sampling(acceleration=16).mask((64, 64), chance()), "6 lines in the middle"),
        (
            lambda: Sampling(acceleration=1e9, centre=1).mask((64, 64), chance()),
            "the 0 of 64 lines",
        ),
        (lambda: Sampling("poisson", 1e9, 1).mask((64, 64), chance()), "the 0 points"),
        (
            lambda: Sampling("poisson", 4.0, 200).mask((64, 64), chance()),
            "a square of 50 x 50 points",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(sampling: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampling()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("size", "sampling", "words"),
    [
        (6, Sampling(), "6 x 6 pixels are too small"),
        (64, Sampling(acceleration=16), "6 lines in the middle"),
        (64, Sampling("poisson", 4.0, 200), "a square of 50 x 50 points"),
    ],
)
def test_slices_that_cannot_be_measured_or_scored_are_told_before_a_run(
    size: int, sampling: Sampling, words: str
) -> None:
    store = SimpleNamespace(size=size, sampling=sampling)
    with pytest.raises(InputError, match=words):
        Reconstruction.of(SimpleNamespace(), store, ["a"])  # type: ignore[arg-type]
    assert Reconstruction.of(SimpleNamespace(), SimpleNamespace(size=7, sampling=Sampling()), ["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_the_transform_keeps_energy_and_has_frequency_0_in_the_middle(
    size: tuple[int, int],
) -> None:
    image = torch.randn(2, 2, *size, generator=chance())
    kspace = to_kspace(image)
    assert torch.allclose(from_kspace(kspace), image, atol=1e-5)
    assert float(kspace.square().sum()) == pytest.approx(float(image.square().sum()), rel=1e-5)
    flat = torch.cat([torch.ones(1, 1, *size), torch.zeros(1, 1, *size)], dim=1)
    found = magnitude(to_kspace(flat))[0]
    assert divmod(int(found.argmax()), size[1]) == (size[0] // 2, size[1] // 2)


def test_a_network_is_given_the_zero_filled_image_and_the_mask() -> None:
    image, mask = torch.randn(1, 2, 8, 8, generator=chance()), torch.ones(1, 1, 8, 8)
    given = model_input(image, mask)
    assert torch.allclose(given[:, :2], image, atol=1e-5)
    assert torch.equal(given[:, 2:], mask)


def test_psnr_by_its_definition() -> None:
    truth = torch.rand(3, 9, 9, generator=chance())
    found = truth + 0.1 * torch.randn(3, 9, 9, generator=chance(1))
    want = [
        10 * np.log10(float(t.max()) ** 2 / float((f - t).double().square().mean()))
        for f, t in zip(found, truth, strict=True)
    ]
    assert psnr(found, truth) == pytest.approx(want, abs=1e-4)
    assert np.isfinite(psnr(truth, truth)).all()


def test_ssim_by_its_definition() -> None:
    truth = torch.rand(1, 9, 8, generator=chance())
    found = truth + 0.2 * torch.randn(1, 9, 8, generator=chance(1))
    x, y, peak = found[0].double().numpy(), truth[0].double().numpy(), float(truth.max())
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    each = []
    for row in range(3):
        for column in range(2):
            one, other = (
                x[row : row + 7, column : column + 7],
                y[row : row + 7, column : column + 7],
            )
            both = ((one - one.mean()) * (other - other.mean())).mean()
            light = (2 * one.mean() * other.mean() + c1) / (
                one.mean() ** 2 + other.mean() ** 2 + c1
            )
            each.append(light * (2 * both + c2) / (one.var() + other.var() + c2))
    assert ssim(found, truth) == pytest.approx([np.mean(each)], abs=1e-6)
    assert ssim(truth, truth) == pytest.approx([1.0])
