"""Where the phases of a run begin, as pictures over rounds mark it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fedsim.report.plot import Axis, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTERS = 24  # of a name beside its mark


def beginnings(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The first round of each phase but the first, and its name; none in a run of one phase."""
    return [
        (int(row["round"]), str(row.get("phase", "train")))
        for before, row in pairwise(rounds)
        if row.get("phase", "train") != before.get("phase", "train")
    ]


def mark_phases(axes: Axes, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Draw a line on an axis of rounds before each round in which a phase begins."""
    for number, name in beginnings(rounds):
        axes.axvline(number - 0.5, color="#777777", linewidth=1, linestyle="--")
        axes.annotate(
            name[:_LETTERS],
            (number - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
        )


def phase_lines(rounds: Sequence[Mapping[str, Any]], y: Axis) -> list[Line]:
    """The same marks on a page, from the bottom to the top of the axis `y`."""
    return [
        Line(
            f"{name}, from round {number}",
            [(number - 0.5, y.low), (number - 0.5, y.high)],
            -1,
            1,
            thin=True,
        )
        for number, name in beginnings(rounds)
    ]
