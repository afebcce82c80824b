"""Whether what a one-shot method sent gives real images away: measured when a run is done."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.engine.prepare import Prepared
from fedsim.grid.worker import device_for
from fedsim.observers.base import Finished, Observer, Run
from fedsim.raising import one_line
from fedsim.report.leakage import leakage_line, leakage_verdict, write_leakage


class Leakage(Observer):
    """Looks for real images in what a one-shot method sent, and for members in its model.

    A search that fails does not fail a finished run.

    Args:
        prepared: what the run is made of.
        say: is told what was found.
        verbose: tell the numbers, too.
    """

    def __init__(
        self, prepared: Prepared, say: Callable[[str], None], verbose: bool = False
    ) -> None:
        self._prepared, self._say, self._verbose = prepared, say, verbose

    def begin(self, run: Run) -> None:
        """Take the folder."""
        self._folder = run.folder

    def done(self, finished: Finished) -> None:
        """Write `synthetic/leakage.json` and its picture."""
        prepared = self._prepared
        if not (prepared.one_shot and prepared.task.compares_images):
            return
        try:
            found = write_leakage(
                self._folder,
                prepared.federation,
                finished.module(),
                device_for(prepared.scenario),
                prepared.streams.numpy("leakage"),
                count_classes=prepared.privacy is None,
            )
        except Exception as error:
            self._say(f"leakage was not measured: {one_line(error)}")
            return
        if found is not None:
            self._say(leakage_line(found) if self._verbose else leakage_verdict(found))
