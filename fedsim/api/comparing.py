"""Runs that are there, as tables: what `fedsim compare` prints, for programs and notebooks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError, Problem
from fedsim.report import comparison as report
from fedsim.report.comparison import Comparison
from fedsim.report.costs import Link
from fedsim.report.rows import find_runs, finished, rows_of

if TYPE_CHECKING:
    import pandas

    from fedsim.api import Result


def compare(
    *runs: str | Path | Result,
    baseline: str | None = None,
    reach: float | None = None,
    bandwidth: float | None = None,
    latency: float | None = None,
    sites: bool = False,
    paths: bool = False,
    columns: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare methods: scores, differences from a baseline, and costs.

    Args:
        runs: results, run folders, or folders of runs such as "runs".
        baseline: the row to take differences from, by label; by default the first.
        reach: adds the megabytes until the test score was first this good, such as 0.75.
        bandwidth: adds the seconds on the wire at so many Mbit a second.
        latency: milliseconds of each message, with `bandwidth`.
        sites: adds the score on each site's test records.
        paths: show absolute paths whole, not only how they end.
        columns: what is shown, in this order, such as ["auc", "mb_up_total"]; by default all.
        names: other names for rows, scenarios and titles of columns.

    Returns:
        The comparison: printed, it is the table; `frame`, `csv`, `latex` and `markdown` give it in
        other forms.

    Raises:
        InputError: no run is finished in some place, or an option makes no sense.

    Runs whose files are damaged are left out, with a warning.
    """
    damaged: list[Problem] = []
    found = compared(
        runs,
        damaged,
        baseline=baseline,
        reach=reach,
        bandwidth=bandwidth,
        latency=latency,
        sites=sites,
        paths=paths,
        columns=columns,
        names=names,
    )
    _warn(damaged)
    return found


def compared(
    runs: Sequence[str | Path | Result],
    damaged: list[Problem],
    *,
    baseline: str | None = None,
    reach: float | None = None,
    bandwidth: float | None = None,
    latency: float | None = None,
    sites: bool = False,
    paths: bool = False,
    columns: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    intervals: bool = True,
) -> Comparison:
    """As `compare`; `damaged` takes what is wrong with the files of runs that are left out.

    Without `intervals` there are none over test records, which of many runs take a while.
    """
    if problems := unsound(reach, bandwidth, latency):
        raise InputError("the options do not fit", problems)
    rows, left_out = rows_of(
        find_runs(_places(runs), damaged), damaged, traffic=bandwidth is not None, paths=paths
    )
    if not rows and damaged:
        raise damage(damaged)
    return report.compare(
        rows,
        baseline=baseline,
        reach=reach,
        link=None if bandwidth is None else Link(bandwidth, latency or 0.0),
        per_site=sites,
        columns=columns,
        names=names,
        left_out=left_out,
        intervals=intervals,
    )


def load_runs(*places: str | Path | Result, paths: bool = False) -> pandas.DataFrame:
    """The finished runs of folders as a DataFrame, one line a run; needs pandas.

    Columns: scenario, seed, data, the settings in which the runs differ (dotted), metrics on the
    test split, of private runs epsilon, MB up and down, seconds, failed replies, the run's folder.

    Args:
        places: results, run folders, or folders of runs; by default "runs".
        paths: show absolute paths in settings whole, not only how they end.

    Raises:
        InputError: a place holds no run, or pandas is not installed.

    Runs that are not finished are left out. Those whose files are damaged are, too, with a warning.
    """
    from fedsim.report.frames import require_pandas, runs_frame

    require_pandas()
    damaged: list[Problem] = []
    found, _ = finished(find_runs(_places(places or ("runs",)), damaged), damaged)
    _warn(damaged)
    runs = [run for _, run in sorted(found, key=lambda one: (one[1].scenario, one[0]))]
    return runs_frame(runs, paths=paths)


def unsound(reach: float | None, bandwidth: float | None, latency: float | None) -> list[Problem]:
    """Why options make no sense."""
    problems = []
    if reach is not None and not (math.isfinite(reach) and reach > 0):
        problems.append(Problem("--reach", "must be above 0"))
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        problems.append(Problem("--bandwidth", "must be above 0, in Mbit a second"))
    if latency is not None and not (math.isfinite(latency) and latency >= 0):
        problems.append(Problem("--latency", "must not be negative, in milliseconds"))
    if latency is not None and bandwidth is None:
        problems.append(Problem("--latency", "needs --bandwidth, too"))
    return problems


def damage(damaged: Sequence[Problem]) -> InputError:
    """What is said of run folders that were left out."""
    return InputError(
        "files of run folders are damaged; these runs were left out",
        list(dict.fromkeys(damaged)),
        hint="put back the files that the runs wrote, or run them anew",
    )


def _places(runs: Sequence[Any]) -> list[Path]:
    return [Path(getattr(run, "folder", run)) for run in runs]


def _warn(damaged: Sequence[Problem]) -> None:
    if damaged:
        warnings.warn(str(damage(damaged)), stacklevel=3)
