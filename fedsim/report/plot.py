"""Plots of a page: numbers placed on axes; the template draws them as wide as the reader's screen.

Lines are SVG that is stretched to its box; words and ticks are text beside it, which keeps its size
from a telephone to a large screen. Colours are numbers of the variables --c0 to --c6 of `base.css`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

from fedsim.report.many import some

COLOURS = 7
_SIDE = 1000  # of the drawing, in its own units
_POINTS = 1200  # of a line; of more, some are drawn
_THIN_POINTS = 200
_TICKS = 5
_FARTHEST = 1e300  # Differences of larger numbers may be infinite.

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis: its label, its ends, and where its ticks are with what they say."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """How far along the axis a value is, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    @property
    def letters(self) -> int:
        """Of the longest tick."""
        return max((len(text) for _, text in self.ticks), default=1)


@dataclass(frozen=True)
class Line:
    """A line through points in the order given.

    Attributes:
        name: in the legend; "" to leave it out there.
        points: (x, y) in the axes' units.
        colour: which of the colours; -1 is that of quiet lines.
        style: of the dashes, as `STYLES` of `drawing`.
        thin: one of many.
        dots: whether each point is marked.
        joined: whether a line goes through the points.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    style: int = 0
    thin: bool = False
    dots: bool = False
    joined: bool = True

    @property
    def drawn(self) -> Sequence[Point]:
        """The points that are drawn."""
        return some(self.points, _THIN_POINTS if self.thin else _POINTS)


@dataclass(frozen=True)
class Area:
    """What lies between two lines with the same x.

    Attributes:
        name: in the legend; "" to leave it out there.
        lower, upper: (x, y).
        colour: which of the colours.
        opacity: from 0 to 1.
    """

    name: str
    lower: Sequence[Point]
    upper: Sequence[Point]
    colour: int = 0
    opacity: float = 1.0


@dataclass(frozen=True)
class Plot:
    """One pair of axes with what is drawn on them.

    Attributes:
        title: above it, where a figure has several; else "".
        x, y: the axes.
        lines, areas: what is drawn; areas below lines.
        rings: points with a ring around, such as the best.
        crosses: places on x that are marked below, such as rounds in which a client failed.
        square: whether both axes are equally long.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    areas: Sequence[Area] = ()
    rings: Sequence[Point] = ()
    crosses: Sequence[float] = ()
    square: bool = False
    legend: Sequence[Line | Area] = field(init=False)

    def __post_init__(self) -> None:
        every: list[Line | Area] = [*self.areas, *self.lines]
        named = [one for one in every if one.name]
        object.__setattr__(self, "legend", named)

    def path(self, points: Iterable[Point]) -> str:
        """A line as the attribute `d` of a path, without places that round to the one before."""
        places = groupby(self._place(point) for point in points if _drawable(*point))
        return "M" + "L".join(place for place, _ in places)

    def outline(self, area: Area) -> str:
        """The edge of an area as the attribute `d` of a path."""
        upper, lower = some(area.upper, _POINTS), some(area.lower, _POINTS)
        return self.path([*upper, *reversed(lower)]) + "Z"

    def dots(self, points: Iterable[Point]) -> str:
        """Points as the attribute `d` of a path with round ends."""
        return "".join(f"M{self._place(point)}h0" for point in points if _drawable(*point))

    def _place(self, point: Point) -> str:
        x, y = self.x.share(point[0]), self.y.share(point[1])
        return f"{round(_SIDE * x)} {round(_SIDE * (1 - y))}"


def _drawable(*values: float) -> bool:
    """Whether there is a place for these: not for what is no number, nor for the infinite."""
    return all(abs(value) < _FARTHEST for value in values)


def axis(
    label: str,
    values: Iterable[float],
    *,
    whole: bool = False,
    low: float | None = None,
    high: float | None = None,
    form: str = "{:.10g}",
) -> Axis:
    """An axis with room for these values.

    Args:
        label: what it shows, and in which unit.
        values: what is drawn along it.
        whole: whether its ticks are whole numbers.
        low, high: ends that are given.
        form: of the ticks.
    """
    from matplotlib.ticker import MaxNLocator

    known = [value for value in values if _drawable(value)] or [0.0]
    least, most = min(known), max(known)
    room = 0.05 * (most - least) or (0.5 if whole else 0.05 * abs(most) or 0.5)
    first = least - room if low is None else low
    last = most + room if high is None else high
    if first >= last:
        last = first + 1.0
    found = MaxNLocator(nbins=_TICKS, integer=whole).tick_values(first, last)
    ticks = [float(tick) for tick in found if first - 1e-12 <= tick <= last + 1e-12]
    return Axis(label, first, last, [(tick, form.format(round(tick, 10) + 0.0)) for tick in ticks])


def shares(label: str) -> Axis:
    """An axis from 0 to 1."""
    return Axis(label, 0.0, 1.0, [(k / 5, f"{k / 5:g}") for k in range(6)])


def stairs(values: Sequence[float], edges: Sequence[float]) -> list[Point]:
    """The corners of steps, each value from its edge to the next; one edge more than values."""
    return [
        (x, value)
        for value, left, right in zip(values, edges[:-1], edges[1:], strict=True)
        for x in (left, right)
    ]


_BANDS = ((0, 6, 0.15, "all"), (1, 5, 0.25, "5 to 95 %"), (2, 4, 0.4, "25 to 75 %"))


def bands(x: Sequence[float], spread: Sequence[Sequence[float]], colour: int) -> list[Area]:
    """Three bands of how values are spread; `spread` [places, 7], as `many.quantiles` gives it."""
    return [
        Area(
            name,
            [(at, row[low]) for at, row in zip(x, spread, strict=True)],
            [(at, row[high]) for at, row in zip(x, spread, strict=True)],
            colour,
            opacity,
        )
        for low, high, opacity, name in _BANDS
    ]


@dataclass(frozen=True)
class Bars:
    """A table whose rows are drawn as bars, in parts.

    Attributes:
        caption: what it shows.
        name: heads the column of names.
        parts: names of the columns.
        rows: name -> a number for each part.
    """

    kind: ClassVar[str] = "bars"

    caption: str
    name: str
    parts: Sequence[str]
    rows: Mapping[str, Sequence[int]]

    @property
    def coloured(self) -> bool:
        """Whether each part has a colour of its own."""
        return len(self.parts) <= COLOURS

    def widths(self, name: str) -> list[float]:
        """How long each part of a row is, as per cent of the longest row."""
        longest = max(1, *(sum(row) for row in self.rows.values()))
        parts = self.rows[name] if self.coloured else [sum(self.rows[name])]
        return [round(100 * part / longest, 2) for part in parts]
