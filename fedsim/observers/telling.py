"""Telling observers: in order, under kept random generators, and without harm from who raises."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from fedsim.errors import FedsimError, RunError
from fedsim.observers.base import End, Exchange, Finished, Observer, Progress, Reply, Row, Run
from fedsim.raising import one_line, reraise_interruption, short_traceback
from fedsim.randomness import kept

_PAUSE = 0.2  # seconds between two calls of an observer's `working`
_LINE = "observer {} failed in {}: {}; the run goes on, and tells it nothing more"


class Observers:
    """The observers of a run, told in the order in which they were registered.

    It has their methods. What an essential observer raises is raised; of any other one it is said
    once, by `note`, and the observer is left out from then on.

    Args:
        observers: who watches.
        names: what a person calls them, by `id`; by default their class.
    """

    def __init__(
        self, observers: Iterable[Observer] = (), names: Mapping[int, str] | None = None
    ) -> None:
        self._all, self._names = list(observers), dict(names or {})
        self._begun: list[Observer] = []
        self._listening: dict[str, list[Observer]] = {}
        self._last = 0.0

    def note(self, text: str) -> None:
        """Tell a line."""
        self._tell("note", text)

    def begin(self, run: Run) -> None:
        """Tell that the run begins; from here on it has an end."""
        self._begun = list(self._all)
        self._tell("begin", run)

    def exchange(self, exchange: Exchange) -> None:
        """Tell of messages that are about to be sent."""
        self._tell("exchange", exchange)

    def message(self, row: Row) -> None:
        """Tell of a message."""
        self._tell("message", row)

    def reply(self, reply: Reply) -> None:
        """Tell of a reply."""
        self._tell("reply", reply)

    def working(self, progress: Progress) -> None:
        """Tell how far the work is, several times a second at most."""
        now = time.monotonic()
        if now - self._last >= _PAUSE:
            self._last = now
            self._tell("working", progress)

    def round(self, row: Row) -> None:
        """Tell of a finished round."""
        self._tell("round", row)

    def finish(self, finished: Finished) -> None:
        """Tell what came of all rounds."""
        self._tell("finish", finished)

    def done(self, finished: Finished) -> None:
        """Tell that the result is kept."""
        self._tell("done", finished)

    def end(self, end: End) -> None:
        """Tell whoever was told of the beginning that the run has ended."""
        begun, self._begun = self._begun, []
        self._all = [one for one in self._all if one in begun]
        self._listening = {}
        self._tell("end", end)

    def _tell(self, method: str, what: Any) -> None:
        for observer in self._who(method):
            if observer.essential:
                self._must_tell(observer, method, what)
                continue
            try:
                with kept():
                    getattr(observer, method)(what)
            except BaseException as error:
                reraise_interruption(error)
                self._leave_out(observer)
                self.note(_LINE.format(self._name(observer), method, one_line(error)))

    def _must_tell(self, observer: Observer, method: str, what: Any) -> None:
        """Tell an observer whose failure ends the run; of a full disk it is told as such."""
        try:
            getattr(observer, method)(what)
        except (FedsimError, OSError, KeyboardInterrupt):
            raise
        except BaseException as error:
            reraise_interruption(error)
            raise RunError(
                f"observer {self._name(observer)} failed in {method}:\n{short_traceback(error)}"
            ) from error

    def _who(self, method: str) -> list[Observer]:
        """The observers that have a method of their own; the others need not be asked."""
        if method not in self._listening:
            plain = getattr(Observer, method)
            self._listening[method] = [
                one for one in self._all if getattr(type(one), method, None) is not plain
            ]
        return list(self._listening[method])

    def _leave_out(self, observer: Observer) -> None:
        self._all = [one for one in self._all if one is not observer]
        self._listening = {}

    def _name(self, observer: Observer) -> str:
        return repr(self._names.get(id(observer), type(observer).__name__))
