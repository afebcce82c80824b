"""A comparison as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedsim.report.columns import DIFFERENCE, REACH, Column
from fedsim.report.comparison import Comparison, Line, contains_zero
from fedsim.report.rows import Spent
from fedsim.report.statistics import Measure

# Columns that a row's label may take before it is broken into lines.
_LABEL = 24
_GAP = "  "
_INTERVAL = "95%"


@dataclass(frozen=True)
class Cells:
    """A printed column: its title, one cell for each line, the group it belongs to, and the name of
    the column that it is, or that it comes with."""

    title: str
    cells: list[str]
    group: str
    name: str = ""


def printed(comparison: Comparison, plus_minus: str = "+-") -> list[Cells]:
    """The columns as text.

    Data and seeds come first. A column whose measures have intervals is followed by these; that of
    differences comes after the number of seeds behind them. Those of privacy come last, if a row is
    private. Where columns were chosen, these alone, in their order.
    """
    found = [
        Cells("data", [line.row.data for line in comparison.lines], "about", "data"),
        Cells("seeds", [str(len(line.row.runs)) for line in comparison.lines], "about", "seeds"),
    ]
    for column in comparison.columns:
        if not column.printed and column.name not in (comparison.chosen or ()):
            continue
        measures = [line.measures.get(column.key) for line in comparison.lines]
        if column.key == DIFFERENCE:
            cells = ["-" if m is None or not m.n else str(m.n) for m in measures]
            found.append(Cells("pairs", cells, column.group, column.name))
        cells = ["-" if m is None else value(column, m, plus_minus) for m in measures]
        found.append(Cells(column.title, cells, column.group, column.name))
        if any(m is not None and m.interval for m in measures):
            cells = ["-" if m is None else interval(column, m) for m in measures]
            found.append(Cells(_INTERVAL, cells, column.group, column.name))
    found += _privacy([line.row.privacy for line in comparison.lines])
    if comparison.chosen is not None:
        found = [one for name in comparison.chosen for one in found if one.name == name]
    return [replace(one, title=comparison.titles.get(one.title, one.title)) for one in found]


def _privacy(spent: Sequence[Spent | None]) -> list[Cells]:
    """Epsilon, delta, unit and whether they are proved; no columns if no row is private."""
    if not any(spent):
        return []

    def cells(title: str, of: Callable[[Spent], str]) -> Cells:
        return Cells(
            title, ["-" if one is None else of(one) or "-" for one in spent], "privacy", title
        )

    return [
        cells("epsilon", epsilon),
        cells("delta", lambda one: "" if one.delta is None else f"{one.delta:g}"),
        cells("unit", lambda one: one.unit_told),
        cells("certified", lambda one: "yes" if one.certified else "no"),
    ]


def epsilon(one: Spent) -> str:
    """Epsilon with three digits, marked where it is only claimed."""
    value = "inf" if one.epsilon is None else f"{one.epsilon:.3g}"
    return value + ("" if one.certified else "*")


def value(column: Column, one: Measure, plus_minus: str) -> str:
    """Mean and standard deviation, the latter where it is not nothing at the digits printed."""
    reached = f" ({one.n}/{one.runs})" if column.key == REACH else ""
    if one.mean is None:
        return f"-{reached}"
    sign = "+" if column.key == DIFFERENCE else ""
    text = f"{column.scale * one.mean:{sign}.{column.digits}f}"
    if one.sd is not None and column.scale * one.sd >= 0.5 * 10**-column.digits:
        text += f"{plus_minus}{column.scale * one.sd:.{column.digits}f}"
    return text + reached


def interval(column: Column, one: Measure) -> str:
    """Low and high end: "62.1-71.3"; of a difference "[-0.4, +5.0] ~" where it may be 0."""
    if one.interval is None:
        return "-"
    sign = "+" if column.key == DIFFERENCE else ""
    low, high = (f"{column.scale * end:{sign}.{column.digits}f}" for end in one.interval)
    if column.key != DIFFERENCE:
        return f"{low}-{high}"
    return f"[{low}, {high}]{' ~' if contains_zero(one) else ''}"


def label(line: Line) -> str:
    """The row's label, marked where clients failed."""
    return line.row.label + (" †" if line.failed else "")


def text(comparison: Comparison, width: int = 120) -> str:
    """The table, then the differences from the baseline, then notes.

    Args:
        comparison: what to print.
        width: columns of the terminal. A table that does not fit is divided, scores above costs.
    """
    cells = printed(comparison)
    labels = [label(line) for line in comparison.lines]
    about = [one for one in cells if one.group == "about"]
    table = [one for one in cells if one.group not in ("about", "difference")]
    blocks = [_block(labels, [*about, *part]) for part in _parts(labels, about, table, width)]
    if comparison.baseline is not None and any(one.group == "difference" for one in cells):
        about_them = comparison.about_differences
        blocks.append([*_wrapped(about_them, width), *_differences(comparison, cells)])
    notes = [line for note in comparison.notes for line in _wrapped(note, width)]
    return "\n".join("\n".join(block) + "\n" for block in blocks) + "\n" + "\n".join(notes)


def _wrapped(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(sentence, max(width, 40), subsequent_indent="  ")


def _parts(
    labels: Sequence[str], about: Sequence[Cells], columns: Sequence[Cells], width: int
) -> list[list[Cells]]:
    """The columns in parts that fit the width: one, or else scores and costs, each in as many as
    it takes. An interval stays with what it belongs to."""

    def fits(part: Sequence[Cells]) -> bool:
        return max(map(len, _block(labels, [*about, *part]))) <= width

    if not columns or fits(columns):
        return [list(columns)]
    units: list[list[Cells]] = []
    for one in columns:
        if one.title == _INTERVAL:
            units[-1].append(one)
        else:
            units.append([one])
    parts = [units[0]]
    for unit in units[1:]:
        if unit[0].group == parts[-1][-1].group and fits([*parts[-1], *unit]):
            parts[-1] = [*parts[-1], *unit]
        else:
            parts.append(unit)
    return parts


def _differences(comparison: Comparison, cells: Sequence[Cells]) -> list[str]:
    """The block of paired differences, with the reason where there is none."""
    kept = [i for i, line in enumerate(comparison.lines) if line.row is not comparison.baseline]
    lines = [comparison.lines[i] for i in kept]
    columns = [
        Cells(one.title, [one.cells[i] for i in kept], one.group)
        for one in cells
        if one.group == "difference"
    ]
    reasons = [line.unpaired for line in lines]
    data = [Cells("data", [line.row.data for line in lines], "")] * comparison.shows("data")
    return _block([label(line) for line in lines], [*data, *columns], reasons)


def _block(
    labels: Sequence[str], columns: Sequence[Cells], remarks: Sequence[str] = ()
) -> list[str]:
    """The lines of one table; remarks follow the rows."""
    wrapped = [
        textwrap.wrap(one, _LABEL, subsequent_indent="  ", break_long_words=False) for one in labels
    ]
    first = max([len(part) for parts in wrapped for part in parts])
    widths = [max(map(len, [one.title, *one.cells])) for one in columns]

    def laid_out(head: str, cells: Sequence[str], remark: str = "") -> str:
        parts = [head.ljust(first)]
        for column, cell, width in zip(columns, cells, widths, strict=True):
            left = column.name == "data" or column.title in ("data", _INTERVAL)
            parts.append(cell.ljust(width) if left else cell.rjust(width))
        return _GAP.join([*parts, remark]).rstrip()

    lines = [laid_out("", [one.title for one in columns])]
    for number, parts in enumerate(wrapped):
        remark = remarks[number] if remarks else ""
        lines.append(laid_out(parts[0], [one.cells[number] for one in columns], remark))
        lines += parts[1:]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines
