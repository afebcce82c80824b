"""Pictures of a finished run that need its models and data: what the task draws of test records."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.engine.prepare import Prepared
from fedsim.federation.holdings import stand_in_note
from fedsim.grid.worker import device_for
from fedsim.observers.base import Finished, Observer, Run
from fedsim.raising import one_line


class Pictures(Observer):
    """Draws what the model makes of test records; the first model, if there are many.

    A picture that fails does not fail a finished run.

    Args:
        prepared: what the run is made of.
        say: is told where nothing can be drawn.
    """

    def __init__(self, prepared: Prepared, say: Callable[[str], None]) -> None:
        self._prepared, self._say = prepared, say

    def begin(self, run: Run) -> None:
        """Take the folder."""
        self._folder = run.folder

    def done(self, finished: Finished) -> None:
        """Let the task draw, if it has something to."""
        prepared = self._prepared
        if not prepared.task.pictures_told:
            return
        owner = f", model of {finished.owners[0]}" if finished.owners else ""
        try:
            prepared.task.pictures(
                self._folder,
                finished.module(),
                prepared.federation.view("test"),
                finished.predicted[0],
                device_for(prepared.scenario),
                title=f"{prepared.scenario.name}{owner}",
                note=stand_in_note(prepared.federation.store),
            )
        except Exception as error:
            self._say(f"no pictures of test records: {one_line(error)}")
