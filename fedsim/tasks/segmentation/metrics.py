"""Scores of segmentations: Dice per structure, volume and site, and the mean Jaccard.

Overlaps are counted, and counts add up: those of a volume are the sum over its slices or patches.
Dice is then taken of whole volumes, and means over volumes.

The rule for empty masks: in a volume without a structure its Dice is undefined, whatever was
predicted, and the volume is left out of that structure's means (as MONAI's DiceMetric does). False
alarms in such volumes therefore do not show in Dice. They do in the mean Jaccard, where what is in
neither mask alone is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def overlap_counts(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], structures: int
) -> NDArray[np.int64]:
    """Count voxels per structure.

    Args:
        prediction: classes from 0 (background) to `structures`, of any shape.
        truth: the same.
        structures: how many there are, at least 1.

    Returns:
        int64 [structures, 3]: voxels that are the structure in both, in the prediction, and in the
        truth. The counts of the parts of a volume add up to those of the volume.

    Raises:
        ValueError: shapes or types that do not fit, or a class that is not there.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(
            f"Prediction and truth must have one shape, not {prediction.shape} and {truth.shape}."
        )
    for name, classes in (("prediction", prediction), ("truth", truth)):
        if classes.dtype.kind not in "iub":
            raise ValueError(f"The {name} must be classes, but its type is {classes.dtype}.")
        strange = np.unique(classes[(classes < 0) | (classes > structures)])
        if len(strange):
            raise ValueError(
                f"Classes must lie between 0 and {structures}, but the {name} has "
                f"{strange[:5].tolist()}."
            )
    count = structures + 1
    cells = truth.ravel().astype(np.int64) * count + prediction.ravel()
    confusion = np.bincount(cells, minlength=count**2).reshape(count, count)
    return np.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)], axis=1)[1:]


def dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The Dice coefficient 2 |A and B| / (|A| + |B|) of counts [..., structures, 3].

    Returns:
        float64 [..., structures], between 0 and 1, NaN where the truth has none of the structure.
    """
    both, predicted, true = np.moveaxis(np.asarray(counts), -1, 0)
    score: NDArray[np.float64] = np.where(
        true > 0, 2 * both / np.maximum(predicted + true, 1), np.nan
    )
    return score


def jaccard(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The Jaccard index |A and B| / |A or B| of counts [..., structures, 3].

    Returns:
        float64 [..., structures], between 0 and 1, NaN where neither mask has any of the structure.
    """
    both, predicted, true = np.moveaxis(np.asarray(counts), -1, 0)
    union = predicted + true - both
    score: NDArray[np.float64] = np.where(union > 0, both / np.maximum(union, 1), np.nan)
    return score


def mean_jaccard(counts: NDArray[np.int64]) -> float | None:
    """The Jaccard index, averaged over the structures of each volume and then over volumes.

    The background is no structure. A structure in neither mask is left out of its volume, and one
    that no volume has in truth is left out of all: whose labels they are may not outline it.

    Args:
        counts: int64 [volumes, structures, 3], of `overlap_counts`.

    Returns:
        Between 0 and 1; None where nothing is left.
    """
    counts = np.asarray(counts)
    scores = jaccard(counts[:, counts[:, :, 2].any(axis=0)])
    defined = ~np.isnan(scores)
    held = defined.sum(axis=1)
    means = np.where(defined, scores, 0.0).sum(axis=1)[held > 0] / held[held > 0]
    return float(means.mean()) if len(means) else None


def segmentation_metrics(
    scores: NDArray[np.float64], structures: Sequence[str]
) -> dict[str, float | None]:
    """Average the Dice of volumes.

    Args:
        scores: [volumes, structures], NaN where undefined, as `dice` gives them.
        structures: their names.

    Returns:
        `{"dice": mean over the structures below that are defined, "dice/<structure>": mean over
        the volumes that have it}`; None where there is none. The keys do not depend on the scores.

    Raises:
        ValueError: not one column a structure, or a score that is neither NaN nor in 0 ... 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(structures):
        raise ValueError(
            f"Scores must be one row a volume and one column for each of {list(structures)}, but "
            f"their shape is {scores.shape}."
        )
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("Dice must lie between 0 and 1, or be NaN where it is undefined.")
    means: dict[str, float | None] = {"dice": None}
    for name, column in zip(structures, scores.T, strict=True):
        defined = column[~np.isnan(column)]
        means[f"dice/{name}"] = float(defined.mean()) if len(defined) else None
    there = [mean for mean in means.values() if mean is not None]
    means["dice"] = float(np.mean(there)) if there else None
    return means


def site_segmentation_metrics(
    scores: NDArray[np.float64],
    sites: NDArray[np.int64],
    site_names: Sequence[str],
    structures: Sequence[str],
) -> dict[str, float | None]:
    """Average the Dice of each site's volumes.

    Args:
        scores: [volumes, structures], as for `segmentation_metrics`.
        sites: int64 [volumes], codes into `site_names`.
        site_names: names of the sites; volumes of a site named "" are of unknown origin and left
            out.
        structures: their names.

    Returns:
        `{"dice@hospital": value, "dice/<structure>@hospital": value, ...}` for every site.

    Raises:
        ValueError: as `segmentation_metrics`, or a site code without a name.
    """
    scores, sites = np.asarray(scores), np.asarray(sites)
    if sites.shape != scores.shape[:1] or np.any((sites < 0) | (sites >= len(site_names))):
        raise ValueError(
            f"Sites must be one code between 0 and {len(site_names) - 1} for each of the "
            f"{len(scores)} volumes."
        )
    return {
        f"{name}@{site}": value
        for code, site in enumerate(site_names)
        if site != ""
        for name, value in segmentation_metrics(scores[sites == code], structures).items()
    }
