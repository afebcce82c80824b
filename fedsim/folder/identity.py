"""Which run a file belongs to, and whether it is as it was written.

`run.json` carries a random `run_id`, the SHA-256 of `scenario.yaml`, and a digest of itself;
checkpoints repeat the first two. A finished run's also has the SHA-256 of every file of results.
A file of another run, or one that was edited or damaged, is found by them.
Runs that an older fedsim began carry none of it: they can be read, but not resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import InputError, Problem
from fedsim.files import require_regular
from fedsim.folder.runfolder import MODEL, MODELS, RunFolder, damaged, plain

# What changes while the run goes on; everything else in run.json stays as it began.
_CHANGING = ("status", "finished", "digest")
_RESULTS = (
    *("rounds.jsonl", "traffic.jsonl", "privacy.jsonl", "summary.json"),
    *(MODEL, "predictions.npz", "overlaps.npz", "scores.npz"),
)
# A client's own model; nothing that leads elsewhere.
_OF_CLIENT = re.compile(rf"{MODELS}/[^/\\]+\.safetensors")

DEPLOYMENT = "deployment"
"""Key of run.json where the clients were nodes of a federation, and not simulated."""


def deployed_nodes(record: Mapping[str, Any]) -> int:
    """How many nodes of a federation a run had, by its run.json; 0 of a simulation."""
    found = record.get(DEPLOYMENT)
    nodes = found.get("nodes") if isinstance(found, Mapping) else None
    return len(nodes) if isinstance(nodes, Mapping) else 0


def new_identity(folder: RunFolder) -> dict[str, str]:
    """The entries of run.json that tell a run, whose scenario.yaml is written, from all others."""
    digest = _file_digest(folder.path / "scenario.yaml")
    return {"run_id": secrets.token_hex(16), "scenario_sha256": digest}


def results(folder: RunFolder) -> dict[str, str]:
    """SHA-256 of each file of results that is there."""
    own = sorted((folder.path / MODELS).glob("*.safetensors"))
    names = [*_RESULTS, *(f"{MODELS}/{path.name}" for path in own)]
    found = {name: _file_digest(folder.path / name) for name in names}
    return {name: digest for name, digest in found.items() if digest}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json with its digest."""
    return {**record, "digest": _digest(record)}


def run_record(folder: RunFolder) -> dict[str, Any]:
    """The run.json of a run folder.

    Raises:
        InputError: it is damaged, or lacks what every run writes.
    """
    record = folder.read_json("run.json")
    kinds = {"scenario": str, "seed": int, "data": dict, "status": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise damaged(folder.path / "run.json", f"it has no proper {', '.join(wrong)}")
    return record


def has_identity(record: Mapping[str, Any]) -> bool:
    """Whether a run.json says which run it is of; those of older versions do not."""
    return all(isinstance(record.get(k), str) for k in ("run_id", "scenario_sha256", "digest"))


def edited(folder: Path, record: Mapping[str, Any], results: bool = True) -> list[Problem]:
    """Which files of a run folder are not as the run wrote them; none of older versions.

    These are run.json and scenario.yaml and, where the run is done, its results.

    Args:
        folder: the run folder.
        record: its run.json.
        results: whether to look at the results, too, which takes longer.
    """
    if not has_identity(record):
        return []
    problems = scenario_edited(folder, record)
    if record["digest"] != _digest(record):
        what = "is not as the run wrote it: its digest does not hold"
        return [*problems, Problem(str(folder / "run.json"), what)]
    if results and record.get("status") == "done":
        files = record.get("files")
        if not isinstance(files, dict) or not all(map(_is_result, files)):
            what = "does not name the files of results that a finished run has"
            return [*problems, Problem(str(folder / "run.json"), what)]
        for name, digest in files.items():
            path = folder / name
            if _file_digest(path) != digest:
                there = os.path.lexists(path)
                what = "is not as the run wrote it" if there else "is missing"
                problems.append(Problem(str(path), what))
    return problems


def _is_result(name: str) -> bool:
    return name in _RESULTS or _OF_CLIENT.fullmatch(name) is not None


def scenario_edited(folder: Path, record: Mapping[str, Any]) -> list[Problem]:
    """The same of scenario.yaml alone."""
    path = folder / "scenario.yaml"
    if has_identity(record) and record["scenario_sha256"] != _file_digest(path):
        what = "was edited, or is another run's: run.json names the digest of another file"
        return [Problem(str(path), what)]
    return []


def refuse(
    folder: Path, problems: Sequence[Problem], way_out: str = "run it anew: fedsim run NAME"
) -> None:
    """Raise InputError with these problems of a run folder, if there are any."""
    if problems:
        raise InputError(
            f"{folder} is not as its run left it",
            problems,
            hint=f"put back the files that the run wrote, or {way_out}",
        )


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; "" where it cannot be read."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _digest(record: Mapping[str, Any]) -> str:
    fixed = plain({key: value for key, value in record.items() if key not in _CHANGING})
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
