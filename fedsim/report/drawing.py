"""What all figures of a run share: their frame, their colours, and the CSV behind each."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fedsim.report.csv_file import csv_bytes
from fedsim.report.phases import mark_phases
from fedsim.report.text import without_reply

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsim.report.plot import Plot
    from fedsim.report.record import Record

# Okabe and Ito's colours, which colour-blind people tell apart; black for yellow, which thin lines
# on white do not show. Line styles tell them apart where there is no colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
STYLES = ("-", "--", "-.", ":")
ALARM = "#D55E00"
_WIDTH = 8.0  # inches
_MARKED = 40  # values up to which each is marked on its line


@dataclass(frozen=True)
class Picture:
    """A figure, and the numbers it shows.

    Attributes:
        name: name of its files, without suffix; "": it has none.
        title: what it shows.
        caption: a sentence or two on how to read it.
        alt: what a reader who cannot see it must know.
        png: the figure.
        header: names of the CSV's columns.
        rows: the CSV's lines; numbers unrounded, None for an empty cell.
        plots: the same on a page, which draws them itself; none where it shows the numbers
            otherwise.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    plots: Sequence[Plot] = ()

    @property
    def csv(self) -> bytes:
        """The table as CSV, UTF-8."""
        return csv_bytes([self.header, *self.rows])


def frame(
    record: Record,
    title: str,
    *,
    rows: int = 1,
    columns: int = 1,
    height: float = 3.8,
    left: float = 0.8,
    right: float = 0.15,
    between: float = 0.85,
) -> tuple[Figure, list[Axes]]:
    """A figure 800 pixels wide with axes, a title, and the note on stand-in data.

    Margins are given, not found by trial drawings: each run waits for its pictures.

    Args:
        record: the run that the title names.
        title: what the figure shows.
        rows, columns: of axes.
        height: inches.
        left, right: margins of the axes, in inches.
        between: space between two axes, either way, in inches.

    Returns:
        The figure, and its axes by row.
    """
    from matplotlib.figure import Figure

    above, below = 0.8, 0.98 if record.note else 0.58
    figure = Figure(figsize=(_WIDTH, height), dpi=100)
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / _WIDTH,
            "right": 1 - right / _WIDTH,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": _share(_WIDTH - left - right, columns, between),
            "hspace": _share(height - above - below, rows, between),
        },
    )
    about = short(record.title, 100)
    figure.text(
        0.012, 1 - 0.1 / height, f"{title}\n{about}", fontsize=11, va="top", linespacing=1.4
    )
    if record.note:
        box = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.012, 0.14 / height, record.note, fontsize=9, bbox=box)
    axes = list(grid.flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#E0E0E0", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def _share(whole: float, count: int, between: float) -> float:
    """A space in inches as a share of the mean size of axes, as matplotlib wants it."""
    return between * count / (whole - between * (count - 1))


def png(figure: Figure) -> bytes:
    """The figure as PNG: a "$" in a name is no formula, and a sign without a glyph no warning."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def time_unit(hours: float) -> tuple[str, float]:
    """The unit for a picture of a run that takes so many hours, and how many there are in one."""
    for name, count in (("hours", 1.0), ("minutes", 60.0)):
        if hours * count >= 1:
            return name, count
    return "seconds", 3600.0


def short(name: str, letters: int = 32) -> str:
    """A name as a picture has room for it: of a longer one, its beginning and its end."""
    if len(name) <= letters:
        return name
    end = letters // 3
    return f"{name[: letters - end - 1]}…{name[-end:]}"


def marker(count: int) -> str:
    """The marker of a line of so many values."""
    return "o" if count <= _MARKED else ""


def round_axis(axes: Axes, record: Record) -> None:
    """Label the axis of rounds, in whole numbers; mark phases, and rounds with failed clients."""
    from matplotlib.ticker import MaxNLocator

    numbers = [row["round"] for row in record.rounds]
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    mark_phases(axes, record.rounds)
    failed = sorted({one["round"] for one in record.failures})
    if failed:
        axes.plot(
            failed,
            [0] * len(failed),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="X",
            markersize=8,
            color=ALARM,
            markeredgecolor="white",
            clip_on=False,
            zorder=5,
            label=f"a client {without_reply(record.failures)}",
        )


def legend_above(axes: Axes, columns: int = 4) -> None:
    """A legend between the title and the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=9,
        borderaxespad=0.1,
        columnspacing=1.2,
    )


def span(values: Iterable[float], form: str = ".3g") -> str:
    """The range of values as text."""
    known = list(values)
    low, high = f"{min(known):{form}}", f"{max(known):{form}}"
    return low if low == high else f"{low} to {high}"
