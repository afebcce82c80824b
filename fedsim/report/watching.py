"""What runs are doing, read from their folders alone, as a table for a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsim.errors import InputError, Problem, problems_of
from fedsim.files import require_regular
from fedsim.folder.runfolder import RunFolder, damaged, parsed
from fedsim.locks import is_taken
from fedsim.report.record import NUMBER
from fedsim.report.rows import differing_of
from fedsim.tasks.facts import TaskFacts
from fedsim.terminal.printing import harmless
from fedsim.yaml_lines import read_file

_TAIL_BYTES = 4_000_000  # The end of rounds.jsonl that is read: the newest rounds, of any length.
_WIDE = 104  # columns that all that is told takes
_RECENT = 8  # rounds that the time of a round is the mean of
_ORDER = ("running", "stopped", "failed", "interrupted", "done")


@dataclass(frozen=True)
class State:
    """What one run folder says.

    Attributes:
        path: the run folder.
        name: the scenario's.
        seed: of the run.
        status: "running"; "stopped": it has not ended in order, and no process on this machine has
            it; or what run.json says.
        round: the last one that is finished; 0 before.
        rounds: how many there will be; None: not known.
        left: seconds until the last round is finished; None: not known.
        score: the newest one, as text.
        epsilon: spent so far, as text.
        up, down: MB sent; None before the first round.
        memory: peak in MB; None before the first round.
        config: the settings, as scenario.yaml holds them.
        settings: those in which it differs from runs of the same name, as one would type them.
    """

    path: Path
    name: str
    seed: int
    status: str
    round: int = 0
    rounds: int | None = None
    left: float | None = None
    score: str = ""
    epsilon: str = ""
    up: float | None = None
    down: float | None = None
    memory: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    settings: str = ""

    @property
    def running(self) -> bool:
        """Whether a process is at work in the folder."""
        return self.status == "running"


class Watch:
    """Looks at run folders; what is finished is read once."""

    def __init__(self) -> None:
        self._finished: dict[Path, State] = {}
        self._told: dict[Path, str] = {}

    def look(self, folders: Sequence[RunFolder], problems: list[Problem]) -> list[State]:
        """The state of each run, those that run first; `problems` takes the damaged ones."""
        states = []
        for folder in folders:
            if folder.path in self._finished:
                states.append(self._finished[folder.path])
                continue
            try:
                state = look(folder, time.time())
            except InputError as error:
                problems += problems_of(error)
                continue
            if state.status == "done":
                self._finished[folder.path] = state
            states.append(state)
        if self._told.keys() != {one.path for one in states}:
            self._told = _tell_apart(states)
        states = [replace(one, settings=self._told[one.path]) for one in states]
        order = {status: place for place, status in enumerate(_ORDER)}
        return sorted(states, key=lambda one: order.get(one.status, len(order)))


def _tell_apart(states: Sequence[State]) -> dict[Path, str]:
    """Of each run folder the settings in which runs of one name differ; a folder's never change."""
    told: dict[Path, str] = {}
    for name in {one.name for one in states}:
        alike = [one for one in states if one.name == name]
        for one, settings in zip(alike, differing_of([o.config for o in alike]), strict=True):
            told[one.path] = " ".join(f"{key}={value}" for key, value in settings.items())
    return told


def look(folder: RunFolder, now: float) -> State:
    """What a run folder says.

    Args:
        folder: the run folder; it is only read.
        now: the time, in seconds since 1970.

    Raises:
        InputError: a file of it is damaged.
    """
    # Before run.json: a run that ends between the two is then not taken for a stopped one.
    taken = is_taken(folder.path)
    record = folder.read_json("run.json")
    wrong = [key for key in ("scenario", "seed", "status") if key not in record]
    if wrong:
        raise damaged(folder.path / "run.json", f"it has no {', '.join(wrong)}")
    status = str(record["status"])
    if status == "running" and not taken:
        status = "stopped"
    config = read_file(folder.path / "scenario.yaml")
    rows, changed = _newest(folder)
    last = rows[-1] if rows else {}
    rounds = config.get("rounds")
    planned = rounds if isinstance(rounds, int) and not isinstance(rounds, bool) else None
    finished = int(_number(last.get("round")) or 0)
    left = None
    if status == "running" and rows and planned is not None:
        left = _left(rows, planned - finished, now - changed)
    return State(
        path=folder.path,
        name=str(record["scenario"]),
        seed=int(_number(record["seed"]) or 0),
        status=status,
        round=finished,
        rounds=planned,
        left=left,
        score=_score(rows, record, folder),
        epsilon=_epsilon(last, config.get("privacy")),
        up=_number(last.get("mb_up_total")),
        down=_number(last.get("mb_down_total")),
        memory=_number(last.get("peak_rss_mb")),
        config=config,
    )


def frame(states: Sequence[State], width: int, most: int | None = None, caption: str = "") -> Table:
    """The table of the runs.

    Args:
        states: as `Watch.look` orders them.
        width: columns of the terminal; a narrow one has no bars and no megabytes.
        most: lines; of runs that are too many the last ones are counted, not shown.
        caption: stands below it.
    """
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("state", no_wrap=True)
    table.add_column("round", no_wrap=True, justify="right")
    if wide:
        table.add_column("", no_wrap=True, width=10)
    names = ["left", "score", "epsilon", *(["MB up/down"] if wide else []), "MB RAM"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    shown = states if most is None else _that_fit(states, most)
    for one in shown:
        bar = ProgressBar(total=one.rounds or 1, completed=min(one.round, one.rounds or 1))
        sent = "" if one.up is None or one.down is None else f"{one.up:.3f}/{one.down:.3f}"
        table.add_row(
            _run(one),
            Text(harmless(one.status), style=_STYLES.get(one.status, "")),
            _text(f"{one.round}/{one.rounds if one.rounds is not None else '?'}"),
            *([bar] if wide else []),
            _text(_duration(one.left)),
            _text(one.score),
            _text(one.epsilon),
            *([_text(sent)] if wide else []),
            _text("" if one.memory is None else f"{one.memory:.0f}"),
        )
    told = [caption] if caption else []
    if rest := states[len(shown) :]:
        counts = {status: sum(one.status == status for one in rest) for status in _ORDER}
        told.insert(0, "and " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
    table.caption = _text("; ".join(told)) if told else None
    return table


_STYLES = {"running": "green", "stopped": "yellow", "failed": "red", "interrupted": "yellow"}


def _that_fit(states: Sequence[State], lines: int) -> Sequence[State]:
    """The first of the runs, at least one; one that others have the name of takes two lines."""
    taken = 0
    for count, one in enumerate(states):
        taken += 2 if one.settings else 1
        if taken > lines:
            return states[: max(count, 1)]
    return states


def _run(one: State) -> Text:
    """The folder, and below it what tells it from others."""
    told = _text(f"{one.name}/{one.path.name}")
    return told.append(f"\n  {harmless(one.settings)}", style="dim") if one.settings else told


def _text(value: object) -> Text:
    return Text(harmless(str(value)))


def _newest(folder: RunFolder) -> tuple[list[dict[str, Any]], float]:
    """The newest lines of rounds.jsonl, and when the file changed; none before the first round."""
    path = folder.path / "rounds.jsonl"
    try:
        require_regular(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            # What does not end in a line's end is being written.
            lines = file.read().split(b"\n")[:-1]
        changed = path.stat().st_mtime
    except FileNotFoundError:
        return [], 0.0
    except OSError as error:
        raise damaged(path, error) from error
    if size > _TAIL_BYTES:
        lines = lines[1:]
    rows = []
    for line in lines[-_RECENT:]:
        try:
            row = parsed(line)
        except (ValueError, RecursionError) as error:
            raise damaged(path, error) from error
        if not isinstance(row, dict):
            raise damaged(path, "a line holds no JSON object")
        rows.append(row)
    return rows, changed


def _left(rows: Sequence[Mapping[str, Any]], rounds: int, gone: float) -> float | None:
    """Seconds for so many rounds, one of which has gone on for some time."""
    if rounds <= 0:
        return 0.0
    took = [seconds for row in rows if (seconds := _number(row.get("seconds"))) is not None]
    if not took:
        return None
    each = fmean(took)
    return rounds * each - min(max(gone, 0.0), each)


def _score(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], folder: RunFolder) -> str:
    """The score of the newest round that was scored."""
    for row in reversed(rows):
        metrics = row.get("metrics")
        found = metrics if isinstance(metrics, Mapping) else {}
        known = {name: one for name, value in found.items() if (one := _number(value)) is not None}
        try:
            task = TaskFacts.read(record, known)
        except ValueError as error:
            raise damaged(folder.path / "run.json", error) from error
        for name in (task.headline, *(one.name for one in task.metrics)):
            if name in known:
                return f"{task.title(name)} {task.text(name, known[name])}"
    return ""


def _epsilon(row: Mapping[str, Any], privacy: Any) -> str:
    """Epsilon spent so far, of what it may become."""
    block = privacy if isinstance(privacy, Mapping) else {}
    known = [_number(block.get(key)) for key in ("max_epsilon", "target_epsilon")]
    budget = min((one for one in known if one is not None), default=None)
    spent = _number(row.get("epsilon_upper", row.get("epsilon")))
    if spent is None:
        claimed = _number(row.get("epsilon_claimed"))
        return "" if claimed is None else f"claimed {claimed:.2f}"
    return f"{spent:.2f}" if budget is None else f"{spent:.2f} of {budget:g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, NUMBER) and not isinstance(value, bool) else None
