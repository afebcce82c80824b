"""The audit that a private scenario asks for: its claim is attacked when the run is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedsim.folder.runfolder import RunFolder
from fedsim.observers.base import Finished, Observer, Run

if TYPE_CHECKING:
    from fedsim.privacy.attacks import Subject
    from fedsim.privacy.verdict import Level


class Audit(Observer):
    """Attacks the claim, and writes the verdict into summary.json; without one the run is not done.

    Args:
        subject: what is attacked.
        level: how.
        seed: of the attack.
        say: is told how far it is, and the verdict.
    """

    essential = True

    def __init__(
        self, subject: Subject, level: Level, seed: int, say: Callable[[str], None]
    ) -> None:
        self._subject, self._level, self._seed, self._say = subject, level, seed, say

    def begin(self, run: Run) -> None:
        """Take the folder."""
        self._folder = RunFolder(run.folder)

    def finish(self, finished: Finished) -> None:
        """Attack. The summary is in the folder already."""
        from fedsim.privacy import verdict

        self._say(f"the audit begins: level {self._level}")
        found = verdict.audit(self._subject, self._level, self._seed, say=self._say)
        self._say(found.line())
        summary = self._folder.read_json("summary.json") | {"audit": found.record()}
        self._folder.write_json("summary.json", summary)
