"""Scoring a model on volumes: Dice and Jaccard per volume, Dice per site, and of slices.

Dice is taken of whole volumes, then averaged over volumes, then over structures. A structure that a
volume does not hold has no Dice there, whatever was predicted
(`fedsim.tasks.segmentation.metrics`). So a client's own score, on labels that show nothing but what
it labels, is about these structures.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.tasks.segmentation.inference import segment
from fedsim.tasks.segmentation.metrics import (
    dice,
    mean_jaccard,
    overlap_counts,
    segmentation_metrics,
    site_segmentation_metrics,
)
from fedsim.tasks.segmentation.task import SegmentationTask, Volumes


def count_slices(
    model: torch.nn.Module, volumes: Volumes, task: SegmentationTask, device: torch.device
) -> NDArray[np.int64]:
    """Segment all volumes with a model in evaluation mode, and count voxels slice by slice.

    Returns:
        int64 [volumes, slices, structures, 3]: voxels of each structure that are in both, in the
        prediction, and in the truth. Slices lie along the first axis of a volume, as many as the
        deepest has; what a volume has not is 0. All scores follow from these counts.
    """
    model.to(device).eval()
    structures, found = len(task.structures), []
    for position in range(len(volumes)):
        image, labels = volumes.volume(position)
        prediction, truth = segment(model, image, task.patch, device), labels.numpy()
        each = (overlap_counts(*pair, structures) for pair in zip(prediction, truth, strict=True))
        found.append(np.stack(list(each)))
    counts = np.zeros((len(found), max(map(len, found), default=0), structures, 3), np.int64)
    for row, of_slices in zip(counts, found, strict=True):
        row[: len(of_slices)] = of_slices
    return counts


def count_overlaps(
    model: torch.nn.Module, volumes: Volumes, task: SegmentationTask, device: torch.device
) -> NDArray[np.int64]:
    """The counts of `count_slices` for whole volumes, int64 [volumes, structures, 3]."""
    return count_slices(model, volumes, task, device).sum(1)


def scores(
    counts: NDArray[np.int64], volumes: Volumes, task: SegmentationTask, *, per_site: bool = False
) -> dict[str, float | None]:
    """Metrics of counted overlaps: `dice`, the mean over structures, `dice/<structure>`, and
    `jaccard`, the mean Jaccard index.

    Args:
        counts: int64 [volumes, structures, 3], of `count_overlaps`.
        volumes: what was segmented.
        task: names the structures.
        per_site: also `<metric>@<site>`, where there are several sites.
    """
    of_volumes = dice(counts)
    metrics = segmentation_metrics(of_volumes, task.structures)
    metrics["jaccard"] = mean_jaccard(counts)
    if per_site and len(volumes.site_names) > 1:
        metrics |= site_segmentation_metrics(
            of_volumes, volumes.sites, volumes.site_names, task.structures
        )
    return metrics


def slice_score(counts: NDArray[np.int64]) -> float | None:
    """Dice of slices: the mean over all slices that hold a structure, then over structures.

    The slices of all volumes are in one mean, so a volume of many slices counts more than one of
    few. Slices without the structure are left out, whatever was predicted there.

    Args:
        counts: int64 [volumes, slices, structures, 3], of `count_slices`.

    Returns:
        From 0 to 1; None where no slice holds a structure.
    """
    names = [str(number) for number in range(counts.shape[2])]
    of_slices = dice(counts.reshape(-1, *counts.shape[2:]))
    return segmentation_metrics(of_slices, names)["dice"]
