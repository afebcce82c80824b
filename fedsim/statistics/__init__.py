"""Sums of feature vectors, and the last layer that follows from them in closed form.

All functions are pure, of float64 arrays. `sums` says which sums a method takes and makes them,
`release` makes the rows of a private release out of the same, `linear` and `gaussians` turn sums
into a linear layer, `vectors` reads feature vectors off a model. Method card:
`docs/methods/features.md`.
"""

from fedsim.statistics.class_means import ClassMeans, averaged_means
from fedsim.statistics.encoding import Precision, decode, encode, statistics_bytes
from fedsim.statistics.gaussians import class_gaussians, draw, logistic
from fedsim.statistics.linear import (
    Linear,
    balanced_scales,
    generalised_cross_validation,
    nearest_means,
    noise_penalty,
    ridge,
)
from fedsim.statistics.release import Weights, contributions
from fedsim.statistics.sums import Layout, Second, Sums, pack, packed_size, semidefinite, unpack
from fedsim.statistics.vectors import (
    head_inputs,
    head_of,
    head_path,
    require_own_features,
    watched_head,
)

__all__ = [
    "ClassMeans",
    "Layout",
    "Linear",
    "Precision",
    "Second",
    "Sums",
    "Weights",
    "averaged_means",
    "balanced_scales",
    "class_gaussians",
    "contributions",
    "decode",
    "draw",
    "encode",
    "generalised_cross_validation",
    "head_inputs",
    "head_of",
    "head_path",
    "logistic",
    "nearest_means",
    "noise_penalty",
    "pack",
    "packed_size",
    "require_own_features",
    "ridge",
    "semidefinite",
    "statistics_bytes",
    "unpack",
    "watched_head",
]
