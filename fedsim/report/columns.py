"""The columns of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

DIFFERENCE, REACH, WIRE = "difference", "reach", "wire"
"""Keys of the measures that are no entries of summary.json."""
PRIVACY = ("epsilon", "delta", "unit", "certified")
"""Names of the columns about privacy, where a row is private."""
ABOUT = ("data", "seeds")
"""Names of the columns that say what a row is of."""


@dataclass(frozen=True)
class Column:
    """One quantity of the comparison.

    Attributes:
        key: of the measures; for scores the metric's name.
        name: in files that programs read; says all that the quantity depends on.
        title: above the column.
        unit: of the measures, unscaled: "fraction", "MB" or "s".
        group: "scores", "difference" or "costs".
        digits: behind the point, in print.
        scale: what a printed number is multiplied by: 100 for per cent.
        printed: whether it is more than a line of the CSV.
    """

    key: str
    name: str
    title: str
    unit: str
    group: str
    digits: int
    scale: float = 1.0
    printed: bool = True
