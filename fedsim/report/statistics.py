"""Means, spreads and bootstrap intervals: how sure a number of a table is.

Two things make such a number uncertain, and each has its own measure. Other seeds would train other
models: the sample standard deviation over seeds. Other patients would be tested: the bootstrap
interval over test records, for the models at hand (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.tasks.segmentation.metrics import dice

REPLICATES = 2000
"""Resamples of the test records behind an interval."""
LEVEL = 0.95
"""How often an interval should cover what it estimates."""

Test = TypeVar("Test", bound=Hashable)

# Weights that are held at a time: records times replicates.
_CELLS = 8_000_000


@dataclass(frozen=True)
class Measure:
    """One number of a table.

    Attributes:
        mean: over runs; None where no run has a value.
        sd: sample standard deviation over runs; None below two.
        n: runs that have a value.
        runs: runs there are.
        interval: low and high end of the bootstrap interval, or None.
        p: of a difference, two-sided, by the same resamples; or None.
    """

    mean: float | None
    sd: float | None
    n: int
    runs: int
    interval: tuple[float, float] | None = None
    p: float | None = None


def measure(
    values: Sequence[float | None],
    interval: tuple[float, float] | None = None,
    p: float | None = None,
) -> Measure:
    """Mean and sample standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    return Measure(
        mean=statistics.fmean(known) if known else None,
        sd=statistics.stdev(known) if len(known) > 1 else None,
        n=len(known),
        runs=len(values),
        interval=interval,
        p=p,
    )


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's t-test that paired differences have mean 0.

    Args:
        differences: one a pair, taken to be normal and independent of each other.

    Returns:
        Between 0 and 1; None of fewer than two pairs. Equal differences have p 1 where they are 0,
        and p 0 elsewhere.
    """
    if len(differences) < 2:
        return None
    from scipy.special import stdtr

    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    if sd == 0:
        return float(mean == 0)
    return float(2 * stdtr(len(differences) - 1, -abs(mean) * len(differences) ** 0.5 / sd))


def holm(values: Mapping[Test, float]) -> dict[Test, float]:
    """The p of each test after Holm's correction for all of them, in their order.

    Where those at most a are called different, the chance of one or more false calls is at most a,
    however the tests depend on each other (Holm, "A simple sequentially rejective multiple test
    procedure", 1979).

    Args:
        values: what is tested -> its p. A test that cannot be made has none, and does not count.
    """
    corrected: dict[Test, float] = {}
    largest = 0.0
    for rank, test in enumerate(sorted(values, key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[test]))
        corrected[test] = largest
    return {test: corrected[test] for test in values}


def mean_auc(
    labels: NDArray[np.integer],
    runs: Sequence[NDArray[np.floating]],
    weights: NDArray[np.integer] | None = None,
) -> NDArray[np.float64] | None:
    """Area under the ROC curve, averaged over the models of each run and then over runs.

    It is the Mann-Whitney statistic: the share of pairs of a positive and a negative record in
    which the positive one scores higher, ties counted half; a record of weight w counts as w
    records. As in `fedsim.tasks.classification.metrics`: of two classes that of the second one, of
    more the mean over the classes that occur, each against the rest.

    Args:
        labels: [n], 0 <= label < k.
        runs: of each run, probabilities [models, n, k], k >= 2.
        weights: [n, b], b sets of weights that leave every class as large as it is; None is one
            set of ones.

    Returns:
        [b], each between 0 and 1; None where fewer than two classes occur.

    Raises:
        ValueError: no runs, or shapes that do not fit.
    """
    if not runs or any(p.ndim != 3 or p.shape[1] != len(labels) for p in runs):
        shapes = [p.shape for p in runs]
        raise ValueError(f"Expected probabilities [models, {len(labels)}, k], but got {shapes}.")
    present = np.unique(labels)
    if len(present) < 2:
        return None
    if weights is None:
        weights = np.ones((len(labels), 1), np.int32)
    total = np.zeros(weights.shape[1])
    for probabilities in runs:
        scored = [1] if probabilities.shape[2] == 2 else present.tolist()
        of_run = np.zeros_like(total)
        for number in scored:
            positive = labels == number
            sides = weights[positive], weights[~positive]
            for scores in probabilities[:, :, number]:
                of_run += _weighted_auc(scores[positive], scores[~positive], *sides)
        total += of_run / (len(scored) * len(probabilities))
    return total / len(runs)


def _weighted_auc(
    positives: NDArray[np.floating],
    negatives: NDArray[np.floating],
    positive_weights: NDArray[np.integer],
    negative_weights: NDArray[np.integer],
) -> NDArray[np.float64]:
    """AUC for each column of weights [positives, b] and [negatives, b]; exact with ties."""
    if len(positives) < len(negatives):  # What negatives win, positives do not.
        both = 2 * positive_weights.sum(0, np.int64) * negative_weights.sum(0, np.int64)
        won = both - _won_twice(negatives, positives, negative_weights, positive_weights)
    else:
        won = _won_twice(positives, negatives, positive_weights, negative_weights)
    return np.asarray(won / (2 * len(positives) * len(negatives)))


def _won_twice(
    many: NDArray[np.floating],
    few: NDArray[np.floating],
    many_weights: NDArray[np.integer],
    few_weights: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Twice the weight of the pairs in which the one of `many` is higher, ties once; [b].

    Those of `many` that lie between the same two of `few` win the same pairs, so their weights are
    added up first: what is long is read once for all columns.
    """
    order, lower = np.argsort(many, kind="stable"), np.argsort(few, kind="stable")
    # A tie is neither won nor lost: what lies strictly below, plus what does not lie above.
    low, high = (np.searchsorted(few[lower], many[order], side) for side in ("left", "right"))
    changed = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
    alike = np.add.reduceat(many_weights[order], starts, axis=0, dtype=np.int64)
    # below[i] is the weight of the i lowest of `few`.
    below = np.zeros((len(few) + 1, few_weights.shape[1]), np.int64)
    np.cumsum(few_weights[lower], axis=0, out=below[1:])
    won = below[low[starts]]
    won += below[high[starts]]
    return np.asarray(np.einsum("gb,gb->b", won, alike))


def mean_dice(
    runs: Sequence[NDArray[np.int64]], weights: NDArray[np.integer] | None = None
) -> NDArray[np.float64] | None:
    """Dice, averaged over volumes, structures, the models of each run, and runs, in this order.

    A structure that a volume does not hold has no Dice there, as in
    `fedsim.tasks.segmentation.metrics`; a volume of weight w counts as w volumes.

    Args:
        runs: of each run, int64 overlaps [models, n, structures, 3].
        weights: [n, b], b sets of weights; None is one set of ones.

    Returns:
        [b], each between 0 and 1, NaN where no structure is left; None where no volume holds one.

    Raises:
        ValueError: no runs, or shapes that do not fit.
    """
    if not runs or any(o.ndim != 4 or o.shape[1:] != (*runs[0].shape[1:3], 3) for o in runs):
        shapes = [o.shape for o in runs]
        raise ValueError(f"Expected overlaps [models, n, structures, 3], but got {shapes}.")
    if weights is None:
        weights = np.ones((runs[0].shape[1], 1), np.int32)
    total = np.zeros(weights.shape[1])
    for overlaps in runs:
        scores = dice(overlaps)  # [models, n, structures]
        there = ~np.isnan(scores)
        if not there.any():
            return None
        sums = np.einsum("mns,nb->msb", np.where(there, scores, 0.0), weights)
        counts = np.einsum("mns,nb->msb", there.astype(np.float64), weights)
        held = counts > 0
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=held)
        structures = held.sum(1)
        of_models = np.where(structures > 0, means.sum(1) / np.maximum(structures, 1), np.nan)
        total += of_models.mean(0)
    return total / len(runs)


def resamples(
    strata: NDArray[np.integer], replicates: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int32]]:
    """How often each record is drawn in resamples with replacement, each stratum by itself.

    Args:
        strata: [n], the stratum of each record: its class, or the site of a volume.
        replicates: how many.
        rng: decides them.

    Yields:
        Weights [n, b]; the b of all blocks add up to `replicates`. Every column holds as many
        records of each stratum as there are. They depend on strata and generator alone, so
        methods tested on the same records can be given the same resamples.
    """
    block = max(1, min(replicates, _CELLS // max(1, len(strata))))
    groups = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    for start in range(0, replicates, block):
        width = min(block, replicates - start)
        weights = np.zeros((len(strata), width), np.int32)
        column = np.arange(width)[:, np.newaxis]
        for members in groups:
            drawn = rng.integers(len(members), size=(width, len(members)))
            cells = np.bincount((drawn * width + column).ravel(), minlength=len(members) * width)
            weights[members] = cells.reshape(len(members), width)
        yield weights


def interval(
    strata: NDArray[np.integer],
    score: Callable[[NDArray[np.int32]], NDArray[np.float64] | None],
    rng: np.random.Generator,
    *,
    baseline: Callable[[NDArray[np.int32]], NDArray[np.float64] | None] | None = None,
    replicates: int = REPLICATES,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a score over records, or of its difference from another.

    Each replicate draws the test records once; all models, and those of the baseline, are scored
    on the same draw. What is hard for both of two methods then cancels in their difference.

    Args:
        strata: [n], as for `resamples`.
        score: weights [n, b] -> [b] scores, or None where the score is undefined.
        rng: decides the resamples. Equal states and strata give equal resamples.
        baseline: a score to subtract.
        replicates: resamples.

    Returns:
        Low and high end of the interval of level `LEVEL`; None where a score is undefined.
    """
    parts = []
    for weights in resamples(strata, replicates, rng):
        values = score(weights)
        others = baseline(weights) if baseline is not None else 0.0
        if values is None or others is None:
            return None
        parts.append(values - others)
    return ends(np.concatenate(parts))


def ends(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Low and high end of the interval of level `LEVEL` of scores on resamples, [replicates]."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_p(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p that a difference is 0, by its resamples.

    Twice the smaller share of resamples on either side of 0, the difference itself counted among
    them, so that it is never 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 4.2). It inverts the interval of `ends`.

    Args:
        differences: on resamples, [replicates]; those that are NaN do not count.

    Returns:
        Between 2 / (replicates + 1) and 1; None where all are NaN.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    smaller = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * (int(smaller) + 1) / (len(known) + 1))
