"""Views of images: of the right size and range, by the generator alone, each image its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.pretraining import views
from fedsim.pretraining.views import view
from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD, normalise


def batch(count: int = 6, size: int = 16, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return normalise(rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8))


def drawn(images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return view(images, torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([8, 17, 32]))
def test_a_view_is_an_image_of_the_same_size(seed: int, count: int, size: int) -> None:
    images = batch(count, size)
    found = drawn(images, seed)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (IMAGE_MEAN, IMAGE_STD))
    pixels = found * std + mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5


def test_the_generator_alone_decides() -> None:
    images = batch()
    torch.manual_seed(1)
    first = drawn(images, 5)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(images, 5))
    assert not torch.equal(first, drawn(images, 6))


def test_images_of_a_batch_change_each_by_itself() -> None:
    alike = batch(1).repeat(8, 1, 1, 1)
    found = drawn(alike)
    assert not any(torch.allclose(found[0], other) for other in found[1:])


def test_a_crop_of_all_is_one_of_eight_symmetries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(views, "RATIO", (1.0, 1.0))
    image = batch(1)
    symmetries = [one.rot90(k, (2, 3)) for one in (image, image.flip(3)) for k in range(4)]
    met = set()
    many = views._crop(image.repeat(64, 1, 1, 1), torch.Generator().manual_seed(0))
    for one in many:
        same = [k for k, other in enumerate(symmetries) if torch.allclose(one, other, atol=1e-4)]
        assert len(same) == 1
        met.add(same[0])
    assert met == set(range(8))


def test_a_blur_keeps_the_brightness_and_lowers_the_contrast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "BLURRED", 1.0)
    monkeypatch.setattr(views, "BLUR", (0.05, 0.05))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = views._blur(images, torch.Generator().manual_seed(0))
    assert torch.allclose(found.mean((2, 3)), images.mean((2, 3)), atol=0.02)
    assert (found.std((2, 3)) < 0.5 * images.std((2, 3))).all()
    monkeypatch.setattr(views, "BLURRED", 0.0)
    assert torch.equal(views._blur(images, torch.Generator().manual_seed(0)), images)


def test_grey_images_have_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "GREY", 1.0)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = views._colour(images, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
