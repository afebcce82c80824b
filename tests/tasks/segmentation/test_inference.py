"""From a model to the segmentation of a volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.tasks.segmentation.inference import segment

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """A voxel's class follows from its own brightness; notes what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return torch.cat([torch.zeros_like(images), images, 2 * (images - 1)], dim=1)


def volume(*shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) * 2


def truth(image: Tensor) -> np.ndarray:
    return np.where(image[0] > 2, 2, np.where(image[0] > 0, 1, 0))


@pytest.mark.parametrize("patch", [(12, 10), (8, 8), (16, 16), (7, 12, 10), (4, 8, 8), (8, 16, 16)])
def test_every_voxel_is_segmented_whatever_the_patch(patch: tuple[int, ...]) -> None:
    image, model = volume(7, 12, 10), Brightness()
    classes = segment(model, image, patch, CPU, batch_size=3)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, truth(image))
    assert {shape[2:] for shape in model.seen} == {patch}, "the network saw another size"
    assert max(shape[0] for shape in model.seen) <= 3


def test_slices_as_large_as_the_patch_are_seen_once_each() -> None:
    model = Brightness()
    segment(model, volume(7, 12, 10), (12, 10), CPU, batch_size=4)
    assert [shape[0] for shape in model.seen] == [4, 3]


def test_the_middle_of_a_window_counts_more_than_its_border() -> None:
    class Border(nn.Module):
        """Wrong at the border of what it sees."""

        def forward(self, images: Tensor) -> Tensor:
            wrong = torch.ones_like(images)
            wrong[..., 2:-2, 2:-2] = -1
            return torch.cat([torch.zeros_like(wrong), wrong], dim=1)

    classes = segment(Border(), volume(2, 24, 24), (8, 8), CPU)
    assert not classes[:, 2:-2, 2:-2].any()
    assert classes[:, 0].all()


def test_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, D, H, W\]"):
        segment(Brightness(), torch.zeros(5, 12, 10), (12, 10), CPU)
