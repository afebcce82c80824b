"""What of run folders and of the cache can be removed to free disk, and removing it.

Results are never among it: of a run folder only the checkpoint and the history of updates, which a
finished run does not need any more; of the cache the prepared data, which the next run prepares
again.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedsim.data.building import UNFINISHED
from fedsim.errors import InputError, Problem, problems_of
from fedsim.folder.history import FOLDER as HISTORY
from fedsim.folder.identity import edited
from fedsim.folder.runfolder import RunFolder, missing_of
from fedsim.locks import is_taken

# What checkpoints (those of older versions, too), histories and stores consist of; ".name.*" is
# what a kill leaves of an unfinished write.
_CHECKPOINT_FILES = ("*.ckpt", ".*.ckpt.*", "noise.key", ".noise.key.*", "*.pkl", ".*.pkl.*")
_HISTORY_FILES = ("round-*/*.safetensors", "round-*/.*.safetensors.*")
_STORE_FILES = ("store.json", "*.npy", "images.bin", "masks.bin")
_BUILDING = UNFINISHED
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Item:
    """Something that takes disk.

    Attributes:
        path: a folder.
        what: what it is, for a reader.
        files: the files in it that would be removed; the folder goes with them if it is then empty.
        bytes: their size.
        kept: why it stays, and what to type to remove it; "" when it may go.
    """

    path: Path
    what: str
    files: tuple[Path, ...]
    bytes: int
    kept: str = ""


def checkpoints(
    places: Sequence[Path], sure: bool = False, damaged: list[Problem] | None = None
) -> list[Item]:
    """Checkpoints and histories of the runs at these places: run folders, or folders of runs.

    Those of unfinished runs are kept, unless their run folder itself is named and `sure` is set.
    Those of runs with damaged files are kept; `damaged` takes what is wrong.

    Raises:
        InputError: places that are neither, all at once.
    """
    problems: list[Problem] = []
    found: dict[Path, bool] = {}
    for place in places:
        try:
            runs = list(_runs_at(place))
        except ValueError as error:
            problems.append(Problem(str(place), str(error)))
            continue
        if not runs:
            what = "holds no run folders" if place.is_dir() else "does not exist"
            problems.append(Problem(str(place), what))
        for run in runs:
            # A run is named when the place is the run, or a link to it such as `latest`.
            found[run] = found.get(run, False) or run == place.resolve()
    if problems:
        raise InputError(
            "there is nothing to clean in some places",
            problems,
            hint="name a run folder, runs/<scenario> or runs",
        )
    wrong: list[Problem] = []
    items = [item for run, named in found.items() for item in _of_run(run, sure and named, wrong)]
    if damaged is not None:
        damaged += wrong
    return [item for item in items if item.files]


def holds_runs(place: Path) -> bool:
    """Whether there is a run folder at this place."""
    return any(True for _ in _runs_at(place))


def _runs_at(place: Path) -> Iterator[Path]:
    """The run folders at a place, at most two levels below it; links below it are not followed.

    Raises:
        ValueError: the place is a link that leads out of its folder.
    """
    real = place.resolve()
    if place.is_symlink() and real.parent != place.parent.resolve():
        raise ValueError(f"is a link to {real}; name that folder")
    if _is_run(real):
        yield real
        return
    for inner in _folders(real):
        if _is_run(inner):
            yield inner
        else:
            yield from (run for run in _folders(inner) if _is_run(run))


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or bool(missing_of(folder))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, without links."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())


def _of_run(run: Path, forced: bool, damaged: list[Problem]) -> list[Item]:
    """What a run keeps to go on with; all of it stays, or none."""
    status, wrong = _status(run)
    damaged += wrong
    kept = ""
    if is_taken(run):
        status, kept = "running", "it is running"
    elif wrong and not forced:
        kept = "files of the run are damaged"
    elif status != "done" and not forced:
        # Whoever killed the run could not write so.
        status = "killed" if status == "running" else status
        kept = f"resuming needs it; to remove it, type: fedsim clean {shlex.quote(str(run))} --yes"
    return [
        _item(run / name, f"{name} of a run, {status}", patterns, kept)
        for name, patterns in (("checkpoint", _CHECKPOINT_FILES), (HISTORY, _HISTORY_FILES))
        if (run / name).is_dir() and not (run / name).is_symlink()
    ]


def _status(run: Path) -> tuple[str, list[Problem]]:
    """What a run's record says of it, and which of its files are damaged."""
    unknown = "of unknown status"
    if name := missing_of(run):
        return unknown, [Problem(str(run / name), "is missing")]
    try:
        record = RunFolder(run).read_json("run.json")
    except InputError as error:
        return unknown, problems_of(error)
    if not isinstance(record.get("status"), str):
        return unknown, [Problem(str(run / "run.json"), "has no status")]
    return record["status"], edited(run, record)


def stores(cache: Path, sure: bool = False) -> list[Item]:
    """Prepared data in the cache; kept unless `sure`, and where a process reads them now."""
    items = []
    in_use = _mapped(cache)
    for folder in _folders(cache):
        if folder.name.startswith(_BUILDING) or not (folder / "store.json").is_file():
            continue
        kept = "" if sure else "to remove it, type: fedsim clean --stores --yes"
        if folder.resolve() in in_use:
            kept = "a process reads it now"
        item = _item(folder, "prepared data", _STORE_FILES, kept)
        if len(item.files) < len(os.listdir(folder)):
            item = replace(item, kept="it holds files that fedsim has not put there")
        items.append(item)
    return items


def leftovers(cache: Path) -> list[Item]:
    """Stores that were never finished: nothing was written into them for more than a day."""
    items = []
    for folder in _folders(cache):
        if not folder.name.startswith(_BUILDING):
            continue
        files = tuple(path for path in folder.rglob("*") if not path.is_dir())
        newest = max(path.lstat().st_mtime for path in (folder, *files))
        if time.time() - newest > _STALE_SECONDS:
            items.append(Item(folder, "left by an interrupted preparation", files, _size(files)))
    return items


def remove(item: Item) -> int:
    """Remove an item's files, and its folder if nothing else is in it; the bytes that were freed.

    Raises:
        OSError: a file cannot be removed; some may be gone already.
    """
    folder = item.path
    if folder.name.startswith(_BUILDING):
        shutil.rmtree(folder)  # Removes links in it, never what they point to.
        return item.bytes
    if (folder / "store.json") in item.files:
        # Under its name a store is whole or not there at all, whenever this is interrupted.
        folder = folder.rename(folder.with_name(f"{_BUILDING}removed-{secrets.token_hex(4)}"))
    freed = 0
    for file in item.files:
        path = folder / file.relative_to(item.path)
        size = path.lstat().st_size
        path.unlink()
        freed += size
    inner = {folder / file.relative_to(item.path).parent for file in item.files}
    for place in sorted({folder, *inner}, key=lambda place: len(place.parts), reverse=True):
        if not os.listdir(place):
            place.rmdir()
    return freed


def _item(folder: Path, what: str, patterns: Sequence[str], kept: str) -> Item:
    files = tuple(
        path
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)})
        if stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    )
    return Item(folder, what, files, _size(files), kept)


def _size(files: Sequence[Path]) -> int:
    return sum(path.lstat().st_size for path in files)


def _mapped(cache: Path) -> set[Path]:
    """Folders of the cache of which a process of this user has mapped a file (on Linux)."""
    below = f"{cache.resolve()}{os.sep}"
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:  # Another user's, or it has just ended.
            continue
        # address, permissions, offset, device, inode, path
        paths = [line.split(maxsplit=5)[5] for line in lines if below in line]
        found |= {Path(path).parent for path in paths if path.startswith(below)}
    return found
