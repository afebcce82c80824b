"""The cells of a sweep (scenarios x values x seeds), and which of them stand on the disk already.

A run folder is a cell's when its resolved scenario is the cell's, but for the keys that change no
bit of the result, and its seed and data are the same. The code is not compared: after a change of
a method, sweep into another folder of runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from fedsim.errors import InputError, Problem, problems_of
from fedsim.federation.opening import open_external, open_store
from fedsim.folder.identity import edited, has_identity
from fedsim.folder.runfolder import RunFolder, missing_of
from fedsim.grid.machine import require_resources
from fedsim.locks import is_taken
from fedsim.pretrained.catalogue import package_of
from fedsim.pretrained.fetching import fetch
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.yaml_lines import MOST_BITS

# Top-level keys, and keys of `resources`, that change no bit of a run with a given seed.
_WITHOUT_EFFECT = ("seeds", "description", "profiles", "observers")
_WITHOUT_EFFECT_OF_RESOURCES = ("backend", "workers", "ray_address")
_OPENERS, _CLOSERS, _QUOTES = "[{", "]}", "'\""
MOST_CELLS = 10_000
"""What one sweep, or one curve, may have: more would take minutes to be read alone."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        source: the scenario's name or file, as it was typed.
        overrides: "key=value" words of the command line.
        seed: the run's seed.
        scenario: the validated scenario.
        label: what tells the cell from the others of its sweep.
    """

    source: str
    overrides: tuple[str, ...]
    seed: int
    scenario: Scenario = field(repr=False)
    label: str

    @cached_property
    def identity(self) -> str:
        """Everything of the scenario that its result depends on, as text."""
        return identity(self.scenario)

    @cached_property
    def data_key(self) -> str:
        """What the prepared data depend on, as text."""
        resolved = self.scenario.resolved()
        data = resolved["data"] | {"split": None}
        return json.dumps([data, resolved["evaluation"]["external"], resolved["plugins"]])

    def log(self, runs: Path) -> Path:
        """The file that takes what the run prints; it is also locked while the run goes on."""
        digest = hashlib.sha256(self.identity.encode()).hexdigest()[:12]
        return runs / self.scenario.name / "sweep-logs" / f"seed{self.seed}-{digest}.log"


@dataclass(frozen=True)
class Standing:
    """What is to be done for a cell: "done" (nothing), "resume", "wait" or "run"; with what.

    "wait": another process runs it.
    """

    action: Literal["done", "resume", "wait", "run"]
    folder: Path | None = None
    why: str = ""


def require_cells(cells: Sequence[Cell]) -> None:
    """Refuse cells that ask for more than this machine has, before any of them starts."""
    for scenario in {id(cell.scenario): cell.scenario for cell in cells}.values():
        require_resources(scenario)


def fetch_weights(cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Fetch the pretrained weights of all cells, once each, before several runs want them.

    Args:
        cells: of a sweep.
        say: is told that a download begins.

    Raises:
        InputError: they cannot be fetched.
    """
    for source in dict.fromkeys(cell.scenario.model.init for cell in cells):
        if source is not None and package_of(source) is not None:
            fetch(source, say)


def require_number(cells: int) -> None:
    """Raise InputError for more cells than one command may have."""
    if cells > MOST_CELLS:
        raise InputError(
            f"these are {cells} cells; one command may have {MOST_CELLS}",
            hint="give fewer values, epsilons or seeds, and the others in commands of their own",
        )


def split_values(text: str) -> list[str]:
    """Split at the commas that stand in no brackets, braces or quotes."""
    parts, depth, quote, start = [], 0, "", 0
    value_begins = True  # A quote is one only there; elsewhere it is an apostrophe.
    escaped = False
    for position, character in enumerate(text):
        if quote:
            if escaped or (quote == '"' and character == "\\"):
                escaped = not escaped
            elif character == quote:
                # A doubled single quote closes and opens again.
                quote, value_begins = "", quote == "'"
            continue
        if character in _QUOTES and value_begins:
            quote = character
        elif character in _OPENERS:
            depth += 1
        elif character in _CLOSERS:
            depth = max(depth - 1, 0)
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        if not character.isspace():
            value_begins = character in ",:" + _OPENERS
    return [*parts, text[start:]]


def plan(
    sources: Sequence[str],
    words: Sequence[str],
    seeds: Sequence[int] = (),
    common: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Cell]:
    """The cells, in the order of the command line, each once; all of them validated.

    Args:
        sources: names or files of scenarios.
        words: "key=v1,v2", the axes.
        seeds: the seeds; empty: each scenario's own.
        common: "key=value" words that hold for every cell.
        progress: is told how many combinations of how many are read.

    Raises:
        InputError: with all problems of all cells.
    """
    keys = [word.partition("=")[0] for word in words]
    axes = [
        [f"{key}={value}" for value in split_values(word.partition("=")[2])]
        for key, word in zip(keys, words, strict=True)
    ]
    problems = [
        Problem("command line", f"{key} is given twice; give all its values at once: {key}=v1,v2")
        for key in sorted({key for key in keys if keys.count(key) > 1})
    ]
    problems += [Problem("command line", f"seed {seed} is below 0") for seed in seeds if seed < 0]
    problems += [
        Problem("command line", f"seed {seed} has more than {MOST_BITS} bits")
        for seed in seeds
        if seed.bit_length() > MOST_BITS
    ]
    # Each is loaded, so they are counted before.
    require_number(len(sources) * math.prod(map(len, axes)) * max(len(seeds), 1))
    varying = [axis for axis in axes if len(axis) > 1]
    loaded = []
    combinations = len(sources) * math.prod(map(len, axes))
    for count, (source, overrides) in enumerate(
        itertools.product(sources, itertools.product(*axes))
    ):
        if progress is not None:
            progress(count, combinations)
        try:
            loaded.append((source, overrides, load(source, [*overrides, *common])))
        except InputError as error:
            problems += error.problems or [Problem("command line", error.headline)]
    _refuse("the sweep", problems)
    several = len({seed for *_, one in loaded for seed in seeds or one.seeds}) > 1
    cells: dict[tuple[str, int], Cell] = {}
    for source, overrides, scenario in loaded:
        told = [source] if len(set(sources)) > 1 else []
        told += [word for word in overrides if any(word in axis for axis in varying)]
        for seed in seeds or scenario.seeds:
            label = " ".join([*told, f"seed {seed}"] if several else told)
            label = label or f"{scenario.name} seed {seed}"
            cell = Cell(source, (*overrides, *common), seed, scenario, label)
            cells.setdefault((cell.identity, seed), cell)
    return list(cells.values())


def fingerprints(
    cells: Sequence[Cell], progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """Prepare the data of all cells, once each: `Cell.data_key` -> fingerprint of the records.

    Where a folder of external records is scored, too, its fingerprint is part of it.

    Raises:
        InputError: with all that is wrong with the data of all cells.
        RunError: the cache cannot be written.
    """
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for key, cell in {cell.data_key: cell for cell in cells}.items():
        activate_plugins(cell.scenario)
        try:
            fingerprint = open_store(cell.scenario, progress).fingerprint
            if (other := open_external(cell.scenario, progress)) is not None:
                fingerprint = f"{fingerprint}+{other.fingerprint}"
            found[key] = fingerprint
        except InputError as error:
            problems += [Problem(cell.label, error.headline), *error.problems]
            problems += [Problem("", error.hint)] if error.hint else []
    _refuse("the data of the sweep", problems)
    return found


def _refuse(what: str, problems: Sequence[Problem]) -> None:
    if problems:
        lines = list(dict.fromkeys(problems))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise InputError(f"{what} has {count}", lines, hint="type: fedsim sweep --help")


def standing(
    cell: Cell,
    runs: Path,
    fingerprint: str,
    locked: bool = False,
    damaged: dict[Problem, None] | None = None,
) -> Standing:
    """Look at the cell's run folders: the newest finished one wins, then the newest to resume.

    Args:
        locked: the caller holds the lock of the cell's log: no other process runs the cell.
        damaged: takes what is wrong with files of run folders, which then do not count.
    """
    resumable = None
    why = ""
    for folder, record in runs_of(cell, runs, damaged):
        if _fingerprint_of(record["data"]) != fingerprint:
            why = "the data have changed"
        elif record["status"] == "done":
            return Standing("done", folder)
        elif record["status"] == "failed":
            why = why or "it failed before"
        elif is_taken(folder):
            return Standing("wait", folder)
        elif not has_identity(record):
            why = why or f"an older fedsim began {folder}, which cannot go on"
        elif wrong := _problems_of_checkpoints(folder):
            why = why or "its checkpoints are damaged"
            if damaged is not None:
                damaged |= dict.fromkeys(wrong)
        else:
            resumable = resumable or folder
    if not locked and is_taken(cell.log(runs)):
        return Standing("wait")
    return Standing("resume", resumable) if resumable else Standing("run", why=why)


def _problems_of_checkpoints(folder: Path) -> list[Problem]:
    # Imports torch, which a sweep, or a job that begins a run, does without.
    from fedsim.engine.checkpoint import Checkpoints

    return Checkpoints(RunFolder(folder)).problems()


def _fingerprint_of(data: Mapping[str, Any]) -> str:
    """What `fingerprints` said of the data that run.json describes."""
    inside, external = str(data["fingerprint"]), data.get("external")
    if external is None or external["fingerprint"] == inside:
        return inside
    return f"{inside}+{external['fingerprint']}"


def runs_of(
    cell: Cell, runs: Path, damaged: dict[Problem, None] | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The run folders of a cell and what their run.json says, newest first, on whatever data.

    Folders with damaged files are left out; `damaged` takes what is wrong with them.
    """
    found, problems = [], []
    for place in sorted((runs / cell.scenario.name).glob("*/")):
        if place.is_symlink() or not ((place / "run.json").is_file() or missing_of(place)):
            continue
        record, wrong = record_of(place)
        problems += wrong
        if not wrong and record["seed"] == cell.seed:
            found.append((record, place))
    if damaged is not None:
        damaged |= dict.fromkeys(problems)
    for record, place in sorted(found, key=lambda one: (one[0]["started"], one[1]), reverse=True):
        by_data = record.get("unit_from") == "data"
        if cell.identity not in _identities_of(place / "scenario.yaml", by_data):
            continue
        wrong = edited(place, record)
        if not wrong:
            yield place, record
        elif damaged is not None:
            damaged |= dict.fromkeys(wrong)


def record_of(place: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The run.json of a run folder, and what is wrong with the folder's files."""
    if name := missing_of(place):
        return {}, [Problem(str(place / name), "is missing")]
    folder = RunFolder(place)
    try:
        record = folder.read_json("run.json")
        kinds = {"seed": int, "data": dict, "status": str, "started": str}
        wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
        if wrong or "fingerprint" not in record["data"]:
            return {}, [Problem(str(place / "run.json"), f"lacks {', '.join(wrong) or 'data'}")]
        if record["status"] == "done":
            summary = folder.read_json("summary.json")
            numbers = (summary.get("wall_seconds"), summary.get("peak_rss_mb"))
            if not isinstance(summary.get("metrics"), dict) or None in numbers:
                return {}, [Problem(str(place / "summary.json"), "is not what a run writes")]
    except InputError as error:
        return {}, problems_of(error)
    return record, edited(place, record, results=False)


def identity(scenario: Scenario) -> str:
    """The resolved scenario without the keys that change no bit, as JSON with sorted keys."""
    values = {k: v for k, v in scenario.resolved().items() if k not in _WITHOUT_EFFECT}
    values["resources"] = {
        k: v for k, v in values["resources"].items() if k not in _WITHOUT_EFFECT_OF_RESOURCES
    }
    return json.dumps(values, sort_keys=True)


def _identities_of(path: Path, unit_by_data: bool) -> frozenset[str]:
    """What a cell of a run folder's scenario may be; none: it is wrong.

    It is loaded, not only read: keys that are newer than the run get their defaults. Where the data
    decided on the unit of privacy, the cell may have none.
    """
    try:
        about = path.stat()
    except OSError:
        return frozenset()
    # One path can stand for two files: in another folder, or where a run folder went and one of
    # the same second took its name.
    version = (about.st_dev, about.st_ino, about.st_mtime_ns)
    return _loaded_identities(path, version, unit_by_data)


@lru_cache(maxsize=4096)
def _loaded_identities(path: Path, _version: tuple[int, ...], unit_by_data: bool) -> frozenset[str]:
    try:
        scenario = load(path)
    except InputError:
        return frozenset()
    found = {identity(scenario)}
    if unit_by_data and scenario.privacy is not None:
        undecided = scenario.privacy.model_copy(update={"unit": None})
        found.add(identity(scenario.model_copy(update={"privacy": undecided})))
    return frozenset(found)
