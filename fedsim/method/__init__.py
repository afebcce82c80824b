"""What methods are made of: training loops, augmentation, schedules, updates, means of metrics.

Both halves of a method use it: a strategy that trains, and a client method that answers with the
update of a model.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.method.augment import SiameseAugment, perturb_statistics
    from fedsim.method.cutmix import cube_masks, pasted
    from fedsim.method.exchanges import ANEW, WITHOUT_FORGOTTEN, Aggregated
    from fedsim.method.memory import keep_memory
    from fedsim.method.optimisers import SGD, Adam, AdamW
    from fedsim.method.received import Arrays, Received
    from fedsim.method.schedules import cosine, sigmoid_ramp_up
    from fedsim.method.stacking import Course, Descent, train_stacked, why_not_stacked
    from fedsim.method.strategy import MetricMeans, examples
    from fedsim.method.teachers import follow, teacher_of
    from fedsim.method.training import (
        Augmentation,
        Batch,
        Criterion,
        augmentation,
        balanced_weights,
        endless_batches,
        fit,
    )
    from fedsim.method.unlabelled import Told, UnlabelledTerm, added
    from fedsim.method.updates import (
        Correction,
        Penalty,
        load_received,
        proximal_term,
        shared_parameters,
        staying,
        update,
    )

__all__ = [
    "ANEW",
    "SGD",
    "WITHOUT_FORGOTTEN",
    "Adam",
    "AdamW",
    "Aggregated",
    "Arrays",
    "Augmentation",
    "Batch",
    "Correction",
    "Course",
    "Criterion",
    "Descent",
    "MetricMeans",
    "Penalty",
    "Received",
    "SiameseAugment",
    "Told",
    "UnlabelledTerm",
    "added",
    "augmentation",
    "balanced_weights",
    "cosine",
    "cube_masks",
    "endless_batches",
    "examples",
    "fit",
    "follow",
    "keep_memory",
    "load_received",
    "pasted",
    "perturb_statistics",
    "proximal_term",
    "shared_parameters",
    "sigmoid_ramp_up",
    "staying",
    "teacher_of",
    "train_stacked",
    "update",
    "why_not_stacked",
]

__getattr__ = lazily(
    __name__,
    {
        "ANEW": "fedsim.method.exchanges",
        "SGD": "fedsim.method.optimisers",
        "WITHOUT_FORGOTTEN": "fedsim.method.exchanges",
        "Adam": "fedsim.method.optimisers",
        "AdamW": "fedsim.method.optimisers",
        "Aggregated": "fedsim.method.exchanges",
        "Arrays": "fedsim.method.received",
        "Augmentation": "fedsim.method.training",
        "Batch": "fedsim.method.training",
        "Correction": "fedsim.method.updates",
        "Course": "fedsim.method.stacking",
        "Criterion": "fedsim.method.training",
        "Descent": "fedsim.method.stacking",
        "MetricMeans": "fedsim.method.strategy",
        "Penalty": "fedsim.method.updates",
        "Received": "fedsim.method.received",
        "SiameseAugment": "fedsim.method.augment",
        "Told": "fedsim.method.unlabelled",
        "UnlabelledTerm": "fedsim.method.unlabelled",
        "added": "fedsim.method.unlabelled",
        "augmentation": "fedsim.method.training",
        "balanced_weights": "fedsim.method.training",
        "cosine": "fedsim.method.schedules",
        "cube_masks": "fedsim.method.cutmix",
        "endless_batches": "fedsim.method.training",
        "examples": "fedsim.method.strategy",
        "fit": "fedsim.method.training",
        "follow": "fedsim.method.teachers",
        "keep_memory": "fedsim.method.memory",
        "load_received": "fedsim.method.updates",
        "pasted": "fedsim.method.cutmix",
        "perturb_statistics": "fedsim.method.augment",
        "proximal_term": "fedsim.method.updates",
        "shared_parameters": "fedsim.method.updates",
        "sigmoid_ramp_up": "fedsim.method.schedules",
        "staying": "fedsim.method.updates",
        "teacher_of": "fedsim.method.teachers",
        "train_stacked": "fedsim.method.stacking",
        "update": "fedsim.method.updates",
        "why_not_stacked": "fedsim.method.stacking",
    },
)
