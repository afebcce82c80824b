"""One vector for each class: means of feature vectors or of logits, as they travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedsim.statistics.sums import Floats


@dataclass(frozen=True)
class ClassMeans:
    """A mean vector of each class.

    Attributes:
        means: float64 [classes, k]; zeros where a class has no records.
        counts: float64 [classes]: how much each mean weighs; 0 for a class without records.
    """

    means: Floats
    counts: Floats

    @classmethod
    def of(cls, vectors: ArrayLike, labels: ArrayLike, classes: int) -> ClassMeans:
        """The means of vectors [n, k] with labels [n] of 0 to `classes` - 1."""
        rows, chosen = np.asarray(vectors, np.float64), np.asarray(labels)
        sums, counts = np.zeros((classes, rows.shape[1])), np.zeros(classes)
        np.add.at(sums, chosen, rows)
        np.add.at(counts, chosen, 1.0)
        return cls(sums / np.maximum(counts, 1.0)[:, None], counts)

    @classmethod
    def none(cls, classes: int, size: int) -> ClassMeans:
        """Those of no records."""
        return cls(np.zeros((classes, size)), np.zeros(classes))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which classes have a mean, [classes]."""
        return self.counts > 0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As they travel: means float32, counts float64."""
        return {"means": self.means.astype(np.float32), "counts": self.counts}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], classes: int, size: int) -> ClassMeans:
        """What `arrays` made, checked: it may come from anybody.

        Raises:
            ValueError: says which array is missing or of another shape, or what is no number.
        """
        shapes = {"means": (classes, size), "counts": (classes,)}
        for name, shape in shapes.items():
            if name not in arrays:
                raise ValueError(f"no array {name!r}")
            if arrays[name].shape != shape:
                raise ValueError(f"{name} of shape {arrays[name].shape}; expected {shape}")
            if arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} that are not all finite numbers")
        if (arrays["counts"] < 0).any():
            raise ValueError("counts below 0")
        return cls(arrays["means"].astype(np.float64), arrays["counts"].astype(np.float64))


def averaged_means(
    parts: Sequence[ClassMeans], weighting: Literal["samples", "uniform"] = "samples"
) -> ClassMeans:
    """The mean of each class over those who have it.

    Args:
        parts: of each client, one at least.
        weighting: "samples" weights by `counts`, so that it is the mean over all records; "uniform"
            counts everyone alike who has the class.

    Returns:
        With `counts` as the sums of the weights.
    """
    weights = np.stack([one.counts if weighting == "samples" else one.known for one in parts])
    total = weights.sum(axis=0).astype(np.float64)
    sums = sum(w[:, None] * one.means for w, one in zip(weights, parts, strict=True))
    return ClassMeans(np.asarray(sums) / np.where(total > 0, total, 1.0)[:, None], total)
