"""Scoring a model on volumes: Dice per structure, per volume, per site.

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
    overlap_counts,
    segmentation_metrics,
    site_segmentation_metrics,
)
from fedsim.tasks.segmentation.task import SegmentationTask, Volumes


def count_overlaps(
    model: torch.nn.Module, volumes: Volumes, task: SegmentationTask, device: torch.device
) -> NDArray[np.int64]:
    """Segment all volumes with a model in evaluation mode, and count voxels.

    Returns:
        int64 [volumes, structures, 3]: voxels of each structure that are in both, in the
        prediction, and in the truth. All scores follow from these counts.
    """
    model.to(device).eval()
    structures = len(task.structures)
    counts = np.zeros((len(volumes), structures, 3), dtype=np.int64)
    for position in range(len(volumes)):
        image, labels = volumes.volume(position)
        prediction = segment(model, image, task.patch, device)
        counts[position] = overlap_counts(prediction, labels.numpy(), structures)
    return counts


def scores(
    counts: NDArray[np.int64], volumes: Volumes, task: SegmentationTask, *, per_site: bool = False
) -> dict[str, float | None]:
    """Metrics of counted overlaps: `dice`, the mean over structures, and `dice/<structure>`.

    Args:
        counts: int64 [volumes, structures, 3], of `count_overlaps`.
        volumes: what was segmented.
        task: names the structures.
        per_site: also `<metric>@<site>`, where there are several sites.
    """
    of_volumes = dice(counts)
    metrics = segmentation_metrics(of_volumes, task.structures)
    if per_site and len(volumes.site_names) > 1:
        metrics |= site_segmentation_metrics(
            of_volumes, volumes.sites, volumes.site_names, task.structures
        )
    return metrics
