"""Bootstrap intervals of rows, and rows paired by seed with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.randomness import Streams
from fedsim.report.rows import Row, Run
from fedsim.report.statistics import Measure, interval, measure
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


def bootstrap(
    runs: Sequence[Run], metric: str, baseline: Sequence[Run] | None = None
) -> tuple[float, float] | None:
    """Bootstrap interval of the runs' score, or of its difference; None without predictions."""
    ours, theirs = _predictions(runs), _predictions(baseline or [])
    if not ours or theirs is None or ours[0].metric != metric:
        return None
    first: Any = ours[0]
    # The same stream each time: rows that are tested on the same records share their resamples.
    return interval(
        first.strata,
        lambda weights: first.score(ours, weights),
        Streams(0).numpy("bootstrap"),
        baseline=(lambda weights: first.score(theirs, weights)) if theirs else None,
    )


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


def difference(row: Row, base: Row, metric: str) -> Measure:
    """Mean over common seeds of the difference from the baseline, with its interval."""
    pairs = pairs_of(row, base)
    values = [(ours.value(metric), theirs.value(metric)) for ours, theirs in pairs]
    known = [None if a is None or b is None else a - b for a, b in values]
    found = None
    if not trouble_of(row) and not trouble_of(base):
        found = bootstrap([ours for ours, _ in pairs], metric, [theirs for _, theirs in pairs])
    return measure(known, found)
