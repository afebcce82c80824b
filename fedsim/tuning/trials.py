"""The trials of a tuning: runs of a sweep, in batches, each batch chosen by the scores before it.

Trials of one batch do not depend on each other, so that it makes no difference how many run at a
time, or which ends first. What a trial is worth is read in its run folder: a tuning that was
interrupted asks for the same trials again, and finds those that are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fedsim.errors import InputError
from fedsim.folder.runfolder import RunFolder
from fedsim.raising import one_line
from fedsim.scenario import load
from fedsim.sweeping.cells import Cell, Standing, fingerprints, require_cells, runs_of
from fedsim.sweeping.entries import Entry
from fedsim.sweeping.scheduler import LEFT, Sweep
from fedsim.tasks.metric import Metric
from fedsim.terminal.console import Console
from fedsim.terminal.printing import duration
from fedsim.tuning.study import Study

VALIDATED = "evaluation.val_scores=true"
"""The word that has a run scored on the validation split after its rounds."""
_LOOK_SECONDS = 1.0  # between two looks at the rounds of trials that run


@dataclass(frozen=True)
class Plan:
    """What is tuned.

    Attributes:
        source: the scenario's name or file, as it was typed.
        words: "key=value" words that hold for every trial, and for the run that is chosen.
        common: such words of resources.
        seed: of the trials.
        own_seeds: trial k has the seed `seed` + k - 1.
        count: trials.
        batch: trials that are chosen at a time.
        metric: what scores are: "val_" and the task's headline.
        measured: the headline.
        best_round: a run's model is that of its best round, not of the last one.
    """

    source: str
    words: tuple[str, ...]
    common: tuple[str, ...]
    seed: int
    own_seeds: bool
    count: int
    batch: int
    metric: str
    measured: Metric
    best_round: bool

    def score(self, series: Sequence[tuple[int, float]]) -> float | None:
        """What a finished trial is worth, from its scores after rounds."""
        scores = [score for _, score in series]
        if not scores:
            return None
        if not self.best_round:
            return scores[-1]
        return max(scores) if self.measured.better == "higher" else min(scores)

    def text(self, score: float) -> str:
        """A score with its name."""
        return f"{self.metric} {self.measured.text(score)}"


@dataclass
class Trial:
    """One trial.

    Attributes:
        number: from 1.
        values: key -> what is typed.
        entry: its run; None where the values do not go together.
        status: "waiting", "done", "stopped" (it was clearly worse) or "failed".
        score: on the validation split; of a stopped trial the last one.
        stopped_at: the round after which it was stopped.
        rounds: rounds that were scored.
        seconds: that its rounds took.
        error: why it failed.
    """

    number: int
    values: Mapping[str, str]
    entry: Entry | None
    status: Literal["waiting", "done", "stopped", "failed"] = "waiting"
    score: float | None = None
    stopped_at: int | None = None
    rounds: int = 0
    seconds: float | None = None
    error: str = ""

    @property
    def words(self) -> list[str]:
        """The values as they are typed."""
        return [f"{key}={value}" for key, value in self.values.items()]


class Tuning(Sweep):
    """The trials, and the processes that run them.

    Args:
        plan: what is tuned.
        study: chooses values.
        data: `Cell.data_key` -> fingerprint, of what is prepared.
        runs: the folder of the trials' runs.
        console: where lines are printed.
        jobs: trials at a time; None: as many as cores and memory allow.
        verbose: logs with tracebacks.
        after_batch: is called when a batch has ended, and before the first.

    Attributes:
        trials: those that were chosen so far.
    """

    def __init__(
        self,
        plan: Plan,
        study: Study,
        data: Mapping[str, str],
        runs: Path,
        console: Console,
        jobs: int | None = None,
        verbose: bool = False,
        after_batch: Callable[[Tuning], None] | None = None,
    ) -> None:
        super().__init__([], data, runs, console, jobs, verbose)
        self.plan, self.trials = plan, list[Trial]()
        self._study, self._data = study, dict(data)
        self._fingerprints = self._data
        self._by_run: dict[tuple[str, int], Entry] = {}
        self._current: dict[int, Trial] = {}  # by the number of the entry
        self._ending: set[int] = set()
        self._looked_at_rounds = 0.0
        self._after_batch = after_batch

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best score, the first of several; None: none is finished."""
        sign = 1 if self.plan.measured.better == "higher" else -1
        finished = [one for one in self.trials if one.status == "done"]
        return max(finished, key=lambda one: sign * (one.score or 0.0), default=None)

    def _run_all(self) -> None:
        """Run batch after batch, unless Ctrl-C comes."""
        if self._after_batch is not None:
            self._after_batch(self)
        while not self._signals.count and (batch := self.choose()):
            super()._run_all()
            if not self._with(*LEFT):
                self._tell(batch)

    def _turn(self) -> None:
        self._stop_the_worse()
        super()._turn()

    def _failed(self) -> bool:
        return bool(self.trials) and self.best is None

    # --- choosing ------------------------------------------------------------------------------

    def choose(self) -> list[Trial]:
        """The trials of the next batch; none: all were chosen."""
        first = len(self.trials)
        batch = [self._trial(number) for number in range(first, self.plan.count)[: self.plan.batch]]
        self.trials += batch
        return batch

    def _trial(self, number: int) -> Trial:
        trial = Trial(number + 1, self._study.ask(), None)
        try:
            trial.entry = self._entry(trial)
        except InputError as error:
            trial.status, trial.error = "failed", one_line(error)
        else:
            self._current[trial.entry.number] = trial
        return trial

    def _entry(self, trial: Trial) -> Entry:
        """The run of a trial: a new one, or that of an earlier trial with the same values."""
        plan = self.plan
        words = (*plan.words, *trial.words, VALIDATED, *plan.common)
        seed = plan.seed + trial.number - 1 if plan.own_seeds else plan.seed
        cell = Cell(plan.source, words, seed, load(plan.source, words), " ".join(trial.words))
        require_cells([cell])
        if cell.data_key not in self._data:
            self._data |= fingerprints([cell], self._console.preparing)
        known = self._by_run.get((cell.identity, seed))
        if known is None:
            known = Entry(cell, len(self.entries) + 1)
            self.entries.append(known)
            self._by_run[cell.identity, seed] = known
        elif known.status == "stopped":
            known.status = "waiting"  # By what is known now, it may be good enough.
        return known

    # --- stopping ------------------------------------------------------------------------------

    def _stop_the_worse(self) -> None:
        """End the running trials that are clearly worse than those before."""
        if time.monotonic() - self._looked_at_rounds < _LOOK_SECONDS:
            return
        self._looked_at_rounds = time.monotonic()
        for entry in self._with("running"):
            if entry.number in self._ending or entry.process is None:
                continue
            if (folder := self._folder_of(entry)) and self._worse(entry, folder):
                self._ending.add(entry.number)
                entry.process.terminate()

    def _folder_of(self, entry: Entry) -> Path | None:
        """The run folder of a trial that runs; None: there is none yet."""
        if entry.folder is None:
            new = (one for one, _ in runs_of(entry.cell, self._runs) if one not in entry.known)
            entry.folder = next(new, None)
        return entry.folder

    def _worse(self, entry: Entry, folder: Path) -> bool:
        """Whether a trial is clearly worse after some round that it has finished."""
        trial = self._current[entry.number]
        if trial.stopped_at is None:
            series = self._series(folder)
            trial.stopped_at = self._study.stopped_at(trial.number - 1, series)
        return trial.stopped_at is not None

    def _series(self, folder: Path | None) -> list[tuple[int, float]]:
        """Rounds of a run, and the validation score after each that has one."""
        rows = _rounds(folder)
        found = ((row["round"], row["metrics"].get(self.plan.metric)) for row in rows)
        return [(number, float(score)) for number, score in found if score is not None]

    def _launch(self, entry: Entry, found: Standing, log: BinaryIO) -> None:
        if found.folder is not None and self._worse(entry, found.folder):
            entry.folder = found.folder
            self._note_stopped(entry, "stopped before")
            return
        super()._launch(entry, found, log)

    def _finish(self, entry: Entry, code: int) -> None:
        if entry.number not in self._ending:
            super()._finish(entry, code)
            return
        self._ending.remove(entry.number)
        entry.seconds = time.monotonic() - entry.began
        self._note_stopped(entry, f"stopped after {duration(entry.seconds)}")

    def _note_stopped(self, entry: Entry, what: str) -> None:
        entry.status = "stopped"
        number = self._current[entry.number].stopped_at
        self._say(entry, f"{what}: after round {number} it is worse than the median of the others")
        self._write("running")

    # --- scores --------------------------------------------------------------------------------

    def _tell(self, batch: Sequence[Trial]) -> None:
        """Read what the trials of a batch are worth, in order, and let the study learn of it."""
        for trial in batch:
            if trial.entry is not None:
                self._current[trial.entry.number] = trial
                self._settle(trial, trial.entry)
        # Only then: no trial of a batch is compared with another one of it, however often it was
        # looked at while it ran.
        for trial in batch:
            worst = trial.status == "stopped" or _diverged(trial.error)
            score = trial.score if trial.status == "done" else None
            self._study.tell(trial.number - 1, score, stopped=worst)
        if self._after_batch is not None:
            self._after_batch(self)

    def _settle(self, trial: Trial, entry: Entry) -> None:
        series = self._series(entry.folder)
        trial.seconds = sum(row["seconds"] for row in _rounds(entry.folder)) or None
        trial.rounds = len(series)
        if entry.folder is not None and self._worse(entry, entry.folder):
            assert trial.stopped_at is not None
            seen = [score for number, score in series if number <= trial.stopped_at]
            trial.status, trial.score, trial.rounds = "stopped", seen[-1], len(seen)
        elif entry.status == "done" and (score := self.plan.score(series)) is not None:
            trial.status, trial.score = "done", score
        else:
            trial.status = "failed"
            trial.error = entry.error or f"no round has a {self.plan.metric}"

    def _scores(self, entry: Entry) -> list[str]:
        # Never the score on the test split, which a sweep would print.
        score = self.plan.score(self._series(entry.folder))
        return [] if score is None else [self.plan.text(score)]

    def _seconds_left(self) -> float:
        """Rough time for all trials that are left, those that are not chosen yet among them."""
        took = [entry.seconds or 0.0 for entry in self._with("done", "stopped") if entry.seconds]
        left = self.plan.count - len(self.trials) + len(self._with("waiting", "running"))
        return left * sum(took) / len(took) / self._widest if took else 0.0

    def _say(self, entry: Entry, text: str) -> None:
        trial = self._current[entry.number]
        self._console.line(f"[{trial.number}/{self.plan.count}] {entry.cell.label}: {text}")


def _rounds(folder: Path | None) -> list[dict[str, Any]]:
    """The rounds that a run has finished."""
    return [] if folder is None else RunFolder(folder).read_lines("rounds.jsonl")


def _diverged(error: str) -> bool:
    """Whether the values were to blame: a model, or its training, diverged."""
    return "diverged" in error
