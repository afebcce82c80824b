"""What the page of many runs says: tables with their cells, and the numbers behind its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsim.report import table as printed
from fedsim.report.comparison import Column, Comparison, Line, compare
from fedsim.report.overview.front import Candidate, front
from fedsim.report.overview.groups import Group
from fedsim.report.overview.lines import line_of, metrics_of, points_for, rounded
from fedsim.report.overview.pairs import differences
from fedsim.report.overview.parts import Part, classes, sites, structures
from fedsim.report.overview.tables import (
    PLUS_MINUS,
    Grid,
    comparison_grid,
    costs_grid,
    difference_cell,
    main_column,
    part_grid,
    rounds_grid,
    settings_grid,
)
from fedsim.report.rows import Row, settings
from fedsim.report.statistics import Measure

MOST_BASES = 60
"""Of so many methods each can be the one that others are compared with; of more, only the first."""

_FEW = 100  # test records, below which every number is rough


@dataclass(frozen=True)
class Section:
    """All that the page says of one group.

    Attributes:
        key: part of names in the page.
        group: the methods.
        names: of the methods.
        grid: the comparison; its column `difference` is that of differences, or None.
        parts: scores by site, class or structure, with the table of each.
        settings: those that differ, or None.
        result: the best, in a sentence or two.
        notes: what a reader must know about the numbers.
        front: names of the methods on the Pareto front.
        costs: the table of the front.
        rounds: the table of the scores over the rounds.
        bases: places of the methods that others can be compared with.
        base: the one that they are compared with at first.
        figures: what the script draws.
    """

    key: str
    group: Group
    names: list[str]
    grid: Grid
    difference: int | None
    parts: list[tuple[str, Part, Grid]]
    settings: Grid | None
    result: str
    notes: list[str]
    front: list[str]
    costs: Grid
    rounds: Grid | None
    bases: list[int]
    base: int
    figures: dict[str, Any] = field(repr=False)

    @property
    def title(self) -> str:
        """The data's name."""
        return self.group.title


def sections_of(
    groups: Sequence[Group], baseline: Row | None = None, paths: bool = False
) -> list[Section]:
    """A section for each group.

    Args:
        groups: of methods on the same data.
        baseline: the method that others are compared with at first; None: the first of its group.
        paths: whether absolute paths are shown whole, instead of their ends.
    """
    lines = sum(len(group.rows) for group in groups)
    return [
        _section(f"g{number}", group, baseline, lines, paths) for number, group in enumerate(groups)
    ]


def _section(key: str, group: Group, baseline: Row | None, lines: int, paths: bool) -> Section:
    rows = group.rows
    base = next((k for k, row in enumerate(rows) if row is baseline), 0)
    found = compare(rows, baseline=rows[base].name, per_site=True)
    main, task = main_column(found), rows[0].task
    bases = list(range(len(rows))) if len(rows) <= MOST_BASES else [base]
    pairs: list[list[Measure | str | None]] = []
    if len(rows) > 1:
        pairs = differences(rows, [rows[k] for k in bases], main.key)
    names = [row.label for row in rows]
    if len(set(names)) < len(names):
        names = [row.name for row in rows]
    grid, place = comparison_grid(found, pairs[bases.index(base)] if pairs else None)
    candidates = [_candidate(line, main) for line in found.lines]
    on_front = front(candidates)
    best = _best(found.lines, main)
    parts = [one for one in (sites(found, main.title), structures(found), classes(rows)) if one]
    tables = [(one.title.split()[-1], one, part_grid(one)) for one in parts]
    by_round = _by_round(rows, lines)
    told = settings(rows, paths)
    return Section(
        key=key,
        group=group,
        names=names,
        grid=grid,
        difference=place,
        parts=tables,
        settings=settings_grid(told),
        result=_result(names, found, main, best),
        notes=[one.replace("+-", "±") for one in found.notes],
        front=[name for name, there in zip(names, on_front, strict=True) if there],
        costs=costs_grid(found, main, candidates, on_front),
        rounds=rounds_grid(by_round, main.key, task),
        bases=bases,
        base=base,
        figures={
            "score": task.main.title,
            "unit": main.spoken,
            "digits": main.digits,
            "difference": main.points,
            "names": names,
            "points": [
                _point(line, main, one, there, group)
                for line, one, there, group in zip(
                    found.lines, candidates, on_front, _trained_alike(told), strict=True
                )
            ],
            "metrics": [
                [name, task.title(name), metric.scale, metric.digits, metric.spoken_unit]
                for name in by_round["metrics"]
                if (metric := task.metric(name))
            ],
            "lines": by_round["lines"],
            "thinned": by_round["thinned"],
            "parts": {
                short: {
                    "score": one.score,
                    "unit": one.column.spoken,
                    "digits": one.column.digits,
                    "names": one.names,
                    "values": [
                        [_scaled(one.column, m.mean) for m in line] for line in one.measures
                    ],
                }
                for short, one, _ in tables
            },
            "bases": bases,
            "pairs": [[_pair(main, one) for one in row] for row in pairs],
        },
    )


# --- Words ---------------------------------------------------------------------------------------


def _best(lines: Sequence[Line], main: Column) -> int | None:
    known = [
        (main.merit(measure.mean), k)
        for k, line in enumerate(lines)
        if (measure := line.measures.get(main.key)) is not None and measure.mean is not None
    ]
    return max(known)[1] if known else None


def _result(names: Sequence[str], found: Comparison, main: Column, best: int | None) -> str:
    """The highest score, and of how many."""
    seeds = [len(line.row.runs) for line in found.lines]
    each = f"{seeds[0]}" if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
    many = "1 method" if len(names) == 1 else f"{len(names)} methods"
    told = f"{many}, {each} {'seed' if each == '1' else 'seeds'} each{_tested(found)}."
    if best is None:
        return told
    one = found.lines[best].measures[main.key]
    within, one_task = "", found.lines[best].row.task
    if one.interval is not None:
        within = f" (95%: {printed.interval(main, one).replace('-', '–')})"
    value = printed.value(main, one, PLUS_MINUS)
    task = one_task.main
    what = f"{task.short or task.title} {value} {main.spoken}".rstrip() + within
    top = task.best.capitalize()
    return f"{told} {what}." if len(names) == 1 else f"{told} {top}: {names[best]}, {what}."


def _tested(found: Comparison) -> str:
    """On how many test records, where run.json says it, and whether they are few."""
    sizes = found.lines[0].row.runs[0].data.get("sizes")
    number = sizes.get("test") if isinstance(sizes, Mapping) else None
    if not isinstance(number, int):
        return ""
    told = "1 test record" if number == 1 else f"{number} test records"
    return f", {told}" + (" (few: look at the intervals)" if number < _FEW else "")


# --- Figures -------------------------------------------------------------------------------------


def _candidate(line: Line, main: Column) -> Candidate:
    spent = line.row.privacy
    proved = spent is not None and spent.certified and spent.epsilon is not None
    epsilon = spent.epsilon if spent is not None and proved else None
    score = _mean(line, main.key)
    return Candidate(
        utility=None if score is None else main.merit(score),
        megabytes=(_mean(line, "mb_up_total") or 0.0) + (_mean(line, "mb_down_total") or 0.0),
        epsilon=math.inf if epsilon is None else epsilon,
        about=() if spent is None else (spent.unit_told, spent.delta),
    )


def _mean(line: Line, key: str) -> float | None:
    found = line.measures.get(key)
    return None if found is None else found.mean


def _point(line: Line, main: Column, one: Candidate, there: bool, trained: int) -> dict[str, Any]:
    measure, spent = line.measures.get(main.key), line.row.privacy
    interval = measure.interval if measure is not None else None
    return {
        "score": _scaled(main, _mean(line, main.key)),
        "sd": _scaled(main, measure.sd) if measure is not None else None,
        "low": _scaled(main, interval[0]) if interval else None,
        "high": _scaled(main, interval[1]) if interval else None,
        "seeds": len(line.row.runs),
        "mb": rounded(one.megabytes),
        "epsilon": None if spent is None else rounded(spent.epsilon),
        "private": spent is not None,
        "certified": spent is None or spent.certified,
        "delta": None if spent is None else spent.delta,
        "unit": "" if spent is None else spent.unit_told,
        "seconds": rounded(_mean(line, "wall_seconds")),
        "front": there,
        "trained": trained,
    }


def _trained_alike(told: Sequence[dict[str, str]]) -> list[int]:
    """A number for each method, the same for those that differ in their privacy alone."""
    kinds = [
        repr(sorted((k, v) for k, v in one.items() if k.partition(".")[0] != "privacy"))
        for one in told
    ]
    order = list(dict.fromkeys(kinds))
    return [order.index(kind) for kind in kinds]


def _by_round(rows: Sequence[Row], lines: int) -> dict[str, Any]:
    metrics = metrics_of(rows)
    most = points_for(lines, len(metrics))
    found = [line_of(row, metrics, most) for row in rows]
    return {
        "metrics": metrics,
        "lines": found,
        "thinned": any(one["thinned"] for one in found),
    }


def _pair(main: Column, one: Measure | str | None) -> list[str | float | None]:
    """What the script puts in the column of differences."""
    cell = difference_cell(main, one)
    key = None if cell.key is None else float(f"{cell.key:.6g}")
    return [cell.text, cell.sub, key]


def _scaled(column: Column, value: float | None) -> float | None:
    return None if value is None else rounded(column.scale * value)
