"""The run folder: its lines as they come, and the results of a run that is done."""

from __future__ import annotations

from fedsim.engine.prepare import Prepared
from fedsim.folder.runfolder import RunFolder
from fedsim.observers.base import Exchange, Finished, Observer, Row, Run
from fedsim.trained.files import write_models
from fedsim.wire import flower


class FolderWriter(Observer):
    """Writes what makes a run folder the truth about its run, so a run does not go on without it.

    The lines of privacy.jsonl are written before anybody is asked: what is released counts even if
    this process does not live on. A round's line is written after the round's checkpoint.
    """

    essential = True

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def begin(self, run: Run) -> None:
        """Take the folder."""
        self._folder, self._run = RunFolder(run.folder), run

    def exchange(self, exchange: Exchange) -> None:
        """Write what the releases cost."""
        for row in exchange.charges:
            self._folder.append("privacy.jsonl", row)

    def message(self, row: Row) -> None:
        """Write a message's line."""
        self._folder.append("traffic.jsonl", row)

    def round(self, row: Row) -> None:
        """Write a round's line."""
        self._folder.append("rounds.jsonl", row)

    def finish(self, finished: Finished) -> None:
        """Write the models, what they predict on the test split, and the summary."""
        prepared = self._prepared
        write_models(
            self._folder,
            [flower.tensor_record(arrays, copy=False) for arrays in finished.models],
            prepared.scenario,
            prepared.federation,
            prepared.privacy,
            finished.summary,
            seed=prepared.seed,
            run_id=self._run.id,
            owners=finished.owners,
        )
        self._folder.write_arrays(finished.predicted_in, **finished.predictions)
        self._folder.write_json("summary.json", finished.summary)
