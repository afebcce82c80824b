"""Overlay sheets: which cases, which slice, and the numbers beside them."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fedsim.report.overlays import Overlay, overlays, save_overlays, sheet, typical_cases
from fedsim.tasks.segmentation.evaluation import count_overlaps
from fedsim.tasks.segmentation.metrics import dice
from fedsim.tasks.segmentation.task import SegmentationTask
from tests.tasks.segmentation.volumes import PATCH, Shapes, scheme

CPU = torch.device("cpu")
TASK = SegmentationTask(scheme(), PATCH)


class Threshold(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([torch.full_like(images, 0.75), images, -images], dim=1)


def counted(scores: list[float], sites: list[int], names: int) -> tuple[np.ndarray, Any]:
    """Counts of one structure with these Dice, NaN for a structure that is not there."""
    counts = np.array(
        [[[0, 5, 0]] if np.isnan(s) else [[round(100 * s), 100, 100]] for s in scores]
    )
    where = SimpleNamespace(sites=np.array(sites), site_names=[f"s{k}" for k in range(names)])
    return counts, where


def test_the_typical_case_of_a_site_is_its_median_and_never_one_without_a_score() -> None:
    scores, sites = [0.9, 0.1, 0.5, np.nan, 0.3, 0.8], [0, 0, 0, 0, 1, 1]
    assert typical_cases(*counted(scores, sites, 2)) == [2, 4]
    assert typical_cases(*counted([np.nan, 0.4], [0, 2], 3)) == [1]


def test_an_overlay_shows_what_was_scored() -> None:
    volumes = Shapes(5, sites=2)
    counts = count_overlaps(Threshold(), volumes, TASK, CPU)
    found = overlays(Threshold(), volumes, counts, TASK, CPU)
    assert [one.site for one in found] == ["site-0", "site-1"]
    for one in found:
        position = volumes.ids.index(one.case)
        image, labels = volumes.volume(position)
        assert np.array_equal(one.truth, labels[one.slice])
        assert np.array_equal(one.image, image[0, one.slice])
        assert set(np.unique(one.truth)) == {0, 1, 2}, "another slice shows more"
        assert np.array_equal(one.prediction == 1, one.image > 0.75)
        assert np.array_equal(one.dice, dice(counts[position]))


def overlay(site: str, scores: list[float]) -> Overlay:
    truth = np.zeros((20, 30), dtype=np.int64)
    truth[5:12, 4:14] = 1
    predicted = np.roll(truth, 3, axis=1)
    return Overlay(
        site, f"{site}-1", 3, 9, np.ones((20, 30)), truth, predicted, 1.0, np.array(scores)
    )


def test_the_sheet_has_a_row_a_case_and_fills_voxels() -> None:
    one = sheet([overlay("a", [0.5, np.nan])], ("ball", "box"), "a run")
    two = sheet([overlay("a", [0.5, np.nan]), overlay("b", [0.1, 0.2])], ("ball", "box"), "a run")
    first, second = (Image.open(BytesIO(picture.png)).convert("RGB") for picture in (one, two))
    assert second.height > first.height + 200
    pixels = np.asarray(first).reshape(-1, 3)
    assert tuple(pixels[0]) == (255, 255, 255)
    # The first structure's colour over the grey of the image, in truth and prediction.
    grey = pixels[(np.ptp(pixels.astype(int), axis=1) > 60)]
    assert len(grey) > 2 * 1000
    assert two.rows == [("a", "a-1", 3, 0.5, None), ("b", "b-1", 3, 0.1, 0.2)]
    assert "box undefined" in one.alt


def test_files_are_written_and_nothing_without_cases(tmp_path: Path) -> None:
    save_overlays(tmp_path, [overlay("a", [0.5, 0.6])], ("ball", "box"), "a run", "stand-in")
    rows = list(csv.reader((tmp_path / "overlays.csv").open()))
    assert rows == [
        ["site", "case", "slice", "dice/ball", "dice/box"],
        ["a", "a-1", "3", "0.5", "0.6"],
    ]
    assert Image.open(tmp_path / "overlays.png").width > 500
    save_overlays(tmp_path / "none", [], ("ball",), "a run")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="no case"):
        sheet([], ("ball",), "a run")
