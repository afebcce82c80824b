"""Segmentation of volumes: the task, training from partial labels, inference, scores.

A model maps images float32 [B, 1, *patch] to logits [B, 1 + structures, *patch]. A deeply
supervised one gives, while it trains, a sequence of such logits, the full-resolution output first.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.segmentation.label_views import LabelView
    from fedsim.segmentation.task import SegmentationSite
    from fedsim.segmentation.training import (
        Batch,
        Objective,
        fit,
        keep_optimiser,
        mirrored,
        per_record,
        restore_optimiser,
        scheduled,
    )

__all__ = [
    "Batch",
    "LabelView",
    "Objective",
    "SegmentationSite",
    "fit",
    "keep_optimiser",
    "mirrored",
    "per_record",
    "restore_optimiser",
    "scheduled",
]

__getattr__ = lazily(
    __name__,
    {
        "LabelView": "fedsim.segmentation.label_views",
        "SegmentationSite": "fedsim.segmentation.task",
        "Batch": "fedsim.segmentation.training",
        "Objective": "fedsim.segmentation.training",
        "fit": "fedsim.segmentation.training",
        "keep_optimiser": "fedsim.segmentation.training",
        "mirrored": "fedsim.segmentation.training",
        "per_record": "fedsim.segmentation.training",
        "restore_optimiser": "fedsim.segmentation.training",
        "scheduled": "fedsim.segmentation.training",
    },
)
