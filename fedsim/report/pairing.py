"""Bootstrap intervals of rows, and rows paired by seed with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.randomness import Streams
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import REPLICATES, Measure, bootstrap_p, ends, measure, resamples
from fedsim.report.tested import Tested

# A score from predictions.npz and the same one from summary.json may differ by rounding only.
_SAME_SCORE = 5e-4


def trouble_of(row: Row) -> str:
    """Why the runs' predictions give no interval although there are some; "" if nothing is odd."""
    found = [run.predictions for run in row.runs]
    there = [one for one in found if one is not None]
    if not there:
        return ""
    first = there[0]
    if len(there) < len(found):
        return f"{len(found) - len(there)} of {len(found)} runs have no {first.file}"
    if not all(first.same_records(other) for other in there):
        return "its seeds have different test records"
    for run, one in zip(row.runs, there, strict=True):
        score, told = one.score([one]), run.value(one.metric)  # type: ignore[list-item]
        if score is None or told is None:
            continue
        if abs(score[0] - told) > _SAME_SCORE * max(1.0, abs(told)):
            main = run.task.metric(one.metric)
            by_file, by_summary = (f"{main.scale * x:.{main.digits}f}" for x in (score[0], told))
            return (
                f"seed {run.seed} has {main.title} {by_file} by {one.file} but {by_summary} by "
                "summary.json"
            )
    return ""


class Bootstrap:
    """Bootstrap intervals over test records. Rows tested on the same ones share their resamples.

    The scores of a row's runs are kept: the baseline's are needed by all other rows.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, tuple[int, ...]], NDArray[np.float64] | None] = {}
        self._runs: list[Sequence[Tested]] = []  # Alive, so that no other has their ids.

    def interval(
        self, runs: Sequence[Run], metric: str, baseline: Sequence[Run] | None = None
    ) -> tuple[float, float] | None:
        """That of the runs' score, or of its difference; None without predictions."""
        found = self._resampled(runs, metric, baseline or [])
        return None if found is None else ends(found)

    def difference(
        self, runs: Sequence[Run], metric: str, baseline: Sequence[Run]
    ) -> tuple[tuple[float, float] | None, float | None]:
        """Interval and two-sided p of the difference; None without predictions."""
        found = self._resampled(runs, metric, baseline)
        return (None, None) if found is None else (ends(found), bootstrap_p(found))

    def _resampled(
        self, runs: Sequence[Run], metric: str, baseline: Sequence[Run]
    ) -> NDArray[np.float64] | None:
        """The score, or its difference from the baseline's, on resamples, [REPLICATES]."""
        ours, theirs = _predictions(runs), _predictions(baseline)
        if not ours or theirs is None or ours[0].metric != metric:
            return None
        scores = self._scores(ours, ours[0])
        others = self._scores(theirs, ours[0]) if theirs else 0.0
        return None if scores is None or others is None else scores - others

    def _scores(self, runs: Sequence[Tested], first: Any) -> NDArray[np.float64] | None:
        """float64 [REPLICATES], the runs' score on resamples of the records of `first`."""
        key = np.ascontiguousarray(first.strata).tobytes(), tuple(map(id, runs))
        if key not in self._kept:
            self._runs.append(runs)
            # The same stream each time.
            weights = resamples(first.strata, REPLICATES, Streams(0).numpy("bootstrap"))
            parts = [first.score(runs, one) for one in weights]
            undefined = any(one is None for one in parts)
            self._kept[key] = None if undefined else np.concatenate(parts)
        return self._kept[key]


def _predictions(runs: Sequence[Run]) -> list[Tested] | None:
    """What all runs say of the test records; None where one says nothing."""
    found = [run.predictions for run in runs if run.predictions is not None]
    return found if len(found) == len(runs) else None


def pairs_of(row: Row, base: Row) -> list[tuple[Run, Run]]:
    """Runs of both rows with the same seed."""
    others = {run.seed: run for run in base.runs}
    return [(run, others[run.seed]) for run in row.runs if run.seed in others]


def why_unpaired(row: Row, base: Row, metric: str) -> str:
    """Why the rows' runs cannot be paired; "" if they can."""
    if row.fingerprint != base.fingerprint:
        same = f"two versions of {row.data}" if row.data == base.data else ""
        return "not the same data: " + (same or f"{row.data}, {base.data}")
    pairs = pairs_of(row, base)
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


def difference(row: Row, base: Row, metric: str, bootstrap: Bootstrap | None = None) -> Measure:
    """Mean over common seeds of the difference from the baseline; with its interval, if asked."""
    pairs = pairs_of(row, base)
    values = [(ours.value(metric), theirs.value(metric)) for ours, theirs in pairs]
    known = [None if a is None or b is None else a - b for a, b in values]
    if bootstrap is None or trouble_of(row) or trouble_of(base):
        return measure(known)
    ours, theirs = zip(*pairs, strict=True)
    return measure(known, *bootstrap.difference(ours, metric, theirs))
