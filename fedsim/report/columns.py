"""The columns of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.tasks.metric import Better, Metric

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
        unit: of the measures, unscaled: "fraction", "MB", "s", or a metric's own.
        group: "scores", "difference" or "costs".
        digits: behind the point, in print.
        scale: what a printed number is multiplied by: 100 for per cent.
        printed: whether it is more than a line of the CSV.
        better: which way is better.
        spoken: the unit of what is printed, in words: "per cent", "dB", "".
        long: what the title is short for; "": nothing.
    """

    key: str
    name: str
    title: str
    unit: str
    group: str
    digits: int
    scale: float = 1.0
    printed: bool = True
    better: Better = "higher"
    spoken: str = ""
    long: str = ""

    @property
    def points(self) -> str:
        """What a difference is in: "points" of per cent, or the unit."""
        return "points" if self.spoken == "per cent" else self.spoken

    def merit(self, value: float) -> float:
        """A number that is the larger, the better the value is."""
        return value if self.better == "higher" else -value

    def scaled(self, value: float) -> str:
        """A value as it is printed."""
        return f"{self.scale * value:.{self.digits}f}"


def score_column(
    metric: Metric, key: str, title: str = "", *, name: str = "", printed: bool = True
) -> Column:
    """The column of a metric.

    Args:
        metric: what is shown.
        key: of the measures.
        title: above it; "": the metric's own.
        name: in files; "": the key.
        printed: whether it is more than a line of the CSV.
    """
    return Column(
        key,
        name or key,
        title or metric.column,
        "fraction" if metric.unit == "%" else metric.unit,
        "scores",
        metric.digits,
        metric.scale,
        printed,
        metric.better,
        metric.spoken_unit,
        metric.title if metric.short and not title else "",
    )
