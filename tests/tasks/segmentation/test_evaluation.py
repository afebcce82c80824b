"""Scores of a model on volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.tasks.segmentation.evaluation import count_overlaps, scores
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
    assert metrics == scores(counts, volumes, TASK, per_site=True)


def test_one_site_is_not_named_and_no_volumes_have_no_score() -> None:
    for count in (2, 0):
        volumes = Shapes(count)
        counts = count_overlaps(Threshold(), volumes, TASK, CPU)
        metrics = scores(counts, volumes, TASK, per_site=True)
        assert set(metrics) == {"dice", "dice/ball", "dice/box"}
        assert (metrics["dice"] is None) == (count == 0)


def test_a_client_is_scored_on_what_it_labels() -> None:
    volumes = Shapes(2, hide=TASK.scheme.views["north"].hide)
    metrics = scores(count_overlaps(Threshold(), volumes, TASK, CPU), volumes, TASK)
    assert metrics["dice/box"] is None
    assert metrics["dice"] == metrics["dice/ball"] > 0.5
