"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from fedsim.observers.base import End, Finished, Observer, Run
from fedsim.observers.base import Progress as Working
from fedsim.randomness import SERVER
from fedsim.report.text import closing_lines, is_late
from fedsim.tasks.facts import TaskFacts
from fedsim.terminal.printing import duration, harmless

_PLAIN_SECONDS = 15.0
# From so many clients on, what each of them did is told in one line for all.
_MANY = 20
_NAMED = 5  # clients that a line for several names


class Console(Observer):
    """Prints a run. With `quiet`, only errors are printed (elsewhere); with `stderr`, all there."""

    essential = True  # Who reads it may have gone: a closed pipe ends the run.

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stderr: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._out = RichConsole(highlight=False, soft_wrap=True, stderr=stderr)
        self._live: Progress | None = None
        self._bars: dict[int, TaskID] = {}
        self._names: list[str] = []
        self._rounds = 0
        self._sent: dict[int, int] = {}
        self._budget: float | None = None
        self._task: TaskFacts | None = None
        self._last = 0.0
        self._since: tuple[str, int, float] | None = None
        self._told = 0
        # A plugin may change the process's folder: what is told of paths must not move.
        self.here = Path.cwd()

    @property
    def bars(self) -> bool:
        """Whether there is a terminal to draw bars on."""
        return self._out.is_terminal and not self.quiet

    def line(self, text: str = "") -> None:
        """Print one line."""
        if not self.quiet:
            self._out.print(harmless(text), markup=False)

    def note(self, text: str) -> None:
        """Print what a run has to say."""
        self.line(text)

    # --- preparing data ------------------------------------------------------------------------

    def preparing(self, done: int, total: int, what: str = "preparing data") -> None:
        """Show how many images are decoded, or what else is done to all of them."""
        if self.quiet or total == 0:
            return
        if self.bars:
            self._start()
            assert self._live is not None
            if SERVER not in self._bars:
                self._bars[SERVER] = self._live.add_task(what, total=total)
            self._live.update(self._bars[SERVER], completed=done)
            if done >= total:
                self._stop()
        elif done >= total or time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            self.line(f"{what}: {done} of {total}{self._left(what, done, total)}")

    def _left(self, what: str, done: int, total: int) -> str:
        """About how long it will take, from the first line about it on; "" where nobody knows."""
        if self._since is None or self._since[0] != what or done < self._told:
            self._since = (what, done, time.monotonic())
        self._told = done
        _, before, began = self._since
        if not before < done < total:
            return ""
        seconds = (time.monotonic() - began) * (total - done) / (done - before)
        return f", about {duration(seconds)} left"

    # --- a run ---------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Start to watch the local work of a run's clients."""
        self._names, self._rounds, self._budget = list(run.clients), run.rounds, run.budget
        self._folder = run.folder
        self._task = TaskFacts.read(run.about)
        self._sent = {}
        self._last = time.monotonic()

    def working(self, progress: Working) -> None:
        """Draw how far the running clients, or the server, are. Called often; draws rarely."""
        now = time.monotonic()
        pause = 0.2 if self.bars else _PLAIN_SECONDS
        if self.quiet or now - self._last < pause:
            return
        self._last = now
        states = {client: state for client, state in progress().items() if state[1] > 0}
        if not self.bars:
            for client, (done, total, label) in states.items():
                self.line(f"  {self._name(client)}: {label} {done} of {total}")
            return
        self._start()
        assert self._live is not None
        for client in set(self._bars) - set(states):
            self._live.remove_task(self._bars.pop(client))
        for client, (done, total, label) in states.items():
            if client not in self._bars:
                self._bars[client] = self._live.add_task("", total=total)
            self._live.update(
                self._bars[client],
                completed=done,
                total=total,
                description=f"{self._name(client)}: {label}",
            )

    def message(self, row: Mapping[str, Any]) -> None:
        """Say what a client sent, where that happens once in a run; of many, `round` says it."""
        if self._rounds != 1 or row["direction"] != "up":
            return
        if len(self._names) >= _MANY:
            client = row["client"]
            self._sent[client] = self._sent.get(client, 0) + row["bytes"]
            return
        fields = ", ".join(f"{k} {v / 1e6:.3f}" for k, v in row["fields"].items() if v >= 1000)
        line = f"  {self._name(row['client'])} sent {row['bytes'] / 1e6:.3f} MB"
        self.line(f"{line} ({fields})" if fields else line)

    def round(self, row: Mapping[str, Any]) -> None:
        """Print the line of a finished round."""
        self._stop()
        if self._sent:
            sizes = [size / 1e6 for size in self._sent.values()]
            each = f"{min(sizes):.3f} to {max(sizes):.3f} MB each, median {median(sizes):.3f}"
            self.line(f"  {len(sizes)} clients sent {each}")
            self._sent = {}
        scores = [
            f"{name} {self._task.text(name, row['metrics'][name])}"
            for name in (self._task.in_rounds if self._task else ())
            if self._task and row["metrics"].get(name) is not None
        ]
        asked, failed = len(row["clients"]), {f["client"] for f in row["failed"]}
        missing = [f"{asked - len(failed)} of {asked} clients"] if failed else []
        parts = [
            f"round {row['round']:>{len(str(self._rounds))}}/{self._rounds}",
            *([row["phase"]] if row.get("phase", "train") != "train" else []),
            *missing,
            *scores,
            f"up {row['mb_up']:.3f} MB",
            f"down {row['mb_down']:.3f} MB",
            _epsilon(row, self._budget),
            f"{row['seconds']:.1f} s",
            f"{row['peak_rss_mb']:.0f} MB RAM",
        ]
        self.line(" | ".join(parts))
        self._failed(row["failed"])

    def _failed(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """A line for each client that failed or was late; of many, one for each reason."""
        if len(failures) < _MANY:
            for failure in failures:
                self.line(f"  {self._name(failure['client'])} {_what(failure)}")
            return
        reasons: dict[str, list[str]] = {}
        for failure in failures:
            reasons.setdefault(_what(failure), []).append(self._name(failure["client"]))
        shown = sorted(reasons.items(), key=lambda item: -len(item[1]))[:_NAMED]
        for reason, names in shown:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            self.line(f"  {', '.join(names[:_NAMED])}{more} {reason}")
        if len(reasons) > len(shown):
            self.line(f"  {len(reasons) - len(shown)} more reasons are in rounds.jsonl")

    def done(self, finished: Finished) -> None:
        """Print what came out."""
        self._stop()
        for line in closing_lines(finished.summary, self._folder, self.here):
            self.line(line)

    def end(self, end: End) -> None:
        """Take the bars away."""
        self._stop()

    def _name(self, client: int) -> str:
        return "server" if client == SERVER else harmless(self._names[client])

    def _start(self) -> None:
        if self._live is None:
            self._live = Progress(
                TextColumn("  {task.description:<34}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._out,
                transient=True,
            )
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live, self._bars = None, {}


def _what(failure: Mapping[str, Any]) -> str:
    """What became of a client's message, and why."""
    return f"{'late' if is_late(failure) else 'failed'}: {failure['reason']}"


def _epsilon(row: Mapping[str, Any], budget: float | None) -> str:
    """Epsilon spent so far, against the budget; what is only claimed is said to be."""
    if row["epsilon"] is None:
        claimed = row.get("epsilon_claimed")
        return "epsilon none" if claimed is None else f"epsilon none (paper claims {claimed:.2f})"
    spent = f"epsilon {row['epsilon_upper']:.2f}"
    spent = spent if budget is None else f"{spent} of {budget:g}"
    return f"{spent} (secure sum)" if row.get("trust") == "secure_sum" else spent
