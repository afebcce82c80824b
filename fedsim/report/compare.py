"""From run folders to a printed comparison."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.report.comparison import compare
from fedsim.report.rows import Row, find_runs, rows_of
from fedsim.report.table import text

__all__ = ["compare", "find_runs", "rows_of", "table", "text"]


def table(rows: Sequence[Row], width: int = 120) -> str:
    """The comparison with the first row, without options, as text of this many columns."""
    return text(compare(rows), width)
