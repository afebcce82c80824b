"""Running the cells of a sweep: each in its own process, as many at a time as the machine carries.

A cell that fails does not stop the others. An interrupted sweep leaves resumable runs; the same
sweep, typed again, goes on where it stopped.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED, InputError, Problem
from fedsim.folder.runfolder import RunFolder, now
from fedsim.grid.machine import available_mb, cores
from fedsim.locks import take
from fedsim.sweeping.capacity import cores_of, expected_mb
from fedsim.sweeping.cells import Cell, Standing, runs_of, standing
from fedsim.sweeping.entries import Entry, Record, error_of, score
from fedsim.sweeping.signals import Signals
from fedsim.terminal.console import Console
from fedsim.terminal.printing import duration
from fedsim.terminal.ticking import Ticker

LEFT = ("waiting", "running", "elsewhere")
"""What cells are that have not ended."""
_POLL_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 2.0  # at cells that another process runs
_PATIENCE_SECONDS = 60.0  # with interrupted runs, before they are killed
_MEMORY_SHARE = 0.9  # of the available memory, for all cells together


class Sweep:
    """The cells of a sweep, and the processes that run them.

    Args:
        cells: what to run, validated.
        fingerprints: `Cell.data_key` -> fingerprint of the data as they are now.
        runs: the folder of runs.
        console: where lines are printed.
        jobs: cells at a time; None: as many as cores and memory allow.
        verbose: logs with tracebacks and Ray's output.

    Attributes:
        entries: the cells.
        damaged: what is wrong with files of run folders that do not count therefore.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        fingerprints: Mapping[str, str],
        runs: Path,
        console: Console,
        jobs: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.entries = [Entry(cell, number) for number, cell in enumerate(cells, 1)]
        self._fingerprints, self._runs, self._console = fingerprints, runs, console
        self._jobs, self._verbose = jobs, verbose
        self._memory = _MEMORY_SHARE * available_mb()
        self._widest = 1
        self._looked = 0.0
        self._record = Record(runs)
        self.damaged: dict[Problem, None] = {}
        self._signals = Signals()

    def forecast(self) -> list[tuple[Entry, Standing]]:
        """What would be done with each cell."""
        tell, found = Ticker("looking for runs of the cells", quiet=self._console.quiet), []
        for count, entry in enumerate(self.entries):
            tell(count, len(self.entries))
            found.append((entry, self._standing(entry)))
        return found

    def run(self) -> int:
        """Run what is missing; the exit code.

        Raises:
            InputError: the folder of runs cannot be written.
        """
        self._begin()
        with self._signals:
            try:
                self._run_all()
            finally:
                self._stop()
        if self._signals.count:
            self._write("interrupted")
            return EXIT_INTERRUPTED
        code = EXIT_RUN_FAILED if self._failed() else EXIT_DONE
        self._write("failed" if code else "done")
        return code

    def _run_all(self) -> None:
        """Run the cells that there are, unless Ctrl-C comes."""
        self._skip_what_is_done()
        while self._with(*LEFT) and not self._signals.count:
            self._turn()

    def _turn(self) -> None:
        """Look once who has ended, and start who fits."""
        self._collect()
        self._look_elsewhere()
        self._start_what_fits()
        if self._with("running", "elsewhere"):
            time.sleep(_POLL_SECONDS)

    def _failed(self) -> bool:
        """Whether what was run counts as failed."""
        return bool(self._with("failed", "interrupted"))

    def _begin(self) -> None:
        """Write the record for the first time."""
        try:
            self._write("running")
        except OSError as error:
            raise InputError(
                f"cannot write in {self._runs}: {error.strerror}",
                hint="choose another place: --runs DIR",
            ) from error

    @property
    def record(self) -> Path:
        """The file that says what this sweep did."""
        return self._record.path

    def finished(self) -> list[RunFolder]:
        """The run folders of the cells that are done, in order."""
        return [RunFolder(entry.folder) for entry in self._with("done") if entry.folder]

    # --- starting ------------------------------------------------------------------------------

    def _skip_what_is_done(self) -> None:
        tell = Ticker("looking for runs of the cells", quiet=self._console.quiet)
        for count, entry in enumerate(self._with("waiting")):
            tell(count, len(self.entries))
            found = self._standing(entry)
            if found.action == "done":
                self._skip(entry, found)

    def _start_what_fits(self) -> None:
        for entry in self._with("waiting"):
            if self._signals.count or not self._fits(entry.cell):
                return  # A narrow cell does not overtake a wide one: that might wait for ever.
            self._start(entry)

    def _fits(self, cell: Cell) -> bool:
        """Whether one more may start: by --jobs alone where given, else by cores and memory."""
        running = self._with("running")
        if not running:
            return True
        if self._jobs is not None:
            return len(running) < self._jobs
        busy = sum(cores_of(entry.cell.scenario) for entry in running)
        needed = self._needed_mb(cell)
        memory = sum(self._needed_mb(entry.cell) for entry in running) + needed
        fits_cores = busy + cores_of(cell.scenario) <= cores()
        return fits_cores and memory <= self._memory and needed <= available_mb()

    def _needed_mb(self, cell: Cell) -> float:
        """The most that a finished cell of the same scenario took, else a guess."""
        name = cell.scenario.name
        peaks = [
            e.summary["peak_rss_mb"] for e in self._with("done") if e.cell.scenario.name == name
        ]
        return max(peaks, default=expected_mb(cell.scenario))

    def _start(self, entry: Entry) -> None:
        cell = entry.cell
        path = cell.log(self._runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            # The child inherits the lock: it ends with the child, even if we are killed.
            free = take(log.fileno())
            found = self._standing(entry, locked=True) if free else Standing("wait")
            if found.action == "done":
                self._skip(entry, found)
            elif found.action == "wait":
                if not entry.told:
                    self._say(entry, "runs in another process; waiting for it")
                entry.status, entry.told = "elsewhere", True
                self._write("running")
            else:
                self._launch(entry, found, log)

    def _launch(self, entry: Entry, found: Standing, log: BinaryIO) -> None:
        words = self._words(entry.cell, found)
        entry.repeat = shlex.join(["fedsim", *self._words(entry.cell, Standing("run"))])
        entry.folder = found.folder
        entry.known = frozenset(place for place, _ in runs_of(entry.cell, self._runs))
        log.write(f"\n# {now()}: fedsim {shlex.join(words)}\n".encode())
        log.flush()
        entry.log_start = log.tell()
        with self._signals.ignored():
            entry.process = subprocess.Popen(
                command_of(words, self._verbose),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        entry.began, entry.status = time.monotonic(), "running"
        self._widest = max(self._widest, len(self._with("running")))
        what = f"goes on with {found.folder}" if found.folder else "starts"
        why = f" ({found.why})" if found.why else ""
        self._say(entry, f"{what}{why}; log: {entry.cell.log(self._runs)}")
        self._write("running")

    def _words(self, cell: Cell, found: Standing) -> list[str]:
        """The words after `fedsim` that run the cell, or go on with its run."""
        resources = cell.scenario.resources
        words = words_of(cell, found, self._runs)
        workers = resources.workers if found.folder is not None else None
        if self._jobs is not None and resources.workers is None and resources.backend != "inline":
            # Several cells share the cores; the number of workers changes no bit.
            workers = max(1, cores() // (self._jobs * resources.threads))
        return [*words, *(["--workers", str(workers)] if workers else [])]

    # --- watching ------------------------------------------------------------------------------

    def _collect(self) -> None:
        for entry in self._with("running"):
            assert entry.process is not None
            code = entry.process.poll()
            if code is not None:
                self._finish(entry, code)

    def _finish(self, entry: Entry, code: int) -> None:
        entry.seconds = time.monotonic() - entry.began
        resumed = entry.folder
        folders = [
            (place, record)
            for place, record in runs_of(entry.cell, self._runs)
            if place == resumed or place not in entry.known
        ]
        entry.folder, record = folders[0] if folders else (resumed, {"status": ""})
        if code == EXIT_DONE and record["status"] == "done":
            self._note_summary(entry)
            left = self._seconds_left()
            self._say(
                entry,
                ", ".join([*self._scores(entry), duration(entry.seconds)])
                + (f"; about {duration(left)} left" if left else ""),
            )
        else:
            interrupted = code == EXIT_INTERRUPTED or self._signals.count
            entry.status = "interrupted" if interrupted else "failed"
            told = error_of(entry.cell.log(self._runs), entry.log_start, code)
            entry.error = entry.killed or told
            how = f": {entry.error}"
            if entry.status == "interrupted" and entry.folder is not None:
                entry.repeat = f"fedsim run --resume {shlex.quote(str(entry.folder))}"
                how = f" ({entry.killed})" if entry.killed else ""
                how += f"; it can go on: {entry.folder}"
            self._say(entry, f"{entry.status} after {duration(entry.seconds)}{how}")
        self._write("running")

    def _skip(self, entry: Entry, found: Standing) -> None:
        entry.folder, entry.before = found.folder, not entry.told
        self._note_summary(entry)
        self._say(
            entry,
            ", ".join([f"finished already: {found.folder}", *self._scores(entry)]),
        )
        self._write("running")

    def _note_summary(self, entry: Entry) -> None:
        assert entry.folder is not None
        entry.status = "done"
        entry.summary = RunFolder(entry.folder).read_json("summary.json")

    def _look_elsewhere(self) -> None:
        """Take back the cells that no other process runs any more."""
        if time.monotonic() - self._looked < _LOOK_AGAIN_SECONDS:
            return
        self._looked = time.monotonic()
        for entry in self._with("elsewhere"):
            if self._standing(entry).action != "wait":
                entry.status = "waiting"

    def _stop(self) -> None:
        """End the running cells as Ctrl-C does: they leave resumable runs."""
        running = self._with("running")
        if running:
            told = (
                "1 run closes its folder"
                if len(running) == 1
                else f"{len(running)} runs close their folders"
            )
            self._console.line(f"interrupted; {told}")
        for entry in running:
            assert entry.process is not None
            entry.process.terminate()
        until = time.monotonic() + _PATIENCE_SECONDS
        while self._with("running"):
            time.sleep(_POLL_SECONDS)
            if time.monotonic() > until or self._signals.count > 1:  # A kill loses nothing either.
                asked = self._signals.count > 1
                why = "a second interruption" if asked else f"no end in {_PATIENCE_SECONDS:g} s"
                for entry in self._with("running"):
                    assert entry.process is not None
                    entry.killed = f"killed by this sweep: {why}"
                    entry.process.kill()
            self._collect()

    def _seconds_left(self) -> float:
        """Rough time for the cells that are left, from those that are done."""
        took: dict[str, list[float]] = {}
        for entry in self._with("done"):
            seconds = max(entry.seconds or 0.0, entry.summary["wall_seconds"])
            took.setdefault(entry.cell.scenario.name, []).append(seconds)
        every = [seconds for some in took.values() for seconds in some]
        left = 0.0
        for entry in self._with("waiting", "running"):
            like = took.get(entry.cell.scenario.name, every)
            gone = time.monotonic() - entry.began if entry.status == "running" else 0.0
            left += max(sum(like) / len(like) - gone, 0.0) if like else 0.0
        return left / self._widest

    # --- small things --------------------------------------------------------------------------

    def _scores(self, entry: Entry) -> list[str]:
        """What is said of how good a finished cell is."""
        return score(entry.folder, entry.summary)

    def _with(self, *status: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.status in status]

    def _standing(self, entry: Entry, locked: bool = False) -> Standing:
        fingerprint = self._fingerprints[entry.cell.data_key]
        return standing(entry.cell, self._runs, fingerprint, locked, self.damaged)

    def _say(self, entry: Entry, text: str) -> None:
        self._console.line(f"[{entry.number}/{len(self.entries)}] {entry.cell.label}: {text}")

    def _write(self, status: str) -> None:
        self._record.write(self.entries, status)


def words_of(cell: Cell, found: Standing, runs: Path) -> list[str]:
    """The words after `fedsim` that run a cell, or go on with its run, but for the workers."""
    if found.folder is not None:
        backend = cell.scenario.resources.backend
        return ["run", "--resume", str(found.folder), "--backend", backend]
    words = ["run", cell.source, *cell.overrides, "--seed", str(cell.seed)]
    return [*words, "--runs", str(runs)]


def command_of(words: Sequence[str], verbose: bool) -> list[str]:
    """The command of a process that does what the words after `fedsim` say.

    As the command `fedsim` does: modules of the current folder are imported only if they were so
    here.
    """
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", "fedsim", *words, *(["-v"] if verbose else [])]
