"""The page of a finished run, and its model card."""

from __future__ import annotations

import functools
from collections.abc import Callable

from fedsim.lazy import uncollected
from fedsim.observers.base import End, Observer
from fedsim.raising import one_line


class Page(Observer):
    """Makes the pictures, the page and the model card; what fails does not fail a finished run.

    Args:
        say: is told what could not be made.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def end(self, end: End) -> None:
        """Write `report/` and the card of a run that is done."""
        if end.status != "done":
            return
        # What draws and fills templates is imported when there is something to draw.
        with uncollected():
            from fedsim.report.page import write_page
            from fedsim.report.paths import hidden
            from fedsim.report.record import read_record
            from fedsim.trained.card import write_card

        record = functools.cache(lambda: hidden(read_record(end.folder)))  # Read once for both.
        try:
            write_page(record(), paths=True)
        except Exception as error:
            self._say(
                f"no report: {one_line(error)}; to try again, type: fedsim report {end.folder}"
            )
        try:
            write_card(end.folder, record)
        except Exception as error:
            self._say(
                f"no model card: {one_line(error)}; to try again, type: fedsim export "
                f"{end.folder} --card"
            )
