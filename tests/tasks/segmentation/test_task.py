"""What is to be segmented."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from fedsim.errors import InputError
from fedsim.method.client import Task
from fedsim.tasks.segmentation.task import SegmentationSite, SegmentationTask
from tests.tasks.segmentation.volumes import PATCH, scheme, site

TASK = SegmentationTask(scheme(), PATCH)


def test_classes_are_the_background_and_the_structures() -> None:
    assert TASK.classes == ("background", "ball", "box")
    assert TASK.num_classes == 3
    assert TASK.model_arguments == {"num_classes": 3, "in_channels": 1, "patch": PATCH}
    assert pickle.loads(pickle.dumps(TASK)) == TASK


@pytest.mark.parametrize("patch", [(8,), (0, 8), (2, 2, 2, 2)])
def test_a_patch_is_of_a_slice_or_of_a_volume(patch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="A patch has"):
        SegmentationTask(scheme(), patch)


def test_a_site_knows_what_its_client_labels() -> None:
    here = SegmentationSite.of(site(TASK, client=1))
    assert here.labels.foreground == (2,)
    assert len(here.train) == 4


def test_images_with_one_label_each_are_not_segmented() -> None:
    other: Any = replace(site(TASK), task=Task(("a", "b"), 3, 32))
    with pytest.raises(InputError, match="segments volumes"):
        SegmentationSite.of(other)


def test_a_client_without_a_label_view_is_named() -> None:
    with pytest.raises(InputError, match="'west' labels; the label views name north, south"):
        SegmentationSite.of(replace(site(TASK), name="west"))
