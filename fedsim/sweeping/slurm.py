"""The cells of a sweep as jobs of Slurm, one job a cell, by way of `submitit`.

A sweep submits what is missing and returns. The jobs go on by themselves; the same sweep, typed
again, takes in what is finished, leaves alone what is queued or runs, and submits what failed.
What a job does is decided when it starts: it goes on with an interrupted run of its cell.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, Problem, RunError
from fedsim.folder.runfolder import now, write_whole
from fedsim.locks import take
from fedsim.raising import one_line
from fedsim.sweeping.cells import Cell, Standing, standing
from fedsim.sweeping.entries import Entry, error_in
from fedsim.sweeping.scheduler import Sweep, command_of, words_of
from fedsim.terminal.console import Console

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_MARK = re.compile(r"\n# [^ \n]+: fedsim [^\n]*\n")
"""What the part of a log begins with that one process wrote."""
_POLL_SECONDS = 0.2
_END_SECONDS = 30.0  # for a run that is stopped, before its job goes back into the queue
_CPUS = "cpus-per-task"
# What submitit sets, or what would start a cell several times.
_OURS = {"array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"}
_OURS |= {"signal", "wrap"}
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


class Slurm:
    """The queue of this machine's Slurm.

    Args:
        options: "KEY=VALUE", each an option of `sbatch`; `time` must be among them.

    Raises:
        InputError: an option is none, Slurm is not here, or submitit is not installed.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.minutes, self.options = _sorted_out(options)
        self._require()

    def _require(self) -> None:
        if shutil.which("sbatch") is None:
            raise InputError(
                "there is no Slurm here: sbatch is not found",
                hint="type it on a machine that submits to Slurm, or leave out --launcher",
            )
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise InputError(
                "the launcher slurm needs the package submitit",
                hint="type: pip install '.[slurm]' in fedsim's folder",
            ) from error

    def executor(self, folder: Path) -> Any:
        """What submits jobs whose files lie in a folder."""
        import submitit

        return submitit.SlurmExecutor(folder)

    def parameters(self, cell: Cell) -> dict[str, Any]:
        """What a cell's job is submitted with: as asked, else as many cores as it has threads."""
        resources = cell.scenario.resources
        workers = 1 if resources.backend == "inline" else resources.workers or 1
        cpus = self.options.get(_CPUS, str(workers * resources.threads))
        return {
            "time": self.minutes,
            "job_name": f"fedsim-{cell.scenario.name}",
            # What has no value for sbatch is switched on.
            "additional_parameters": {
                key: True if value == "true" else value
                for key, value in {**self.options, _CPUS: cpus}.items()
            },
            # Since 22.05 a step does not inherit them.
            "srun_args": [f"--{_CPUS}={cpus}"],
        }

    def submit(self, job: Job, folder: Path) -> str:
        """Submit a cell; the id of its job.

        Raises:
            RunError: Slurm does not take it.
        """
        try:
            executor = self.executor(folder)
            executor.update_parameters(**self.parameters(job.cell))
            with contextlib.redirect_stderr(io.StringIO()):  # submitit says it twice.
                return str(executor.submit(job).job_id)
        except Exception as error:  # submitit's own classes, and what sbatch said.
            raise RunError(f"Slurm does not take the job: {one_line(error)}") from error

    def active(self) -> dict[str, str]:
        """The state of each of this user's jobs that is not over, such as PENDING.

        Raises:
            RunError: Slurm does not answer.
        """
        command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i %T"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise RunError(f"squeue does not answer: {said[-1] if said else error}") from error
        pairs = (line.split(maxsplit=1) for line in told.stdout.splitlines() if line.strip())
        return dict(pairs)


@dataclass
class Job:
    """What a job does, at whatever node and however often it is put back into the queue.

    Attributes:
        cell: what to run.
        fingerprint: of its data, as they were when it was submitted.
        runs: the folder of runs.
        place: the folder that the sweep was typed in.
        verbose: logs with tracebacks and Ray's output.
    """

    cell: Cell
    fingerprint: str
    runs: Path
    place: Path
    verbose: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> None:
        """Run the cell, or go on with its run; RunError where it fails, so that Slurm knows."""
        os.chdir(self.place)
        path = self.cell.log(self.runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            if not take(log.fileno()):
                return  # Another process runs it.
            found = standing(self.cell, self.runs, self.fingerprint, locked=True)
            if found.action in ("done", "wait"):
                return
            words = words_of(self.cell, found, self.runs)
            log.write(f"\n# {now()}: fedsim {shlex.join(words)}\n".encode())
            log.flush()
            command = command_of(words, self.verbose)
            process = self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_deaf
            )
            # Not wait(): the handler of a signal that comes meanwhile waits for it itself.
            while (code := process.poll()) is None:
                time.sleep(_POLL_SECONDS)
        if code:
            raise RunError(f"fedsim run ended with exit code {code}; its log: {path}")

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts back into the queue where the time is up, or others go first."""
        from submitit.helpers import DelayedSubmission

        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # No more is lost than the round that was not finished.
        return DelayedSubmission(self)


def _deaf() -> None:
    """Let a run ignore the signal that tells its job of the end: the job stops it in order."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class SlurmSweep(Sweep):
    """The cells of a sweep, and the jobs that run them.

    Args:
        cells, fingerprints, runs, console, verbose: as of a `Sweep`.
        slurm: the queue.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        fingerprints: Mapping[str, str],
        runs: Path,
        console: Console,
        slurm: Slurm,
        verbose: bool = False,
    ) -> None:
        super().__init__(cells, fingerprints, runs, console, verbose=verbose)
        self._slurm = slurm

    def forecast(self) -> list[tuple[Entry, Standing]]:
        """What would be done with each cell."""
        active = self._slurm.active()
        told = []
        for entry, found in super().forecast():
            number = self._job_of(entry)
            if found.action != "done" and number in active:
                found = Standing("wait", why=f"job {number} is {active[number]}")
            told.append((entry, found))
        return told

    def run(self) -> int:
        """Take in what is finished, and submit what is missing; the exit code.

        Raises:
            InputError: the folder of runs cannot be written.
            RunError: Slurm does not answer, or does not take a job.
        """
        active = self._slurm.active()
        self._begin()
        with self._signals:
            try:
                for entry in self.entries:
                    if self._signals.count:
                        break
                    self._look_after(entry, active)
            except BaseException:
                self._write("failed")
                raise
        if self._signals.count:
            self._write("interrupted")
            return EXIT_INTERRUPTED
        left = len(self.entries) - len(self._with("done"))
        self._write("submitted" if left else "done")
        self._sum_up()
        return EXIT_DONE

    def _look_after(self, entry: Entry, active: Mapping[str, str]) -> None:
        found = self._standing(entry)
        number = self._job_of(entry)
        if found.action == "done":
            self._skip(entry, found)
            return
        if number in active:
            state = active[number]
            entry.status, entry.job = "queued" if state == "PENDING" else "running", number
            entry.folder = found.folder
            self._say(entry, f"job {number} is {state}; log: {entry.cell.log(self._runs)}")
            return
        if found.action == "wait":
            entry.status = "elsewhere"
            self._say(entry, "runs in another process")
            return
        if number:
            entry.error = self._why(entry)
            self._say(entry, f"job {number} did not finish: {entry.error}")
        entry.job = self._submit(entry)
        entry.status, entry.folder = "queued", found.folder
        what = f"; it goes on with {found.folder}" if found.folder else ""
        self._say(entry, f"submitted as job {entry.job}{what}")

    def _submit(self, entry: Entry) -> str:
        cell = entry.cell
        fingerprint = self._fingerprints[cell.data_key]
        job = Job(cell, fingerprint, self._runs, Path.cwd(), self._verbose)
        number = self._slurm.submit(job, self._folder)
        about = {"job": number, "submitted": now(), "files": str(self._folder)}
        write_whole(self._ticket(entry), (json.dumps(about) + "\n").encode())
        return number

    def _job_of(self, entry: Entry) -> str:
        """The id of the cell's last job, or ""."""
        try:
            return str(json.loads(self._ticket(entry).read_text())["job"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "a file that names the job of a cell is damaged",
                [Problem(str(self._ticket(entry)), one_line(error))],
                "if no job of the cell is in the queue, delete this file",
            ) from error

    def _why(self, entry: Entry) -> str:
        """Why the cell's last job did not finish, in one line."""
        try:
            log = entry.cell.log(self._runs).read_text(errors="replace")
        except FileNotFoundError:
            log = ""
        *_, said = ["", *_MARK.split(log)[1:]]
        if not said.strip():
            return f"it said nothing; Slurm's own files are in {self._folder}"
        return error_in(said, 1)

    def _ticket(self, entry: Entry) -> Path:
        return entry.cell.log(self._runs).with_suffix(".job")

    @property
    def _folder(self) -> Path:
        """Where submitit keeps its files."""
        return self._runs.absolute() / "sweeps" / "slurm"

    def _sum_up(self) -> None:
        counts = Counter(entry.status for entry in self.entries)
        told = [f"{counts[status]} {status}" for status in ("done", "queued", "running")]
        told += [f"{counts['elsewhere']} elsewhere"] if counts["elsewhere"] else []
        self._console.line(f"{len(self.entries)} cells: {', '.join(told)}")
        if counts["done"] < len(self.entries):
            self._console.line("the jobs go on by themselves; to see to them, type the same again")


def _sorted_out(options: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Minutes that a job may take, and the other options of sbatch.

    Raises:
        InputError: with all that is wrong with them.
    """
    problems, found = [], {}
    for option in options:
        key, equals, value = option.partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if not equals or not re.fullmatch(r"[a-z][a-z-]*", key) or "\n" in value:
            problems.append(Problem("--slurm", f"{option!r}: expected KEY=VALUE, as of sbatch"))
        elif key in _OURS:
            problems.append(Problem("--slurm", f"{key}: a cell is one job with one task"))
        elif key in found:
            problems.append(Problem("--slurm", f"{key} is given twice"))
        else:
            found[key] = value.strip()
    limit = found.pop("time", None)
    minutes = 0 if limit is None else _minutes(limit)
    if limit is None:
        problems.append(Problem("--slurm", "time is missing: how long may one cell take?"))
    elif not minutes:
        problems.append(Problem("--slurm", f"time={limit}: expected minutes, or D-HH:MM:SS"))
    cpus = found.get(_CPUS, "1")
    if not re.fullmatch(r"[1-9][0-9]*", cpus):
        problems.append(Problem("--slurm", f"{_CPUS}={cpus}: expected a whole number from 1"))
    if problems:
        raise InputError(
            "the options of Slurm are wrong",
            problems,
            "type, for example: --slurm time=04:00:00 --slurm partition=NAME --slurm mem=8G",
        )
    return minutes, found


def _minutes(text: str) -> int:
    """Minutes of a time as sbatch reads it, rounded up; 0 where it is none."""
    parts = _TIME.fullmatch(text)
    if parts is None:
        return 0
    days, *rest = (None if part is None else int(part) for part in parts.groups())
    numbers = [number for number in rest if number is not None]
    if days is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # MM[:SS]
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    total = ((days or 0) * 24 + hours) * 60 + minutes + (1 if seconds else 0)
    return total
