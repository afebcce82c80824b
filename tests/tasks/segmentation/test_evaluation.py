"""Scores of a model on volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.tasks.segmentation.evaluation import (
    count_overlaps,
    count_slices,
    scores,
    slice_score,
)
from fedsim.tasks.segmentation.task import SegmentationTask
from tests.tasks.segmentation.volumes import PATCH, Shapes, scheme

CPU = torch.device("cpu")
TASK = SegmentationTask(scheme(), PATCH)


class Threshold(nn.Module):
    """Finds what is bright and what is dark."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([torch.full_like(images, 0.75), images, -images], dim=1)


def test_counts_are_those_of_whole_volumes() -> None:
    volumes = Shapes(3, sites=2)
    counts = count_overlaps(Threshold(), volumes, TASK, CPU)
    assert counts.shape == (3, 2, 3)
    assert counts.dtype == np.int64
    for position in range(3):
        image, labels = volumes.volume(position)
        found = (image[0] > 0.75).numpy()
        ball = (labels == 1).numpy()
        assert counts[position, 0].tolist() == [(found & ball).sum(), found.sum(), ball.sum()]


def test_dice_is_a_mean_of_volumes_then_of_structures_and_given_by_site() -> None:
    volumes = Shapes(3, sites=2)
    counts = count_overlaps(Threshold(), volumes, TASK, CPU)
    metrics = TASK.score(TASK.predict(Threshold(), volumes, CPU), volumes, per_site=True)
    each = 2 * counts[:, :, 0] / (counts[:, :, 1] + counts[:, :, 2])
    assert metrics["dice/ball"] == pytest.approx(each[:, 0].mean())
    assert metrics["dice"] == pytest.approx(each.mean())
    assert metrics["dice/box@site-1"] == pytest.approx(each[1, 1])
    assert metrics["dice@site-0"] == pytest.approx(each[[0, 2]].mean())
    of_slices = {"dice_2d": slice_score(TASK.predict(Threshold(), volumes, CPU))}
    assert metrics == scores(counts, volumes, TASK, per_site=True) | of_slices


def test_slices_add_up_to_volumes_of_any_depth() -> None:
    deep, flat = Shapes(1, shape=(9, 16, 16)), Shapes(1, seed=1)
    volumes = Shapes(2)
    volumes._images = deep._images + flat._images
    volumes._labels = deep._labels + flat._labels
    counts = count_slices(Threshold(), volumes, TASK, CPU)
    assert counts.shape == (2, 9, 2, 3)
    assert not counts[1, 6:].any()
    assert np.array_equal(counts.sum(1), count_overlaps(Threshold(), volumes, TASK, CPU))


def test_dice_of_slices_is_pooled_over_the_slices_that_hold_the_structure() -> None:
    # Volume 0: two slices with the structure and a false alarm; volume 1: one slice with it.
    first = [[2, 4, 4], [1, 1, 3], [0, 5, 0]]
    second = [[3, 3, 3], [0, 0, 0], [0, 0, 0]]
    counts = np.array([first, second])[:, :, None]
    assert slice_score(counts) == pytest.approx((4 / 8 + 2 / 4 + 1) / 3)
    volumewise = [6 / 17, 1]  # The false alarm counts here, and each volume once.
    assert TASK.score(np.repeat(counts, 2, 2), Shapes(2), per_site=True) == pytest.approx(
        {
            "dice": np.mean(volumewise),
            "dice/ball": np.mean(volumewise),
            "dice/box": np.mean(volumewise),
            "dice_2d": 2 / 3,
            "jaccard": np.mean([3 / 14, 1]),
        }
    )


def test_dice_of_slices_needs_a_slice_with_a_structure() -> None:
    assert slice_score(np.zeros((2, 3, 1, 3), np.int64)) is None
    assert slice_score(np.zeros((0, 0, 2, 3), np.int64)) is None


def test_one_site_is_not_named_and_no_volumes_have_no_score() -> None:
    for count in (2, 0):
        volumes = Shapes(count)
        counts = count_overlaps(Threshold(), volumes, TASK, CPU)
        metrics = scores(counts, volumes, TASK, per_site=True)
        assert set(metrics) == {"dice", "dice/ball", "dice/box", "jaccard"}
        assert (metrics["dice"] is None) == (count == 0)


def test_a_client_is_scored_on_what_it_labels() -> None:
    volumes = Shapes(2, hide=TASK.scheme.views["north"].hide)
    metrics = scores(count_overlaps(Threshold(), volumes, TASK, CPU), volumes, TASK)
    assert metrics["dice/box"] is None
    assert metrics["dice"] == metrics["dice/ball"] > 0.5
