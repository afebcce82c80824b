"""What a run folder holds, read and checked for those who draw and tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import InputError, Problem, problems_of
from fedsim.folder.identity import edited
from fedsim.folder.runfolder import RunFolder, parsed, read_arrays
from fedsim.report.shapes import wrong_in
from fedsim.report.tested import (
    Overlaps,
    Predictions,
    RecordScores,
    read_overlaps,
    read_scores,
)
from fedsim.report.text import positive_note
from fedsim.tasks.facts import TaskFacts
from fedsim.yaml_lines import read_file

NUMBER = (int, float)
_Kinds = Mapping[str, tuple[type, ...]]
_RUN: _Kinds = {"scenario": (str,), "seed": (int,), "data": (dict,), "status": (str,)}
_DATA: _Kinds = {"name": (str,), "source": (str,)}
_ROUND: _Kinds = {
    "round": (int,),
    "failed": (list,),
    "mb_up_total": NUMBER,
    "mb_down_total": NUMBER,
    "epsilon": (*NUMBER, type(None)),
    "metrics": (dict,),
    "metrics_by_client": (dict,),
}
_MESSAGE: _Kinds = {
    "round": (int,),
    "client": (int,),
    "direction": (str,),
    "bytes": (int,),
    "fields": (dict,),
}
_SUMMARY: _Kinds = {
    "metrics": (dict,),
    "mb_up_total": NUMBER,
    "mb_down_total": NUMBER,
    "wall_seconds": NUMBER,
    "peak_rss_mb": NUMBER,
}


@dataclass(frozen=True)
class Record:
    """The content of one run folder.

    Attributes:
        path: the run folder.
        run: run.json.
        scenario: scenario.yaml, parsed; `scenario_text` is the file as it is.
        rounds: the lines of rounds.jsonl.
        traffic: the lines of traffic.jsonl of the rounds that are finished.
        summary: summary.json; None while the run has not finished.
        labels: int64 [n], labels of the test split; None without predictions.npz.
        probabilities: float32 [models, n, classes], what each model predicts for them; or None.
        leakage: synthetic/leakage.json, or None.
        missing: what is not there (yet), a sentence each.
        overlaps: overlaps.npz; None where there is none.
        scores: scores.npz; None where there is none.
    """

    path: Path
    run: dict[str, Any]
    scenario: dict[str, Any]
    scenario_text: str
    rounds: list[dict[str, Any]]
    traffic: list[dict[str, Any]]
    summary: dict[str, Any] | None
    labels: np.ndarray | None
    probabilities: np.ndarray | None
    leakage: dict[str, Any] | None
    missing: list[str] = field(default_factory=list)
    overlaps: Overlaps | None = None
    scores: RecordScores | None = None

    @property
    def private(self) -> bool:
        """Whether the run has a privacy mechanism: then it publishes no counts of classes."""
        return self.run.get("privacy") is not None

    @cached_property
    def task(self) -> TaskFacts:
        """What was learned, and how its metrics are told."""
        found = self.rounds[-1]["metrics"] if self.rounds else {}
        return TaskFacts.read(self.run, [*found, *(self.summary or {}).get("metrics", {})])

    @property
    def tested(self) -> Predictions | Overlaps | RecordScores | None:
        """What the models say of the test records."""
        if self.labels is None or self.probabilities is None:
            return self.overlaps if self.overlaps is not None else self.scores
        places = np.arange(len(self.labels))
        return Predictions(self.labels, places, self.probabilities)

    @property
    def note(self) -> str:
        """What every picture must say about data that are not real; "" for data that are."""
        embedded = self.run["data"]["source"] == "embedded"
        return "embedded stand-in: generated images, not real data" if embedded else ""

    @property
    def title(self) -> str:
        """Which run it is."""
        return f"{self.run['scenario']}, seed {self.run['seed']}"

    @cached_property
    def clients(self) -> list[str]:
        """Names of the clients, in client order; none where run.json does not hold them."""
        return list(self.run["data"].get("sizes_by_client", {}))

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Every failed client of every round, with its `round`."""
        return [{"round": row["round"], **one} for row in self.rounds for one in row["failed"]]

    def client_name(self, client: Any) -> str:
        """The name of a client, given by its number (also as text) or already by name."""
        number = str(client)
        known = number.isdecimal() and int(number) < len(self.clients)
        return self.clients[int(number)] if known else number

    @property
    def positive(self) -> str:
        """What is added to a title of metrics of two classes, as " (positive class: NAME)"."""
        note = positive_note(self.run["data"].get("positive"))
        return f" ({note})" if note else ""

    def class_name(self, label: int) -> str:
        """The name of a class."""
        names = self.run["data"].get("classes") or []
        return str(names[label]) if label < len(names) else f"class {label}"


def read_record(path: Path) -> Record:
    """Read a run folder, of a finished run or of one that has not finished.

    Raises:
        InputError: it is no run folder, or files are missing from a finished run, unreadable or
            not what they should be; all of them at once, named.
    """
    if (path / "run.json").is_file() and not (path / "scenario.yaml").is_file():
        raise InputError(
            f"{path} is not a whole run folder",
            [Problem(str(path / "scenario.yaml"), "is missing")],
        )
    reader = _Reader(RunFolder.open(path).path)
    run = reader.json("run.json", _RUN)
    if not reader.problems and reader.require("run.json: data", run["data"], _DATA):
        reader.holdings("run.json: data", run["data"])
        reader.task("run.json", run)
    reader.shape("run.json", "run.json", run)
    if reader.problems:
        reader.stop()
    reader.done = run["status"] == "done"
    text, scenario = reader.yaml("scenario.yaml")
    rounds = reader.lines("rounds.jsonl", _ROUND, reader.round)
    traffic = reader.lines("traffic.jsonl", _MESSAGE, reader.message)
    summary = reader.json("summary.json", _SUMMARY) if reader.there("summary.json") else None
    if summary:
        reader.numbers("summary.json", {"metrics": summary["metrics"]})
        reader.shape("summary.json", "summary.json", summary)
    labels, probabilities = reader.predictions("predictions.npz")
    overlaps = reader.overlaps("overlaps.npz")
    scores = reader.scores("scores.npz")
    leakage = path / "synthetic" / "leakage.json"
    found = reader.json("synthetic/leakage.json", {}) if leakage.is_file() else None
    for problem in edited(path, run):
        if not any(known.where.startswith(problem.where) for known in reader.problems):
            reader.problems.append(problem)
    if reader.problems:
        reader.stop()
    finished = {row["round"] for row in rounds}
    return Record(
        path=path,
        run=run,
        scenario=scenario,
        scenario_text=text,
        rounds=rounds,
        traffic=[row for row in traffic if row["round"] in finished],
        summary=summary,
        labels=labels,
        probabilities=probabilities,
        leakage=found,
        missing=[f"{name}: {why}" for name, why in reader.missing.items()],
        overlaps=overlaps,
        scores=scores,
    )


class _Reader:
    """Reads files and collects what is wrong with them, and what is missing from a `done` run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, False
        self.problems: list[Problem] = []
        self.missing: dict[str, str] = {}

    def stop(self) -> None:
        raise InputError(
            f"{self.folder} cannot be read as a run folder",
            self.problems,
            hint=f"to run it again, type: fedsim run {self.folder / 'scenario.yaml'}",
        )

    def fault(self, name: str, message: str) -> None:
        self.problems.append(Problem(str(self.folder / name), message))

    def there(self, name: str) -> bool:
        """Whether the file is there; what a finished run must have is a problem if it is not."""
        if (self.folder / name).is_file():
            return True
        if self.done:
            self.fault(name, "is missing although the run is done")
        else:
            self.missing[name] = "not written, for the run has not finished"
        return False

    def require(self, where: str, value: Any, kinds: _Kinds) -> bool:
        """Whether the value is a mapping with these keys, of these types."""
        if not isinstance(value, dict):
            self.fault(where, f"expected an object with keys, but there is a {_kind(value)}")
            return False
        wrong = [key for key in kinds if not isinstance(value.get(key, _ABSENT), kinds[key])]
        for key in wrong:
            what = f"is a {_kind(value[key])}" if key in value else "is missing"
            self.fault(where, f"key {key!r} {what}")
        return not wrong

    def json(self, name: str, kinds: _Kinds) -> dict[str, Any]:
        """A JSON file; {} and a problem where it is none."""
        try:
            value = parsed((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            self.fault(name, f"is not readable JSON: {error}")
            return {}
        return value if self.require(name, value, kinds) else {}

    def shape(self, file: str, where: str, value: Mapping[str, Any]) -> None:
        """Name what else in an object of a file is not as a run writes it, if nothing is known."""
        if not any(known.where.startswith(str(self.folder / where)) for known in self.problems):
            for why in wrong_in(file, value):
                self.fault(where, why)

    def yaml(self, name: str) -> tuple[str, dict[str, Any]]:
        """The text and the content of a YAML file."""
        try:
            value = read_file(self.folder / name)
        except InputError as error:
            self.problems += problems_of(error, str(self.folder / name))
            return "", {}
        return (self.folder / name).read_text(encoding="utf-8"), value

    def numbers(
        self, where: str, parts: Mapping[str, Any], kinds: tuple[type, ...] = NUMBER
    ) -> None:
        """Name the parts that are no mappings or lists of numbers, or null where undefined."""
        for key, part in parts.items():
            values = part.values() if isinstance(part, dict) else part
            if not isinstance(part, dict | list):
                self.fault(where, f"key {key!r} is a {_kind(part)}, not numbers by name")
            elif wrong := [v for v in values if not isinstance(v, (*kinds, type(None)))]:
                self.fault(where, f"key {key!r} holds a {_kind(wrong[0])} in place of a number")

    def holdings(self, where: str, data: Mapping[str, Any]) -> None:
        """Check who holds what, as far as run.json says so."""
        self.numbers(where, {"sizes": data.get("sizes") or {}}, (int,))
        for key, kind in (("sizes_by_client", dict), ("classes_by_client", list)):
            every = data.get(key) or {}
            if not isinstance(every, dict) or not all(isinstance(v, kind) for v in every.values()):
                self.fault(where, f"key {key!r} does not say for each client what it holds")
                continue
            flat = [n for v in every.values() for n in (v.values() if kind is dict else v)]
            if not all(isinstance(n, int) and n >= 0 for n in flat):
                self.fault(where, f"key {key!r} holds what is no number of records")
            classes = data.get("classes") or []
            if kind is list and any(len(v) != len(classes) for v in every.values()):
                self.fault(where, f"key {key!r} has not a number for each of the classes")
        classes = data.get("classes") or []
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            self.fault(where, "key 'classes' is no list of names")

    def round(self, where: str, row: Mapping[str, Any]) -> None:
        """Check what a round says of its clients."""
        self.numbers(where, {"metrics": row["metrics"]})
        self.numbers(where, {"epsilon_by_client": row.get("epsilon_by_client") or {}})
        told = {
            key: row.get(key)
            for key in ("seconds", "delay_seconds", "simulated_hours", "peak_rss_mb")
        }
        self.numbers(where, {key: [value] for key, value in told.items()})
        if not all(isinstance(one, dict) for one in row["metrics_by_client"].values()):
            self.fault(where, "key 'metrics_by_client' does not hold an object for each client")
        if not all(isinstance(one, dict) for one in row["failed"]):
            self.fault(where, "key 'failed' does not hold an object for each failure")

    def message(self, where: str, row: Mapping[str, Any]) -> None:
        """Check what a message holds."""
        self.numbers(where, {"fields": row["fields"]}, (int,))
        if row["direction"] not in ("up", "down"):
            self.fault(where, f"key 'direction' is {row['direction']!r}, not 'up' or 'down'")

    def lines(
        self, name: str, kinds: _Kinds, check: Callable[[str, dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        """The lines of a JSONL file; an unfinished last line (a kill in the middle) is left out."""
        if not self.there(name):
            return []
        rows = []
        try:
            lines = (self.folder / name).read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, ValueError) as error:
            self.fault(name, f"is not readable: {error}")
            return []
        for number, line in enumerate(lines, 1):
            try:
                value = parsed(line)
            except (ValueError, RecursionError) as error:
                self.fault(f"{name}:{number}", f"is not JSON: {error}")
                continue
            if self.require(f"{name}:{number}", value, kinds):
                check(f"{name}:{number}", value)
                self.shape(name, f"{name}:{number}", value)
                rows.append(value)
        return rows

    def predictions(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Labels and probabilities on the test split, or None for both."""
        if not (self.folder / name).is_file():
            why = "there is none" if self.done else "not written, for the run has not finished"
            others = (self.folder / "overlaps.npz", self.folder / "scores.npz")
            if not any(other.is_file() for other in others):
                self.missing[name] = f"{why}; no ROC and precision-recall curves"
            return None, None
        try:
            kinds = {"labels": "iu", "probabilities": "f"}
            labels, probabilities = read_arrays(self.folder / name, kinds)
        except ValueError as error:
            self.fault(name, f"holds no labels and probabilities: {error}")
            return None, None
        if probabilities.ndim != 3 or labels.shape != probabilities.shape[1:2]:
            shapes = f"labels {labels.shape}, probabilities {probabilities.shape}"
            self.fault(name, f"expected labels [n], probabilities [models, n, classes]; {shapes}")
        elif not np.isfinite(probabilities).all():
            self.fault(name, "probabilities are NaN or infinite")
        elif labels.size and not 0 <= labels.min() <= labels.max() < probabilities.shape[2]:
            self.fault(name, f"labels are not all between 0 and {probabilities.shape[2] - 1}")
        return labels, probabilities

    def overlaps(self, name: str) -> Overlaps | None:
        """What was counted on the test volumes, or None."""
        if (self.folder / name).is_file():
            try:
                return read_overlaps(self.folder / name)
            except ValueError as error:
                self.fault(name, f"holds no overlaps: {error}")
        return None

    def scores(self, name: str) -> RecordScores | None:
        """The score of each test record, or None."""
        if (self.folder / name).is_file():
            try:
                return read_scores(self.folder / name)
            except ValueError as error:
                self.fault(name, f"holds no scores: {error}")
        return None

    def task(self, where: str, run: Mapping[str, Any]) -> None:
        """Check what the run says of its task."""
        try:
            TaskFacts.read(run)
        except ValueError as error:
            self.fault(where, str(error))


_ABSENT = object()


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", type(None): "null", bool: "truth value"}
    return names.get(type(value), "number")
