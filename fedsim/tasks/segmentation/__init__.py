"""Segmentation of volumes: the task, training from partial labels, inference, scores.

A model maps images float32 [B, 1, *patch] to logits [B, 1 + structures, *patch]. A deeply
supervised one gives, while it trains, a sequence of such logits, the full-resolution output first.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.tasks.segmentation.label_views import LabelView
    from fedsim.tasks.segmentation.task import SegmentationSite
    from fedsim.tasks.segmentation.training import (
        OPTIMISER,
        Batch,
        Objective,
        fit,
        keep_optimiser,
        mirrored,
        outputs_of,
        restore_optimiser,
        scheduled,
    )

__all__ = [
    "OPTIMISER",
    "Batch",
    "LabelView",
    "Objective",
    "SegmentationSite",
    "fit",
    "keep_optimiser",
    "mirrored",
    "outputs_of",
    "restore_optimiser",
    "scheduled",
]

__getattr__ = lazily(
    __name__,
    {
        "LabelView": "fedsim.tasks.segmentation.label_views",
        "SegmentationSite": "fedsim.tasks.segmentation.task",
        "OPTIMISER": "fedsim.tasks.segmentation.training",
        "Batch": "fedsim.tasks.segmentation.training",
        "Objective": "fedsim.tasks.segmentation.training",
        "fit": "fedsim.tasks.segmentation.training",
        "keep_optimiser": "fedsim.tasks.segmentation.training",
        "mirrored": "fedsim.tasks.segmentation.training",
        "outputs_of": "fedsim.tasks.segmentation.training",
        "restore_optimiser": "fedsim.tasks.segmentation.training",
        "scheduled": "fedsim.tasks.segmentation.training",
    },
)
