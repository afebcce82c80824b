"""Runs, rounds and comparisons as pandas DataFrames; pandas is an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError
from fedsim.report.export import CSV_COLUMNS, tidy
from fedsim.report.rows import Run, differing

if TYPE_CHECKING:
    import pandas

    from fedsim.report.comparison import Comparison
    from fedsim.report.privacy_curve import Point

_ROUND = (
    *("phase", "mb_up", "mb_down", "mb_up_total", "mb_down_total"),
    *("epsilon", "epsilon_upper", "epsilon_claimed", "delta", "certified"),
    *("delay_seconds", "simulated_hours", "seconds", "peak_rss_mb"),
)


def require_pandas() -> Any:
    """The module; InputError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise InputError(
            "pandas is not installed: it makes the DataFrames",
            hint="type: pip install pandas (fedsim's extra `frames` does so, too)",
        ) from error
    return pandas


def rounds_frame(rounds: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A line for each round, by its number: metrics, MB, epsilon, seconds.

    Args:
        rounds: the lines of rounds.jsonl.
    """
    pandas = require_pandas()
    lines = [
        {
            "round": row["round"],
            "clients": len(row.get("clients", ())),
            "failed": len(row.get("failed", ())),
            **row.get("metrics", {}),
            **{key: row.get(key) for key in _ROUND if key in row},
        }
        for row in rounds
    ]
    frame = pandas.DataFrame(lines, columns=None if lines else ["round"])
    return frame.set_index("round")


def clients_frame(rounds: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A line for each round and client: what the client reported, and its epsilon."""
    pandas = require_pandas()
    lines = []
    for row in rounds:
        metrics, spent = row.get("metrics_by_client") or {}, row.get("epsilon_by_client") or {}
        for client in sorted({*metrics, *spent}, key=lambda one: (len(one), one)):
            epsilon = {"epsilon": spent[client]} if client in spent else {}
            lines.append(
                {"round": row["round"], "client": client, **metrics.get(client, {})} | epsilon
            )
    frame = pandas.DataFrame(lines, columns=None if lines else ["round", "client"])
    return frame.set_index(["round", "client"])


def runs_frame(runs: Sequence[Run], *, paths: bool = False) -> pandas.DataFrame:
    """A line for each run: the settings that differ between them, metrics, epsilon, MB, seconds."""
    pandas = require_pandas()
    lines = []
    for run, settings in zip(runs, _settings(runs, paths), strict=True):
        spent = run.privacy
        private = (
            {"epsilon": spent.epsilon, "delta": spent.delta, "privacy_unit": spent.unit_told}
            | {"certified": spent.certified}
            if spent
            else {}
        )
        lines.append(
            {
                "scenario": run.scenario,
                "seed": run.seed,
                "data": run.data_name,
                **settings,
                **run.summary["metrics"],
                **private,
                "mb_up": run.summary.get("mb_up_total"),
                "mb_down": run.summary.get("mb_down_total"),
                "seconds": run.summary.get("wall_seconds"),
                "peak_mb": run.summary.get("peak_rss_mb"),
                "failed": run.failed,
                "run": str(run.folder.path),
            }
        )
    frame = pandas.DataFrame(lines, columns=None if lines else ["scenario", "seed", "run"])
    # Of runs of several kinds some lack what others have: the costs come last all the same.
    last = ["mb_up", "mb_down", "seconds", "peak_mb", "failed", "run"]
    return frame[[*(name for name in frame if name not in last), *(n for n in last if n in frame)]]


def _settings(runs: Sequence[Run], paths: bool) -> list[dict[str, Any]]:
    """Of each run the settings in which these differ; numbers as numbers."""
    values = []
    for run, told in zip(runs, differing(runs, paths), strict=True):
        found: dict[str, Any] = {}
        for key, text in told.items():
            value: Any = run.config
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            found[key] = value if isinstance(value, int | float) else text
        found.pop("name", None)
        values.append(found)
    return values


def points_frame(points: Sequence[Point]) -> pandas.DataFrame:
    """A line for each run of a curve: scenario, epsilon, seed, metrics, what was audited, MB.

    Of a curve over megabytes it has, in the place of epsilon, how models were compressed (`wire`).
    """
    from fedsim.report.wire_curve import WirePoint

    pandas = require_pandas()
    lines = [
        {
            "scenario": point.scenario,
            **(
                {"wire": point.wire} if isinstance(point, WirePoint) else {"epsilon": point.epsilon}
            ),
            "seed": point.seed,
            **point.summary["metrics"],
            "epsilon_reported": point.summary.get("epsilon"),
            "unit": point.summary.get("unit"),
            "delta": point.summary.get("delta"),
            "certified": point.certified,
            "audited": point.audited,
            "audit": point.verdict,
            "mb_up": point.summary.get("mb_up_total"),
            "mb_down": point.summary.get("mb_down_total"),
        }
        for point in points
    ]
    return pandas.DataFrame(lines)


def comparison_frame(comparison: Comparison) -> pandas.DataFrame:
    """A line for each row and quantity of a comparison, as in its CSV."""
    pandas = require_pandas()
    lines = [[None if cell == "" else cell for cell in line] for line in tidy(comparison)]
    return pandas.DataFrame(lines, columns=list(CSV_COLUMNS))
