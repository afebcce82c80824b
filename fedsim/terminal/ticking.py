"""A word now and then of something long that has no bar, on standard error."""

from __future__ import annotations

import sys
import time

from fedsim.terminal.printing import say

_SECONDS = 3.0


class Ticker:
    """Says how far something is, every few seconds; nothing of what is soon done.

    Args:
        what: is being done, such as "reading the settings".
        quiet: say nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet = what, quiet
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """So many of so many are done."""
        if self._quiet or time.monotonic() - self._last < _SECONDS:
            return
        self._last = time.monotonic()
        say(f"{self._what}: {done:,} of {total:,}", file=sys.stderr)
