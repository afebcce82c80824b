"""A score over two settings: attacks by defences, say, as a table and as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fedsim.errors import InputError, Problem
from fedsim.report.comparison import Comparison, Line
from fedsim.report.drawing import Picture, frame, png, short, span
from fedsim.report.rows import Row
from fedsim.report.statistics import Measure
from fedsim.report.text import aligned, typed
from fedsim.tasks.metric import Metric

_NONE = "none"  # What null is called.
_GIVEN = "as given"  # A block that is the only one.
_CHANCE = "x"
_NEAR = 0.02
_FAILED = "†"
_HEADER = ("row", "column", "metric", "mean", "sd", "seeds", "no_better_than_chance")
_LETTERS = 26


@dataclass(frozen=True)
class Cell:
    """One combination of two settings.

    Attributes:
        row: its runs.
        measure: of the score, over seeds.
        failed: messages without a usable reply, of all runs.
        chance: whether the mean is no better than chance, or by 0.02 at most: training has failed.
    """

    row: Row
    measure: Measure
    failed: int
    chance: bool


@dataclass(frozen=True)
class Matrix:
    """Cells by the values of two keys.

    Attributes:
        keys: of the rows and of the columns; several are separated by commas.
        rows, columns: their values, in words, in the order of the comparison.
        cells: by row and column.
        metric: what is shown.
        comparison: the table behind them.
    """

    keys: tuple[str, str]
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    metric: Metric
    comparison: Comparison

    def __str__(self) -> str:
        """The table, a line for each row, and what its marks mean."""
        table = [["", *self.columns]]
        for row in self.rows:
            table.append([row, *(self.shown(row, one, "+-") for one in self.columns)])
        lines = aligned(table)
        lines.insert(1, "-" * max(map(len, lines)))
        seeds = span([cell.measure.n for cell in self.cells.values()], "d")
        title = f"{self.metric.title}: {self.keys[0]} by {self.keys[1]}; seeds: {seeds}"
        return "\n".join([title, *lines, *self._notes()])

    def shown(self, row: str, column: str, plus_minus: str) -> str:
        """A cell in words."""
        cell = self.cells.get((row, column))
        if cell is None or cell.measure.mean is None:
            return "-"
        text = self.metric.text(cell.measure.mean)
        if cell.measure.sd is not None:
            text += f"{plus_minus}{self.metric.text(cell.measure.sd)}"
        return text + _CHANCE * cell.chance + _FAILED * bool(cell.failed)

    def _notes(self) -> list[str]:
        cells = self.cells.values()
        notes = []
        if any(cell.chance for cell in cells):
            notes.append(f"{_CHANCE} within {_NEAR} of chance: the training failed")
        if any(cell.failed for cell in cells):
            notes.append(f"{_FAILED} clients failed in some rounds")
        if len(self.cells) < len(self.rows) * len(self.columns):
            notes.append("- no finished run")
        return notes


def require_two(rows: str, columns: str) -> None:
    """Refuse one key for both.

    Raises:
        InputError: they have one in common.
    """
    if set(rows.split(",")) & set(columns.split(",")):
        raise InputError(f"--matrix {rows} {columns}: name two keys")


def matrix(comparison: Comparison, rows: str, columns: str, metric: str | None = None) -> Matrix:
    """What `fedsim compare --matrix ROWS COLUMNS` prints.

    Args:
        comparison: the runs.
        rows, columns: dotted keys of the scenarios, one or several with commas between them; a
            plugin's block is called by its name and what differs among the blocks of that name,
            another by what differs.
        metric: name or title of the score that is shown; None: the headline.

    Raises:
        InputError: a key is named twice, a cell has several rows of the comparison, they learned
            different tasks, or there is no such score.
    """
    require_two(rows, columns)
    headlines = {line.row.task.headline for line in comparison.lines}
    if len(headlines) > 1:
        raise InputError(f"--matrix: rows have different scores: {', '.join(sorted(headlines))}")
    main = _metric(comparison.lines[0], metric)
    down, across = (_words(comparison.lines, key) for key in (rows, columns))
    cells: dict[tuple[str, str], Cell] = {}
    problems = []
    for one, other, line in zip(down, across, comparison.lines, strict=True):
        if (one, other) in cells:
            message = f"is not the only one with {rows}={one} and {columns}={other}"
            problems.append(Problem(line.row.name, message))
            continue
        found, chance = line.measures[main.name], main.chance
        at_chance = chance is not None and found.mean is not None and found.mean <= chance + _NEAR
        cells[one, other] = Cell(line.row, found, line.failed, at_chance)
    if problems:
        raise InputError(
            f"--matrix {rows} {columns}: the runs differ in something else, too",
            problems,
            "name runs that differ in these two keys and the seed alone, such as those of a sweep",
        )
    kinds = list(dict.fromkeys(down)), list(dict.fromkeys(across))
    return Matrix((rows, columns), *kinds, cells, main, comparison)


def _metric(line: Line, wanted: str | None) -> Metric:
    """The score that is shown."""
    task = line.row.task
    shown = [one for one in task.metrics if one.name in line.measures]
    asked = (wanted or task.headline).strip().lower()
    for one in shown:
        if asked in (one.name, one.title.lower()):
            return one
    names = [one.name for one in shown]
    raise InputError(
        f"--matrix: there is no score {wanted!r}", hint=f"there are {', '.join(names)}"
    )


def _words(lines: Sequence[Line], keys: str) -> list[str]:
    """The values at dotted keys of each line's scenario, in words that tell them apart."""
    each = [_words_of(lines, key) for key in keys.split(",")]
    return [", ".join(words) for words in zip(*each, strict=True)]


def _words_of(lines: Sequence[Line], key: str) -> list[str]:
    values = [_at(line, key) for line in lines]
    blocks = [value for value in values if isinstance(value, Mapping)]
    named: dict[str, list[Mapping[str, Any]]] = {}
    for block in blocks:
        named.setdefault(str(block.get("name")), []).append(block)
    return [
        _block(value, named[str(value.get("name"))])
        if isinstance(value, Mapping)
        else _NONE
        if value is None
        else typed(value)
        for value in values
    ]


def _block(value: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """A plugin's name, and the settings in which those of its name differ; a word by itself.

    Of a block without a name, such as `privacy`, the settings alone.
    """
    keys = [key for key in dict.fromkeys(k for one in alike for k in one) if key != "name"]
    differing = [key for key in keys if any(one.get(key) != alike[0].get(key) for one in alike)]
    found = {key: one for key in differing if (one := value.get(key)) is not None}
    texts = [one for one in found.values() if isinstance(one, str)]
    others = [f"{key}={typed(one)}" for key, one in found.items() if not isinstance(one, str)]
    name = [str(value["name"])] if "name" in value else []
    return " ".join([*name, *texts, *others]) or _GIVEN


def _at(line: Line, key: str) -> Any:
    found: Any = line.row.runs[0].config
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def picture(found: Matrix) -> Picture:
    """The heat map: means over seeds, with their standard deviations."""
    lines = [line.row for line in found.comparison.lines]
    metric = found.metric
    title = f"{metric.title} by {found.keys[0]} and {found.keys[1]}"
    stand_in = all(row.data == "embedded" for row in lines)
    data = ", ".join(sorted({row.data for row in lines}))
    seeds = span([len(row.seeds) for row in lines], "d")
    heading: Any = SimpleNamespace(
        title=f"{data}; seeds: {seeds}", note="generated stand-in images" if stand_in else ""
    )
    left = 0.4 + 0.085 * max(len(short(row, _LETTERS)) for row in found.rows)
    height = 2.6 + 0.5 * len(found.rows)
    figure, (axes,) = frame(heading, title, height=height, left=left, right=0.9)
    values = [
        [_mean(found.cells.get((row, column))) for column in found.columns] for row in found.rows
    ]
    known = [one for line in values for one in line if one == one]
    good, bad = max(known, default=1.0), min(known, default=0.0)
    drawn = axes.imshow(values, cmap="viridis", vmin=bad, vmax=good, aspect="auto")
    axes.grid(visible=False)
    for k, row in enumerate(found.rows):
        for j, column in enumerate(found.columns):
            dark = values[k][j] < (good + bad) / 2 or values[k][j] != values[k][j]
            axes.text(
                j,
                k,
                found.shown(row, column, "±"),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    axes.set_facecolor("#888888")
    axes.set_yticks(range(len(found.rows)), [short(row, _LETTERS) for row in found.rows])
    names = ["\n".join(short(column, _LETTERS).split(" ")) for column in found.columns]
    axes.set_xticks(range(len(found.columns)), names, fontsize=8)
    axes.xaxis.tick_top()
    figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    table = [
        (row, column, metric.name, cell.measure.mean, cell.measure.sd, cell.measure.n, cell.chance)
        for (row, column), cell in found.cells.items()
    ]
    told = "; ".join(
        f"{row}, {column}: {found.shown(row, column, '±')}" for row, column in found.cells
    )
    return Picture(
        "matrix",
        title,
        "Means over seeds, with one standard deviation.",
        f"{told}.",
        png(figure),
        _HEADER,
        table,
    )


def _mean(cell: Cell | None) -> float:
    mean = None if cell is None else cell.measure.mean
    return float("nan") if mean is None else mean
