"""What methods are made of: training loops, augmentation, schedules, updates, means of metrics.

Both halves of a method use it: a strategy that trains, and a client method that answers with the
update of a model.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
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

__getattr__ = lazily(
    __name__,
    {
        "SGD": "fedsim.optimisers",
        "Adam": "fedsim.optimisers",
        "Aggregated": "fedsim.exchanges",
        "Arrays": "fedsim.received",
        "Augmentation": "fedsim.method.training",
        "Batch": "fedsim.method.training",
        "MetricMeans": "fedsim.strategy",
        "Penalty": "fedsim.method.updates",
        "Received": "fedsim.received",
        "SiameseAugment": "fedsim.method.augment",
        "augmentation": "fedsim.method.training",
        "balanced_weights": "fedsim.method.training",
        "cosine": "fedsim.method.schedules",
        "endless_batches": "fedsim.method.training",
        "examples": "fedsim.strategy",
        "fit": "fedsim.method.training",
        "load_received": "fedsim.method.updates",
        "perturb_statistics": "fedsim.method.augment",
        "proximal_term": "fedsim.method.updates",
        "update": "fedsim.method.updates",
    },
)
