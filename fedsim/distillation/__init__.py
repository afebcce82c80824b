"""Distillation of data sets: what is compared, under which networks, and labels for the result.

The images of a class are compared by the means of their embeddings (distribution matching) or by
the gradients that they give a classifier (gradient matching).
"""

from fedsim.distillation.encoders import State, redraw, snapshot_steps, train_with_snapshots
from fedsim.distillation.matching import (
    Layers,
    Match,
    draw_records,
    embeddings,
    gradient_loss,
    matching_loss,
    picture_range,
)
from fedsim.distillation.matchings import MATCHINGS, Matching, Means
from fedsim.distillation.private import match_privately
from fedsim.distillation.views import SPREAD, label_views, soften, view

__all__ = [
    "MATCHINGS",
    "SPREAD",
    "Layers",
    "Match",
    "Matching",
    "Means",
    "State",
    "draw_records",
    "embeddings",
    "gradient_loss",
    "label_views",
    "match_privately",
    "matching_loss",
    "picture_range",
    "redraw",
    "snapshot_steps",
    "soften",
    "train_with_snapshots",
    "view",
]
