"""CSV that a spreadsheet may open: text stays text, numbers stay numbers.

Names of sites, classes and scenarios are anybody's text. A spreadsheet runs a cell that begins like
a formula, so every CSV that fedsim writes is made here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from fedsim.terminal.printing import harmless

# As ASCII, and as the wide forms that some spreadsheets take for the same.
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as CSV, UTF-8; numbers are written unrounded, None is an empty cell."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def cell(value: Any) -> Any:
    """The value of a cell; text that begins like a formula gets an apostrophe in front.

    Control characters are written out: a terminal that shows the file would obey them.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    value = harmless(value.replace("\r", "\n"))
    begins = value.lstrip()[:1]
    # A tab or a line end in front of a formula is passed over by spreadsheets, too.
    if value[:1] in ("\t", "\n") or (begins and begins in _FORMULA and value != "-"):
        value = f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
