"""Files that name runs: the record of a sweep, and the list in the folder of a curve."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.files import read_regular
from fedsim.folder.runfolder import SCHEMA_VERSION, write_whole

RUNS_OF_A_CURVE = "curve.json"
_MOST_BYTES = 50_000_000


def listed(place: Path) -> list[Path] | None:
    """The run folders that a sweep's record, or the folder of a curve, names.

    Paths in a curve's list are seen from its folder, those of a sweep are as they were typed. Where
    they lead nowhere, the runs are looked for in the folder of runs that the file is part of.

    Returns:
        The folders, whether they are there or not; None where the place is neither of the two.

    Raises:
        InputError: the file is not what fedsim writes.
    """
    file = place / RUNS_OF_A_CURVE if place.is_dir() else place
    if not file.is_file() or (place.is_dir() and (place / "run.json").is_file()):
        return None
    try:
        found = json.loads(read_regular(file, _MOST_BYTES))
        if not isinstance(found, Mapping):
            raise ValueError("it holds no JSON object")
        runs = found.get("runs")
        if "cells" in found:
            runs = [cell["run"] for cell in found["cells"] if cell["run"] is not None]
        if not isinstance(runs, list) or not all(isinstance(one, str) for one in runs):
            raise ValueError("it names no runs")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is no list of runs: {_why(error)}",
            hint="a sweep's record is runs/sweeps/<time>.json; a curve's folder is "
            "runs/curves/<name>",
        ) from error
    # <runs>/sweeps/<time>.json and <runs>/curves/<name>/curve.json.
    base = Path(os.path.abspath(file)).parents[2 if place.is_dir() else 1]
    return [_found(Path(one), file.parent, base) for one in runs]


def write_list(folder: Path, runs: Iterable[Path]) -> None:
    """Write the list of a curve's folder."""
    seen = [os.path.relpath(one, folder) for one in runs]
    told = {"schema_version": SCHEMA_VERSION, "runs": seen}
    write_whole(folder / RUNS_OF_A_CURVE, (json.dumps(told, indent=2) + "\n").encode())


def _found(run: Path, folder: Path, base: Path) -> Path:
    places = (Path(os.path.normpath(folder / run)), run, base.joinpath(*run.parts[-2:]))
    return next((one for one in places if one.is_dir()), run)


def _why(error: Any) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
