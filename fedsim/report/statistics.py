"""Means, spreads and bootstrap intervals: how sure a number of a table is.

Two things make such a number uncertain, and each has its own measure. Other seeds would train other
models: the sample standard deviation over seeds. Other patients would be tested: the bootstrap
interval over test records, for the models at hand (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPLICATES = 2000
"""Resamples of the test records behind an interval."""
LEVEL = 0.95
"""How often an interval should cover what it estimates."""

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
    """

    mean: float | None
    sd: float | None
    n: int
    runs: int
    interval: tuple[float, float] | None = None


def measure(values: Sequence[float | None], interval: tuple[float, float] | None = None) -> Measure:
    """Mean and sample standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    return Measure(
        mean=statistics.fmean(known) if known else None,
        sd=statistics.stdev(known) if len(known) > 1 else None,
        n=len(known),
        runs=len(values),
        interval=interval,
    )


def mean_auc(
    labels: NDArray[np.integer],
    runs: Sequence[NDArray[np.floating]],
    weights: NDArray[np.integer] | None = None,
) -> NDArray[np.float64] | None:
    """Area under the ROC curve, averaged over the models of each run and then over runs.

    It is the Mann-Whitney statistic: the share of pairs of a positive and a negative record in
    which the positive one scores higher, ties counted half; a record of weight w counts as w
    records. As in `fedsim.metrics`: of two classes that of the second one, of more the mean over
    the classes that occur, each against the rest.

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
    order = np.argsort(negatives, kind="stable")
    ranked = negatives[order]
    # below[i] is the weight of the i lowest negatives.
    below = np.zeros((len(ranked) + 1, negative_weights.shape[1]), np.int64)
    np.cumsum(negative_weights[order], axis=0, out=below[1:])
    # A tie is neither won nor lost: what lies strictly below, plus what does not lie above.
    won = below[np.searchsorted(ranked, positives, "left")]
    won += below[np.searchsorted(ranked, positives, "right")]
    pairs = len(positives) * len(negatives)
    return np.asarray(np.einsum("pb,pb->b", won, positive_weights.astype(np.int64)) / (2 * pairs))


def resamples(
    labels: NDArray[np.integer], replicates: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int32]]:
    """How often each record is drawn in resamples with replacement, stratified by class.

    Yields:
        Weights [n, b]; the b of all blocks add up to `replicates`. Every column holds as many
        records of each class as there are. They depend on labels and generator alone, so methods
        tested on the same records can be given the same resamples.
    """
    block = max(1, min(replicates, _CELLS // max(1, len(labels))))
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, replicates, block):
        width = min(block, replicates - start)
        weights = np.zeros((len(labels), width), np.int32)
        column = np.arange(width)[:, np.newaxis]
        for members in strata:
            drawn = rng.integers(len(members), size=(width, len(members)))
            cells = np.bincount((drawn * width + column).ravel(), minlength=len(members) * width)
            weights[members] = cells.reshape(len(members), width)
        yield weights


def auc_interval(
    labels: NDArray[np.integer],
    runs: Sequence[NDArray[np.floating]],
    rng: np.random.Generator,
    *,
    baseline: Sequence[NDArray[np.floating]] | None = None,
    replicates: int = REPLICATES,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `mean_auc`, or of its difference from a baseline's.

    Each replicate draws the test records once; all models, and those of the baseline, are scored
    on the same draw. What is hard for both of two methods then cancels in their difference.

    Args:
        labels: [n].
        runs: as for `mean_auc`.
        rng: decides the resamples. Equal states and labels give equal resamples.
        baseline: runs to subtract; None is none.
        replicates: resamples.

    Returns:
        Low and high end of the interval of level `LEVEL`; None where the AUC is undefined.
    """
    parts = []
    for weights in resamples(labels, replicates, rng):
        values = mean_auc(labels, runs, weights)
        others = mean_auc(labels, baseline, weights) if baseline is not None else 0.0
        if values is None or others is None:
            return None
        parts.append(values - others)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return float(low), float(high)
