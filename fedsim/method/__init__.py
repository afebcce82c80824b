"""What methods are made of: training loops, augmentation, schedules, updates, means of metrics.

Both halves of a method use it: a strategy that trains, and a client method that answers with the
update of a model.
"""

from fedsim.exchanges import Aggregated
from fedsim.method.augment import SiameseAugment, perturb_statistics
from fedsim.method.schedules import cosine
from fedsim.method.training import (
    Augmentation,
    Batch,
    augmentation,
    balanced_weights,
    endless_batches,
    fit,
)
from fedsim.method.updates import Penalty, load_received, proximal_term, update
from fedsim.optimisers import SGD, Adam
from fedsim.received import Arrays, Received
from fedsim.strategy import MetricMeans, examples

__all__ = [
    "SGD",
    "Adam",
    "Aggregated",
    "Arrays",
    "Augmentation",
    "Batch",
    "MetricMeans",
    "Penalty",
    "Received",
    "SiameseAugment",
    "augmentation",
    "balanced_weights",
    "cosine",
    "endless_batches",
    "examples",
    "fit",
    "load_received",
    "perturb_statistics",
    "proximal_term",
    "update",
]
