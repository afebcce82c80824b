"""Bootstrap intervals of rows, and rows paired by seed with a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.randomness import Streams
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import Measure, auc_interval, mean_auc, measure

# A score from predictions.npz and the same one from summary.json may differ by rounding only.
_SAME_SCORE = 5e-4


def trouble_of(row: Row) -> str:
    """Why the runs' predictions give no interval although there are some; "" if nothing is odd."""
    found = [run.predictions for run in row.runs]
    there = [one for one in found if one is not None]
    if not there:
        return ""
    if len(there) < len(found):
        return f"{len(found) - len(there)} of {len(found)} runs have no predictions.npz"
    if not all(there[0].same_records(other) for other in there):
        return "its seeds have different test records"
    for run, one in zip(row.runs, there, strict=True):
        score, told = mean_auc(one.labels, [one.probabilities]), run.value("auc")
        if score is not None and told is not None and abs(score[0] - told) > _SAME_SCORE:
            return (
                f"seed {run.seed} has AUC {100 * score[0]:.1f} by predictions.npz but "
                f"{100 * told:.1f} by summary.json"
            )
    return ""


def bootstrap(
    runs: Sequence[Run], baseline: Sequence[Run] | None = None
) -> tuple[float, float] | None:
    """Bootstrap interval of the runs' AUC, or of its difference; None without predictions."""
    ours, theirs = _probabilities(runs), _probabilities(baseline or [])
    first = runs[0].predictions
    if first is None or ours is None or theirs is None:
        return None
    # The same stream each time: rows that are tested on the same records share their resamples.
    rng = Streams(0).numpy("bootstrap")
    return auc_interval(first.labels, ours, rng, baseline=theirs or None)


def _probabilities(runs: Sequence[Run]) -> list[NDArray[np.float32]] | None:
    found = [run.predictions.probabilities for run in runs if run.predictions is not None]
    return found if len(found) == len(runs) else None


def _pairs(row: Row, base: Row) -> list[tuple[Run, Run]]:
    """Runs of both rows with the same seed."""
    others = {run.seed: run for run in base.runs}
    return [(run, others[run.seed]) for run in row.runs if run.seed in others]


def why_unpaired(row: Row, base: Row, metric: str) -> str:
    """Why the rows' runs cannot be paired; "" if they can."""
    if row.fingerprint != base.fingerprint:
        same = f"two versions of {row.data}" if row.data == base.data else ""
        return "not the same data: " + (same or f"{row.data}, {base.data}")
    pairs = _pairs(row, base)
    if not pairs:
        seeds = [", ".join(map(str, one.seeds)) for one in (row, base)]
        return f"no seed in common: {seeds[0]} and {seeds[1]}"
    if not all(_same_test(*pair) for pair in pairs):
        return "not the same test records: the splits differ"
    if not any(a.value(metric) is not None and b.value(metric) is not None for a, b in pairs):
        return f"no {metric} of both"
    return ""


def _same_test(one: Run, other: Run) -> bool:
    """Whether both were tested on the same records of the same data."""
    if one.predictions is not None and other.predictions is not None:
        return one.predictions.same_records(other.predictions)
    # The split depends on nothing but the data and these settings.
    return bool(one.config["data"].get("split") == other.config["data"].get("split"))


def difference(row: Row, base: Row, metric: str) -> Measure:
    """Mean over common seeds of the difference from the baseline, with its interval."""
    pairs = _pairs(row, base)
    values = [(ours.value(metric), theirs.value(metric)) for ours, theirs in pairs]
    known = [None if a is None or b is None else a - b for a, b in values]
    interval = None
    if metric == "auc" and not trouble_of(row) and not trouble_of(base):
        interval = bootstrap([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    return measure(known, interval)
