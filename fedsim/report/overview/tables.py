"""The tables of the page of many runs: what stands in each cell, and what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report import table as printed
from fedsim.report.columns import score_column
from fedsim.report.comparison import Column, Comparison, Line, contains_zero
from fedsim.report.overview.front import Candidate
from fedsim.report.overview.parts import Part
from fedsim.report.rows import Spent
from fedsim.report.statistics import Measure
from fedsim.tasks.facts import TaskFacts

PLUS_MINUS = " ± "


@dataclass(frozen=True)
class Cell:
    """A cell: what stands there, smaller below it, and what it is sorted by (None: last)."""

    text: str
    sub: str = ""
    key: float | str | None = None


_DASH = Cell("–")


@dataclass(frozen=True)
class Head:
    """A column: its title, what it means, and whether it holds numbers."""

    title: str
    about: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """A table: a row for each method of a group."""

    caption: str
    heads: list[Head]
    cells: list[list[Cell]]


def comparison_grid(
    found: Comparison, pairs: Sequence[Measure | str | None] | None
) -> tuple[Grid, int | None]:
    """The comparison as a table, and which of its columns is that of differences."""
    heads = [Head("seeds", "runs that differ in nothing but their seed")]
    columns = [[Cell(str(len(line.row.runs)), "", len(line.row.runs)) for line in found.lines]]
    shown = [one for one in found.columns if one.printed and "@" not in one.key]
    scores = [one for one in shown if one.group == "scores"]
    costs = [one for one in shown if one.group == "costs"]
    place, main = None, main_column(found)
    for column in scores:
        _add(column, found, heads, columns)
        if column is main and pairs is not None:
            place = len(columns)
            told = "paired by seed and test record, with its 95% interval"
            about = in_words(column.points, told)
            heads.append(Head(f"{column.title} diff", about))
            columns.append([difference_cell(column, one) for one in pairs])
    privacy = _privacy(found.lines)
    for head, cells in privacy[:1]:
        heads.append(head)
        columns.append(cells)
    for column in costs:
        _add(column, found, heads, columns)
    for head, cells in privacy[1:]:
        heads.append(head)
        columns.append(cells)
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Grid("Comparison", heads, rows), place


def _add(column: Column, found: Comparison, heads: list[Head], columns: list[list[Cell]]) -> None:
    measures = [line.measures.get(column.key) for line in found.lines]
    about = f"in {column.unit}"
    if column.group != "costs":
        about = f"{column.spoken} on the test split".lstrip()
        about += "; lower is better" if column.better == "lower" else ""
    if any(one is not None and one.interval for one in measures):
        about += ", with its 95% interval"
    heads.append(Head(column.title, about))
    columns.append([_cell(column, one) for one in measures])


def _cell(column: Column, one: Measure | None) -> Cell:
    if one is None or one.mean is None:
        return _DASH
    text = printed.value(column, one, PLUS_MINUS)
    sub = printed.interval(column, one).replace("-", "–") if one.interval else ""
    return Cell(text, sub, one.mean)


def main_column(found: Comparison) -> Column:
    """The column of the headline."""
    scores = [one for one in found.columns if one.group == "scores"]
    headline = found.lines[0].row.task.headline
    return next((one for one in scores if one.key == headline), scores[0])


def difference_cell(column: Column, one: Measure | str | None) -> Cell:
    """A difference with its interval, as the column prints values, or why there is none."""
    if one is None:
        return Cell("reference", "", 0.0)
    if isinstance(one, str):
        return Cell("–", one)
    if one.mean is None:
        return _DASH
    text = f"{column.scale * one.mean:+.{column.digits}f}"
    if one.sd is not None and column.scale * one.sd >= 0.5 * 10**-column.digits:
        text += f"{PLUS_MINUS}{column.scaled(one.sd)}"
    if one.interval is None:
        return Cell(text, "no interval", one.mean)
    low, high = (f"{column.scale * end:+.{column.digits}f}" for end in one.interval)
    # One line: a reason may be broken, an interval not.
    told = f"{low} to {high}{' ~' if contains_zero(one) else ''}".replace(" ", "\N{NO-BREAK SPACE}")
    return Cell(text, told, one.mean)


def _privacy(lines: Sequence[Line]) -> list[tuple[Head, list[Cell]]]:
    """Columns of epsilon, delta, unit and whether they are proved; none if no row is private."""
    spent = [line.row.privacy for line in lines]
    if not any(spent):
        return []

    def column(head: Head, of: Callable[[Spent], Cell], none: Cell) -> tuple[Head, list[Cell]]:
        return head, [none if one is None else of(one) for one in spent]

    return [
        column(
            Head("epsilon", "of the whole run, the largest of its clients and seeds"),
            lambda one: Cell(
                printed.epsilon(one),
                "" if one.certified else "claimed",
                math.inf if one.epsilon is None else one.epsilon,
            ),
            Cell("none", "", math.inf),
        ),
        column(
            Head("delta", "at which epsilon holds"),
            lambda one: _DASH if one.delta is None else Cell(f"{one.delta:g}", "", one.delta),
            _DASH,
        ),
        column(
            Head("unit", "whose contents epsilon hides", numeric=False),
            lambda one: Cell(one.unit_told, "", one.unit_told) if one.unit else _DASH,
            _DASH,
        ),
        column(
            Head("certified", "whether a proof stands behind epsilon", numeric=False),
            lambda one: _yes_or_no(one.certified),
            _DASH,
        ),
    ]


def _yes_or_no(value: bool) -> Cell:
    word = "yes" if value else "no"
    return Cell(word, "", word)


def part_grid(part: Part) -> Grid:
    cells = [
        [
            _DASH if one.mean is None
            else Cell(
                printed.value(part.column, one, PLUS_MINUS), "", one.mean
            )
            for one in measures
        ]
        for measures in part.measures
    ]  # fmt: skip
    about = part.column.spoken
    return Grid(f"{part.title}: {part.score}", [Head(name, about) for name in part.names], cells)


def settings_grid(told: Sequence[dict[str, str]]) -> Grid | None:
    keys = sorted({key for one in told for key in one} - {"name"})
    if not keys:
        return None
    cells = [[_typed_cell(one.get(key)) for key in keys] for one in told]
    return Grid("Settings that differ", [Head(key, numeric=False) for key in keys], cells)


def _typed_cell(value: str | None) -> Cell:
    if value is None:
        return _DASH
    try:
        return Cell(value, "", float(value))
    except ValueError:
        return Cell(value, "", value)


def costs_grid(
    found: Comparison, main: Column, candidates: Sequence[Candidate], on_front: Sequence[bool]
) -> Grid:
    heads = [
        Head(main.title, in_words(main.spoken, "mean over seeds")),
        Head("epsilon", "proved; none: without privacy"),
        Head("MB", "up and down, mean over seeds"),
        Head("on the front", "no other method is as good in all three", numeric=False),
    ]
    cells = []
    for line, one, there in zip(found.lines, candidates, on_front, strict=True):
        spent = line.row.privacy
        score = _mean(line, main)
        cells.append(
            [
                _DASH if score is None else Cell(main.scaled(score), "", score),
                Cell("none" if spent is None else printed.epsilon(spent), "", one.epsilon),
                Cell(f"{one.megabytes:.3f}", "", one.megabytes),
                _yes_or_no(there),
            ]
        )
    return Grid("Utility, privacy, communication", heads, cells)


def _mean(line: Line, column: Column) -> float | None:
    found = line.measures.get(column.key)
    return None if found is None else found.mean


def in_words(*parts: str) -> str:
    """What there is to say, after commas."""
    return ", ".join(filter(None, parts))


def rounds_grid(by_round: dict[str, Any], main: str, task: TaskFacts) -> Grid | None:
    """The scores over the rounds in words: the last and the best of each method."""
    metrics = by_round["metrics"]
    if not metrics:
        return None
    name = main if main in metrics else metrics[0]
    column = score_column(task.metric(name), name)
    about = in_words(column.spoken, "mean over seeds")
    title = task.title(name)
    heads = [
        Head("rounds scored"),
        Head(f"{title} after the last", about),
        Head(task.metric(name).best, about),
        Head("in round"),
        Head("MB until then", "up and down"),
    ]
    cells = []
    for line in by_round["lines"]:
        means = (line["scores"].get(name) or {}).get("mean") or []
        known = [(mean, -k) for k, mean in enumerate(means) if mean is not None]
        if not known:
            cells.append([Cell("0", "", 0.0), *[_DASH] * 4])
            continue
        (top, back), last = max(known, key=lambda one: (column.merit(one[0]), one[1])), known[-1][0]
        where, sent = line["round"][-back], line["mb"][-back]
        scored = len(line["round"]) + line["thinned"]
        cells.append(
            [
                Cell(str(scored), "", scored),
                Cell(column.scaled(last), "", last),
                Cell(column.scaled(top), "", top),
                Cell(str(where), "", where),
                _DASH if sent is None else Cell(f"{sent:.3f}", "", sent),
            ]
        )
    return Grid(f"{title} over the rounds", heads, cells)
