"""The cells of a sweep that is going on: how far each is, what it says of itself, the record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsim.folder.runfolder import SCHEMA_VERSION, RunFolder, now, write_whole
from fedsim.sweeping.cells import Cell
from fedsim.tasks.facts import TaskFacts


@dataclass
class Entry:
    """A cell and how far it is.

    Attributes:
        number: its place among the cells, from 1.
        status: "waiting", "queued" (by Slurm), "running", "elsewhere" (another process runs it),
            "done", "failed" or "interrupted".
        before: whether it was finished before this sweep.
        folder: its run folder.
        seconds: how long it took in this sweep.
        error: why it failed, in one line.
        repeat: what to type to run it alone.
        summary: its summary.json, once it is done.
        process, began, log_start: its process, when that began, and where its part of the log does.
        known: the run folders that it had before.
        told: whether it was said that another process runs it.
        killed: why this sweep itself killed its process; "" if it did not.
        job: Slurm's id of its job, or "".
    """

    cell: Cell
    number: int
    status: str = "waiting"
    before: bool = False
    folder: Path | None = None
    seconds: float | None = None
    error: str = ""
    repeat: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    log_start: int = 0
    known: frozenset[Path] = frozenset()
    told: bool = False
    killed: str = ""
    job: str = ""

    def describe(self) -> dict[str, Any]:
        """The entry of the sweep's record."""
        return {
            "label": self.cell.label,
            "scenario": self.cell.scenario.name,
            "source": self.cell.source,
            "overrides": list(self.cell.overrides),
            "seed": self.cell.seed,
            "status": self.status,
            "finished_before": self.before,
            "run": self.folder and str(self.folder),
            "seconds": self.seconds,
            "error": self.error or None,
            **({"job": self.job} if self.job else {}),
        }


class Record:
    """The file `<runs>/sweeps/<UTC time>.json`: the command, and each cell with its run folder."""

    def __init__(self, runs: Path) -> None:
        stamp, attempt = datetime.now(UTC).strftime("%Y%m%dT%H%M%S"), 0
        self.path = runs / "sweeps" / f"{stamp}.json"
        while self.path.exists():
            attempt += 1
            self.path = self.path.with_name(f"{stamp}-{attempt}.json")
        self._started = now()

    def write(self, entries: Sequence[Entry], status: str) -> None:
        """Write it whole; status: "running", "submitted", "done", "failed" or "interrupted"."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "command": sys.argv,
            "started": self._started,
            "finished": None if status == "running" else now(),
            "status": status,
            "cells": [entry.describe() for entry in entries],
        }
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        write_whole(self.path, text.encode())


def score(folder: Path | None, summary: Mapping[str, Any]) -> list[str]:
    """The metric that a finished run is judged by, as text, if one is defined."""
    metrics = summary["metrics"]
    run = {} if folder is None else RunFolder(folder).read_json("run.json")
    try:
        task = TaskFacts.read(run, metrics)
    except ValueError:  # Of a run that was finished before, and edited since.
        return []
    name = task.judged(metrics)
    return [] if name is None else [f"{name} {task.text(name, metrics[name])}"]


def error_of(log: Path, start: int, code: int) -> str:
    """The first and the last line of the error that a run printed."""
    with log.open("rb") as file:
        file.seek(start)
        return error_in(file.read().decode(errors="replace"), code)


def error_in(text: str, code: int) -> str:
    """The same, of what it printed."""
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    begin = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=None)
    if code < 0:
        out = "; out of memory?" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{out}"
    if begin is None:
        return lines[-1] if lines else f"exit code {code}, and nothing said"
    first, last = lines[begin].removeprefix("error: "), lines[-1].strip()
    return first if begin == len(lines) - 1 else f"{first} ... {last}"
