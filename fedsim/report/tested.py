"""What the models of a run say of its test records: what intervals and pairs are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.folder.runfolder import read_arrays
from fedsim.report.statistics import mean_auc, mean_dice
from fedsim.tasks.classification import Classification
from fedsim.tasks.segmentation.task import Segmentation
from fedsim.tasks.task import Task


@dataclass(frozen=True)
class Predictions:
    """predictions.npz: what a run's models say of the test records.

    Attributes:
        labels: int64 [n].
        records: int64 [n], positions in the data store.
        probabilities: float32 [models, n, classes].
    """

    file: ClassVar[str] = Classification.file
    metric: ClassVar[str] = Classification.headline
    strata_are: ClassVar[str] = "class"

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
        overlaps: int64 [models, n, structures, 3], see `fedsim.tasks.segmentation.metrics`.
    """

    file: ClassVar[str] = Segmentation.file
    metric: ClassVar[str] = Segmentation.headline
    strata_are: ClassVar[str] = "site"

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
class RecordScores:
    """scores.npz: the score of each test record, of which a run's headline is the mean.

    Attributes:
        metric: name of the headline.
        sites: int64 [n].
        records: int64 [n], positions in the data store.
        scores: float64 [models, n].
    """

    file: ClassVar[str] = Task.file
    strata_are: ClassVar[str] = "site"

    metric: str
    sites: NDArray[np.int64]
    records: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def models(self) -> int:
        """How many models the run has: one, or one a client."""
        return len(self.scores)

    @property
    def strata(self) -> NDArray[np.int64]:
        """[n], what a resample keeps as it is: the site."""
        return self.sites

    def score(
        self, runs: Sequence[RecordScores], weights: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64] | None:
        """Mean over records, the models of each run, and runs."""
        if not len(self.records):
            return None
        each = np.mean([run.scores.mean(0) for run in runs], axis=0)
        if weights is None:
            return np.array([each.mean()])
        return np.asarray(each @ weights / weights.sum(0))

    def same_records(self, other: Tested) -> bool:
        """Whether both are about the same records in the same order."""
        return isinstance(other, RecordScores) and np.array_equal(self.records, other.records)


@dataclass(frozen=True)
class Folds:
    """What the runs of a cross-validation say, each of the volumes of its fold.

    Attributes:
        parts: one for each fold, in their order.
    """

    file: ClassVar[str] = Overlaps.file
    metric: ClassVar[str] = Overlaps.metric
    strata_are: ClassVar[str] = Overlaps.strata_are

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


Tested = Predictions | Overlaps | RecordScores | Folds


def read_tested(folder: Path) -> Tested | None:
    """What a run folder says of the test records; None where it says nothing.

    Raises:
        ValueError: the file is not what it should be.
    """
    if (path := folder / Predictions.file).is_file():
        return _read_predictions(path)
    if (path := folder / Overlaps.file).is_file():
        return read_overlaps(path)
    if (path := folder / RecordScores.file).is_file():
        return read_scores(path)
    return None


def read_scores(path: Path) -> RecordScores | None:
    """Read scores.npz; None where it holds something else than a number a record.

    Raises:
        ValueError: the file is not what it should be.
    """
    kinds = {"metric": "U", "sites": "iu", "records": "iu", "scores": "f"}
    metric, sites, records, scores = read_arrays(path, kinds)
    if scores.ndim != 2:
        return None
    if metric.shape != () or not sites.shape == records.shape == scores.shape[1:]:
        raise ValueError(
            f"{path.name}: expected a metric's name, sites [n], records [n] and scores [models, "
            f"n], but found {metric.shape}, {sites.shape}, {records.shape} and {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{path.name}: scores are NaN or infinite")
    return RecordScores(str(metric), sites, records, scores)


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
