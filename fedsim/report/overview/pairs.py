"""Paired differences of all rows from any other, at the price of scoring each run once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.randomness import Streams
from fedsim.report.pairing import pairs_of, trouble_of, why_unpaired
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import LEVEL, REPLICATES, Measure, measure, resamples

Scores = Mapping[Path, NDArray[np.float64]]
"""Of each run folder: float64 [REPLICATES], the run's score on the same resamples as others'."""


def resampled(runs: Iterable[Run], metric: str) -> Scores:
    """The scores of runs on resamples of their test records, those of `pairing.Bootstrap`.

    Runs without predictions, or whose score is undefined, have none.
    """
    alike: dict[bytes, list[Run]] = {}
    for run in runs:
        tested = run.predictions
        if tested is not None and tested.metric == metric:
            alike.setdefault(np.ascontiguousarray(tested.strata).tobytes(), []).append(run)
    found: dict[Path, NDArray[np.float64]] = {}
    for same in alike.values():
        first: Any = same[0].predictions
        parts: dict[Path, list[Any]] = {run.folder.path: [] for run in same}
        for weights in resamples(first.strata, REPLICATES, Streams(0).numpy("bootstrap")):
            for run in same:
                tested = run.predictions
                parts[run.folder.path].append(tested.score([tested], weights))  # type: ignore
        found |= {
            path: np.concatenate(scores)
            for path, scores in parts.items()
            if all(one is not None for one in scores)
        }
    return found


def differences(
    rows: Sequence[Row], bases: Sequence[Row], metric: str
) -> list[list[Measure | str | None]]:
    """Of each base, the difference of each row from it, as `pairing.difference` has it.

    Args:
        rows: the methods.
        bases: those of them that others are compared with.
        metric: the score.

    Returns:
        [bases][rows]: the difference, or why there is none, or None for the base itself.
    """
    sound = [row for row in rows if not trouble_of(row)]
    scores = resampled((run for row in sound for run in row.runs), metric)
    return [
        [None if row is base else _difference(row, base, metric, scores) for row in rows]
        for base in bases
    ]


def _difference(row: Row, base: Row, metric: str, scores: Scores) -> Measure | str:
    if why := why_unpaired(row, base, metric):
        return why
    pairs = pairs_of(row, base)
    values = [(ours.value(metric), theirs.value(metric)) for ours, theirs in pairs]
    known = [None if a is None or b is None else a - b for a, b in values]
    found = None
    paths = [(ours.folder.path, theirs.folder.path) for ours, theirs in pairs]
    if all(a in scores and b in scores for a, b in paths):
        replicates = np.mean([scores[a] - scores[b] for a, b in paths], axis=0)
        tail = (1 - LEVEL) / 2
        low, high = np.nanquantile(replicates, [tail, 1 - tail])
        found = float(low), float(high)
    return measure(known, found)
