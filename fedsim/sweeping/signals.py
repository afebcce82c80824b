"""Signals of a process that has others to look after."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from fedsim.raising import TWICE_SECONDS


class Signals:
    """Counts SIGINT and SIGTERM instead of raising: no child is lost between two statements."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(ValueError):  # Not in the main thread.
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Processes started here get no Ctrl-C, although a terminal sends it: we end them."""
        if signal.SIGINT not in self._before:
            yield
            return
        # Blocked, and not ignored: what comes meanwhile is counted afterwards, not lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.count:
            self._first = now
        elif now - self._first < TWICE_SECONDS:
            return
        self.count += 1
