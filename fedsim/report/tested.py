"""What the models of a run say of its test records: what intervals and pairs are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.report.statistics import mean_auc, mean_dice
from fedsim.runfolder import read_arrays


@dataclass(frozen=True)
class Predictions:
    """predictions.npz: what a run's models say of the test records.

    Attributes:
        labels: int64 [n].
        records: int64 [n], positions in the data store.
        probabilities: float32 [models, n, classes].
    """

    file: ClassVar[str] = "predictions.npz"
    metric: ClassVar[str] = "auc"

    labels: NDArray[np.int64]
    records: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def models(self) -> int:
        """How many models the run has: one, or one a client."""
        return len(self.probabilities)

    @property
    def strata(self) -> NDArray[np.int64]:
        """[n], what a resample keeps as it is: the class."""
        return self.labels

    def score(
        self, runs: Sequence[Predictions], weights: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64] | None:
        """Mean AUC of runs that were tested on these records, see `mean_auc`."""
        return mean_auc(self.labels, [run.probabilities for run in runs], weights)

    def same_records(self, other: Tested) -> bool:
        """Whether both are about the same records in the same order."""
        return (
            isinstance(other, Predictions)
            and np.array_equal(self.records, other.records)
            and np.array_equal(self.labels, other.labels)
        )


@dataclass(frozen=True)
class Overlaps:
    """overlaps.npz: what a run's models say of the test volumes.

    Attributes:
        sites: int64 [n].
        records: int64 [n], positions in the data store.
        overlaps: int64 [models, n, structures, 3], see `fedsim.segmentation_metrics`.
    """

    file: ClassVar[str] = "overlaps.npz"
    metric: ClassVar[str] = "dice"

    sites: NDArray[np.int64]
    records: NDArray[np.int64]
    overlaps: NDArray[np.int64]

    @property
    def models(self) -> int:
        """How many models the run has: one, or one a client."""
        return len(self.overlaps)

    @property
    def strata(self) -> NDArray[np.int64]:
        """[n], what a resample keeps as it is: the site."""
        return self.sites

    def score(
        self, runs: Sequence[Overlaps], weights: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64] | None:
        """Mean Dice of runs that were tested on these volumes, see `mean_dice`."""
        return mean_dice([run.overlaps for run in runs], weights)

    def same_records(self, other: Tested) -> bool:
        """Whether both are about the same volumes, with the same outlines, in the same order."""
        return (
            isinstance(other, Overlaps)
            and np.array_equal(self.records, other.records)
            and self.overlaps.shape[1:] == other.overlaps.shape[1:]
            and np.array_equal(self.overlaps[0, ..., 2], other.overlaps[0, ..., 2])
        )


@dataclass(frozen=True)
class Folds:
    """What the runs of a cross-validation say, each of the volumes of its fold.

    Attributes:
        parts: one for each fold, in their order.
    """

    file: ClassVar[str] = Overlaps.file
    metric: ClassVar[str] = Overlaps.metric

    parts: tuple[Overlaps, ...]

    @property
    def models(self) -> int:
        """How many models each run has."""
        return max(part.models for part in self.parts)

    @property
    def strata(self) -> NDArray[np.int64]:
        """[n], what a resample keeps as it is: the site, over all folds."""
        return np.concatenate([part.strata for part in self.parts])

    def score(
        self, runs: Sequence[Folds], weights: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64] | None:
        """Mean over the folds of their score."""
        ends = np.cumsum([len(part.strata) for part in self.parts])
        of_parts: Sequence[Any] = [None] * len(self.parts)
        if weights is not None:
            of_parts = np.split(weights, ends[:-1])
        scores = [
            part.score([run.parts[number] for run in runs], of_parts[number])
            for number, part in enumerate(self.parts)
        ]
        known = [score for score in scores if score is not None]
        return np.mean(known, axis=0) if known else None

    def same_records(self, other: Tested) -> bool:
        """Whether both have the same folds."""
        return (
            isinstance(other, Folds)
            and len(self.parts) == len(other.parts)
            and all(a.same_records(b) for a, b in zip(self.parts, other.parts, strict=True))
        )


Tested = Predictions | Overlaps | Folds


def read_tested(folder: Path) -> Tested | None:
    """What a run folder says of the test records; None where it says nothing.

    Raises:
        ValueError: the file is not what it should be.
    """
    if (path := folder / Predictions.file).is_file():
        return _read_predictions(path)
    if (path := folder / Overlaps.file).is_file():
        return read_overlaps(path)
    return None


def _read_predictions(path: Path) -> Predictions:
    kinds = {"labels": "iu", "records": "iu", "probabilities": "f"}
    found = Predictions(*read_arrays(path, kinds))
    shape = found.probabilities.shape
    if len(shape) != 3 or found.labels.shape != shape[1:2] or found.records.shape != shape[1:2]:
        raise ValueError(
            f"{path.name}: expected labels [n], records [n] and probabilities [models, n, "
            f"classes], but found {found.labels.shape}, {found.records.shape} and {shape}"
        )
    if not np.isfinite(found.probabilities).all():
        raise ValueError(f"{path.name}: probabilities are NaN or infinite")
    return found


def read_overlaps(path: Path) -> Overlaps:
    """Read overlaps.npz.

    Raises:
        ValueError: the file is not what it should be.
    """
    kinds = {"sites": "iu", "records": "iu", "overlaps": "iuf"}
    found = Overlaps(*read_arrays(path, kinds))
    shape = found.overlaps.shape
    fits = found.sites.shape == found.records.shape == shape[1:2]
    if len(shape) != 4 or shape[3] != 3 or not fits:
        raise ValueError(
            f"{path.name}: expected sites [n], records [n] and overlaps [models, n, structures, "
            f"3], but found {found.sites.shape}, {found.records.shape} and {shape}"
        )
    return found
