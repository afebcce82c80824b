"""The rows of a comparison: finished runs that differ in nothing but their seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from fedsim.errors import InputError, Problem, problems_of
from fedsim.folder.identity import edited
from fedsim.folder.runfolder import RunFolder, missing_of
from fedsim.folder.runfolder import damaged as damaged_file
from fedsim.report.data_labels import data_labels
from fedsim.report.lists import listed
from fedsim.report.paths import paths_in, shortest, without_paths
from fedsim.report.record import NUMBER
from fedsim.report.shapes import refuse_misshapen
from fedsim.report.tested import Folds, Overlaps, Tested, read_tested
from fedsim.report.text import typed
from fedsim.tasks.facts import TaskFacts
from fedsim.yaml_lines import read_file

# What may differ between runs of one method. Where the data lie does not matter: the fingerprint
# says whether they are the same.
_NOT_THE_METHOD = ("seeds", "resources", "description", "profiles")
_NOT_THE_DATA = ("data.root",)
_FOLD = "data.split.fold"
# runs/<scenario>/<run> and a folder of sweeps above it.
_MOST = 1e300  # A metric beyond it is none.
_LEVELS = 4


@dataclass(frozen=True)
class Spent:
    """What differential privacy a run's claim is.

    Attributes:
        epsilon: proved or claimed; None: no finite one.
        delta: None where no file names it.
        unit: "record", "patient" or "client"; "" where no file names it.
        certified: whether a proof stands behind epsilon.
        trust: "secure_sum" where epsilon is of the sum of all clients' answers, and not of what
            each of them sends.
    """

    epsilon: float | None
    delta: float | None
    unit: str
    certified: bool
    trust: str = "own_noise"

    @property
    def unit_told(self) -> str:
        """The unit, and whom epsilon trusts where it does."""
        return f"{self.unit} (secure sum)" if self.trust == "secure_sum" else self.unit


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: where it lies.
        scenario: its name.
        seed: its seed.
        data: the entry `data` of run.json.
        config: scenario.yaml, parsed.
        summary: summary.json.
        rounds: the lines of rounds.jsonl.
        predictions: None without a file of what is said of each test record.
        folds: the runs of a cross-validation, if this stands for all of them: `summary` has then
            nothing but metrics, means over them, and `rounds` is empty.
        planned: the entry `privacy` of run.json; None without a mechanism.
        told: the entry `task` of run.json; None where an older fedsim wrote it.
    """

    folder: RunFolder
    scenario: str
    seed: int
    data: Mapping[str, Any]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    predictions: Tested | None
    folds: tuple[Run, ...] = ()
    planned: Mapping[str, Any] | None = None
    told: Mapping[str, Any] | None = None

    @cached_property
    def task(self) -> TaskFacts:
        """What was learned, and how its metrics are told."""
        return TaskFacts.read({"task": self.told, "data": self.data}, self.summary["metrics"])

    @property
    def data_name(self) -> str:
        """Name of the data set, or "embedded" for a stand-in."""
        return "embedded" if self.data["source"] == "embedded" else str(self.data["name"])

    @property
    def each(self) -> tuple[Run, ...]:
        """What was run by itself: the folds, or this run."""
        return self.folds or (self,)

    @property
    def failed(self) -> int:
        """How often a client failed in a round, or came late."""
        return len(self.failures)

    @property
    def failures(self) -> list[Any]:
        """The entries of `failed` of all rounds."""
        return [one for run in self.each for line in run.rounds for one in line["failed"]]

    @property
    def traffic(self) -> list[dict[str, Any]]:
        """The lines of traffic.jsonl, read each time: there is one for every message."""
        return self.folder.read_lines("traffic.jsonl")

    @property
    def privacy(self) -> Spent | None:
        """What was spent in the whole run; None without a mechanism."""
        summary, planned = self.summary, self.planned or {}
        proved, claimed = (_number(summary.get(k)) for k in ("epsilon", "epsilon_claimed"))
        if not planned and proved is None and claimed is None:
            return None
        certified = bool(summary.get("certified", planned.get("certified")))
        delta = _number(summary.get("delta", planned.get("delta")))
        unit = str(summary.get("unit") or planned.get("unit") or "")
        epsilon = proved if certified or claimed is None else claimed
        trust = str(summary.get("trust") or planned.get("trust") or "own_noise")
        return Spent(epsilon, delta, unit, certified, trust)

    def value(self, metric: str) -> float | None:
        """A metric of the final model on the test split."""
        value = self.summary["metrics"].get(metric)
        return None if value is None else float(value)


@dataclass
class Row:
    """Runs that differ in nothing but their seed, by ascending seed.

    `label` tells the row from others with the same data; `name` from all others.
    """

    label: str
    runs: list[Run]
    name: str = ""

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [run.seed for run in self.runs]

    @property
    def privacy(self) -> Spent | None:
        """The largest epsilon of a run, or of a fold; None if no run has a mechanism."""
        spent = [one.privacy for run in self.runs for one in run.each]
        known = [one for one in spent if one is not None]
        if not known:
            return None
        worst = max(known, key=lambda one: math.inf if one.epsilon is None else one.epsilon)
        return replace(worst, certified=all(one.certified for one in known))

    @property
    def task(self) -> TaskFacts:
        """What was learned."""
        return self.runs[0].task

    @property
    def data(self) -> str:
        """Name of the data set, or "embedded" for a stand-in."""
        return self.runs[0].data_name

    @property
    def fingerprint(self) -> str:
        """What tells the data from others."""
        return str(self.runs[0].data["fingerprint"])


def find_runs(places: Iterable[Path], damaged: list[Problem] | None = None) -> list[RunFolder]:
    """Run folders at these places: runs, or folders that hold runs up to four levels below.

    The record of a sweep, and the folder of a curve, are places, too: they name their runs. Links
    inside a folder, such as `latest`, are not followed; a run is found once.

    Args:
        places: where to look.
        damaged: takes a problem for each run folder that lacks a file, which is then left out.

    Raises:
        InputError: places without a run, or (without `damaged`) such folders, all at once.
    """
    found: dict[Path, RunFolder] = {}
    problems: list[Problem] = []
    lacking = damaged if damaged is not None else problems
    for place in places:
        named = listed(place)
        folders = list(_below(place, _LEVELS)) if named is None else named
        if named is not None:
            lost = [one for one in named if not any(_below(one, 0))]
            lacking += [Problem(str(one), "is gone, or no run folder") for one in lost]
            folders = [one for one in named if one not in lost]
        if not folders:
            what = "holds no run folder" if place.is_dir() else "does not exist"
            problems.append(Problem(str(place), what))
        for folder in folders:
            if name := missing_of(folder):
                lacking.append(Problem(str(folder / name), "is missing"))
            else:
                found.setdefault(folder.resolve(), RunFolder(folder))
    if problems:
        raise InputError(
            "there are no runs in some places",
            problems,
            hint="run folders lie in runs/<scenario>/; a run folder holds run.json",
        )
    return list(found.values())


def _below(place: Path, levels: int) -> Iterator[Path]:
    if (place / "run.json").is_file() or missing_of(place):
        yield place
    elif levels and place.is_dir():
        for inner in sorted(place.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _below(inner, levels - 1)


def rows_of(
    folders: Sequence[RunFolder],
    damaged: list[Problem] | None = None,
    *,
    traffic: bool = False,
    paths: bool = False,
) -> tuple[list[Row], list[str]]:
    """Group finished runs by method and data; also say which runs were left out and why.

    Of two runs of a row with one seed, the one that started last counts. The runs of a
    cross-validation are one run of a row, if all its folds are there.

    Args:
        folders: run folders.
        damaged: takes what is wrong with files of finished runs, which are then left out.
        traffic: whether traffic.jsonl will be read, too.
        paths: whether labels show absolute paths whole, instead of their ends.

    Raises:
        InputError: without `damaged`, files of a finished run are missing or damaged, all at once.
    """
    runs, left_out = finished(folders, damaged, traffic=traffic)
    groups: dict[str, dict[int, tuple[str, Run]]] = {}
    for started, run in runs:
        key = repr((_method(run), run.data["fingerprint"]))
        seeds = groups.setdefault(key, {})
        before = seeds.get(run.seed)
        older = run.folder
        if before is None or before[0] < started:
            seeds[run.seed] = started, run
            older = before[1].folder if before is not None else run.folder
        if before is not None:
            left_out.append(f"{older.path}: a newer run has its seed {run.seed}, left out")
    found = [[run for _, (_, run) in sorted(seeds.items())] for seeds in groups.values()]
    found, parts = _join_folds(found)
    rows = [Row(runs[0].scenario, runs) for runs in found]
    _tell_apart(rows, paths)
    return rows, left_out + parts


def finished(
    folders: Sequence[RunFolder], damaged: list[Problem] | None = None, *, traffic: bool = False
) -> tuple[list[tuple[str, Run]], list[str]]:
    """The runs that are done, each with when it started; and which were left out, and why.

    Args:
        folders: run folders.
        damaged: takes what is wrong with files of finished runs, which are then left out.
        traffic: whether traffic.jsonl will be read, too.

    Raises:
        InputError: without `damaged`, files of a finished run are missing or damaged, all at once.
    """
    runs: list[tuple[str, Run]] = []
    left_out: list[str] = []
    problems = damaged if damaged is not None else []
    for folder in folders:
        try:
            record = folder.read_json("run.json")
            refuse_misshapen(folder, "run.json", [record])
            if record["status"] != "done":
                left_out.append(f"{folder.path}: {record['status']}, left out")
                continue
            if wrong := edited(folder.path, record):
                problems += wrong
                continue
            run = _read(folder, record)
            if traffic:
                refuse_misshapen(folder, "traffic.jsonl", folder.read_lines("traffic.jsonl"))
            run.data["fingerprint"]
            runs.append((str(record["started"]), run))
        except KeyError as error:
            problems.append(Problem(str(folder.path), f"run.json has no entry {error}"))
        except InputError as error:
            problems += problems_of(error)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(Problem(str(folder.path), str(error)))
    if problems and damaged is None:
        raise InputError("some finished runs cannot be read", problems)
    return runs, left_out


def _join_folds(rows: Sequence[list[Run]]) -> tuple[list[list[Run]], list[str]]:
    """Make the rows of a cross-validation one row, with one run of each seed that has all folds.

    Where no seed has all of them, each fold stays a row. Also say which runs were left out.
    """
    methods: dict[str, list[list[Run]]] = {}
    for runs in rows:
        method = _method(runs[0])
        if _folds(runs[0]):
            method.pop(_FOLD, None)
        methods.setdefault(repr((method, runs[0].data["fingerprint"])), []).append(runs)
    joined, left_out = [], []
    for parts in methods.values():
        count = _folds(parts[0][0])
        seeds: dict[int, list[Run]] = {}
        for run in (run for runs in parts for run in runs):
            seeds.setdefault(run.seed, []).append(run)
        whole = [folds for _, folds in sorted(seeds.items()) if len(folds) == count]
        if not whole:
            joined += parts
            continue
        joined.append([_joined(folds) for folds in whole])
        left_out += [
            f"{run.folder.path}: its seed {seed} has {len(folds)} of {count} folds, left out"
            for seed, folds in seeds.items()
            if len(folds) < count
            for run in folds
        ]
    return joined, left_out


def _folds(run: Run) -> int:
    """How many folds the cross-validation has that a run is part of; 0 if there is none."""
    split = run.config.get("data", {}).get("split") or {}
    return int(split.get("folds") or 0)


def _joined(folds: Sequence[Run]) -> Run:
    """One run for all folds of a cross-validation."""
    folds = sorted(folds, key=lambda run: int(run.config["data"]["split"].get("fold", 0)))
    first = folds[0]
    config = copy.deepcopy(dict(first.config))
    config["data"]["split"]["fold"] = "all"
    tested = [run.predictions for run in folds]
    parts = tuple(one for one in tested if isinstance(one, Overlaps))
    data = dict(first.data)
    if "sizes" in data:
        cases = sum(run.data["sizes"]["test"] for run in folds)
        data["sizes"] = {f"tested in {len(folds)} folds": cases}
    names = dict.fromkeys(name for run in folds for name in run.summary["metrics"])
    return Run(
        folder=first.folder,
        scenario=first.scenario,
        seed=first.seed,
        data=data,
        config=config,
        summary={"metrics": {name: _mean(run.value(name) for run in folds) for name in names}},
        rounds=[],
        predictions=Folds(parts) if len(parts) == len(folds) else None,
        folds=tuple(folds),
        told=first.told,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _read(folder: RunFolder, record: Mapping[str, Any]) -> Run:
    config = read_file(folder.path / "scenario.yaml")
    data = config.get("data") or {}
    split = data.get("split") or {} if isinstance(data, dict) else {}
    if not all(isinstance(part, dict) for part in (record["data"], data, split)):
        raise ValueError("run.json or scenario.yaml is not what a run writes")
    summary = folder.read_json("summary.json")
    rounds = folder.read_lines("rounds.jsonl")
    predictions = read_tested(folder.path)
    if not isinstance(summary.get("metrics"), dict):
        raise damaged_file(folder.path / "summary.json", "it has no metrics")
    for metric, value in summary["metrics"].items():
        if value is not None and not (isinstance(value, int | float) and abs(value) <= _MOST):
            raise damaged_file(folder.path / "summary.json", f"its {metric!r} is no number")
    if not isinstance(record["data"].get("external") or {}, dict):
        raise damaged_file(folder.path / "run.json", "data.external is no block")
    for number, line in enumerate(rounds, 1):
        if not isinstance(line.get("failed"), list):
            raise damaged_file(folder.path / "rounds.jsonl", f"line {number} is not a round's")
    refuse_misshapen(folder, "summary.json", [summary])
    refuse_misshapen(folder, "rounds.jsonl", rounds)
    try:
        TaskFacts.read(record)
    except ValueError as error:
        raise damaged_file(folder.path / "run.json", error) from error
    name, seed, data = str(record["scenario"]), int(record["seed"]), record["data"]
    planned = record.get("privacy")
    return Run(
        folder,
        name,
        seed,
        data,
        config,
        summary,
        rounds,
        predictions,
        planned=planned if isinstance(planned, Mapping) else None,
        told=record.get("task"),
    )


def _method(run: Run) -> dict[str, Any]:
    """The settings that make the method, as dotted keys."""
    return _method_of(run.config)


def _method_of(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {k: v for k, v in config.items() if k not in _NOT_THE_METHOD}
    federation = settings.get("federation")
    overrides = federation.get("overrides") if isinstance(federation, Mapping) else None
    if isinstance(federation, Mapping) and isinstance(overrides, Mapping):
        # What single clients have differs as a whole: key by key it would be told by what is null.
        settings["federation"] = {k: v for k, v in federation.items() if k != "overrides"}
    flat = _flat(settings)
    if isinstance(overrides, Mapping):
        flat["federation.overrides"] = _without_nulls(overrides)
    return {key: value for key, value in flat.items() if key not in _NOT_THE_DATA}


def _without_nulls(value: Any) -> Any:
    """Mappings without the keys that are null, at any depth."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(one) for key, one in value.items() if one is not None}


def _tell_apart(rows: Sequence[Row], paths: bool) -> None:
    """Name, in the label of rows of one scenario, the settings in which they differ."""
    for name in {row.label for row in rows}:
        alike = [row for row in rows if row.label == name]
        settings = [
            [f"{key}={value}" for key, value in one.items()]
            for one in differing([row.runs[0] for row in alike], paths)
        ]
        # Two sets of data under one name, as where a folder's content has changed.
        seen = [(row.data, *told) for row, told in zip(alike, settings, strict=True)]
        for one in set(seen):
            same = [row for row, other in zip(alike, seen, strict=True) if other == one]
            told = data_labels([row.runs[0].data for row in same], paths) if len(same) > 1 else [""]
            for row, data in zip(same, told, strict=True):
                row.label = " ".join(filter(None, [name, *one[1:], data]))
    labels = [row.label for row in rows]
    for row in rows:
        row.name = row.label if labels.count(row.label) == 1 else f"{row.label} ({row.data})"


def _telling(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that tell methods apart; not those that follow from another one, as that all have
    the same delta where one has no privacy block at all."""
    keys = sorted({key for one in methods for key in one})
    blocks = {block for key in keys for block in _blocks(key)}
    differing = [
        key
        for key in keys
        # A block that some have and others set to null is told there.
        if key in blocks or len({repr(one.get(key)) for one in methods}) > 1
    ]
    return [key for key in differing if not _follows(key, methods)]


def _follows(key: str, methods: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all that have a key have the same value, and the others a block that lacks it: none
    at all, or one of another name."""
    holders = [one for one in methods if key in one]
    if len({repr(one[key]) for one in holders}) > 1 or len(holders) == len(methods):
        return False
    names = {block: {repr(one.get(f"{block}.name")) for one in holders} for block in _blocks(key)}
    return all(
        any(
            block in one or (f"{block}.name" in one and repr(one[f"{block}.name"]) not in theirs)
            for block, theirs in names.items()
        )
        for one in methods
        if key not in one
    )


def _blocks(key: str) -> list[str]:
    """The blocks that a dotted key is in, the outermost first."""
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def settings(rows: Sequence[Row], paths: bool = False) -> list[dict[str, str]]:
    """Of each row the settings in which the rows differ, as one would type them.

    Args:
        rows: the methods.
        paths: whether absolute paths are shown whole, instead of their ends.
    """
    return _settings([row.runs[0].config for row in rows], paths)


def differing(runs: Sequence[Run], paths: bool = False) -> list[dict[str, str]]:
    """Of each run the settings in which these differ, as one would type them; the name of the data
    has a column of its own.

    Args:
        runs: of one scenario, or of several.
        paths: whether absolute paths are shown whole, instead of their ends.
    """
    several = len({run.data_name for run in runs}) > 1
    return _settings([run.config for run in runs], paths, ("data.name",) if several else ())


def differing_of(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of each scenario, as it was resolved, the settings in which these differ, as one would type
    them; of absolute paths the ends."""
    return _settings(configs, paths=False)


def _settings(
    configs: Sequence[Mapping[str, Any]], paths: bool, without: Sequence[str] = ()
) -> list[dict[str, str]]:
    methods = [_method_of(config) for config in configs]
    keys = [key for key in _telling(methods) if key not in without]
    values = [{key: typed(one[key]) for key in keys if key in one} for one in methods]
    return values if paths else _without_paths(values)


def _without_paths(values: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Settings with absolute paths cut, to ends that still tell them apart."""
    ends = shortest(paths_in(values))
    return [{k: ends.get(v) or without_paths(v) for k, v in one.items()} for one in values]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, NUMBER) and not isinstance(value, bool) else None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in sorted(config.items()):
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
