"""Write the folder of a store so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsim.data.copies import Digests, digests
from fedsim.data.images import reserve
from fedsim.data.kept import write_about
from fedsim.errors import RunError
from fedsim.files import sync
from fedsim.locks import held, is_taken

UNFINISHED = ".building-"
"""What the names of folders begin with that are not finished."""
_BLOCK = 1024  # images copied or hashed at a time
_YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder below `parent`, to be filled and published; removed if it was not.

    What killed processes left behind is removed first.

    Raises:
        RunError: it cannot be written (no permission, no space).
    """
    folder = parent / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(parent)
        folder.mkdir()
        with held(folder):
            yield folder
    except OSError as error:
        raise RunError(
            f"prepared data cannot be written below {parent}: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unfinished(parent: Path) -> None:
    """Remove the folders that nobody fills any more."""
    for folder in parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            # A folder is locked a moment after it is made.
            young = time.time() - folder.stat().st_mtime < _YOUNG_SECONDS
            process = folder.name.removeprefix(UNFINISHED).partition("-")[0]
            if not (young and _lives(process)) and not is_taken(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except OSError:  # It belongs to somebody else.
        return True
    return True


def publish(folder: Path, target: Path) -> None:
    """Give a filled folder its final name; when another process was first, its folder stays."""
    for file in folder.iterdir():
        sync(file)
    sync(folder)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    sync(target.parent)


def keep_rows(file: Path, keep: Sequence[int]) -> None:
    """Drop the other rows of an array file."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    part = file.with_name("kept.npy")
    kept = np.lib.format.open_memmap(
        part, mode="w+", dtype=array.dtype, shape=(len(keep), *array.shape[1:])
    )
    reserve(part)
    for start in range(0, len(keep), _BLOCK):
        kept[start : start + _BLOCK] = array[keep[start : start + _BLOCK]]
    kept.flush()
    part.replace(file)


def write_records(
    folder: Path,
    *,
    labels: np.ndarray,
    groups: Sequence[str],
    sites: Sequence[str],
    ids: Sequence[str],
    classes: Sequence[str],
    source: str,
    root: str | None,
    skipped: Sequence[str],
    notes: Sequence[str] = (),
    window: str = "",
    patients: Sequence[str] = (),
    content: Digests | None = None,
) -> None:
    """Write everything of a store except its images, which are there already.

    `patients` are the groups as the data name them, `content` the digests of the images.
    """
    site_names = sorted(set(sites))
    site_codes = {site: code for code, site in enumerate(site_names)}
    arrays = {
        "labels": np.asarray(labels, dtype=np.int64),
        "groups": group_codes(groups),
        "sites": np.array([site_codes[site] for site in sites], dtype=np.int64),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    content = digests(images) if content is None else content
    np.save(folder / "digests.npy", content)
    about = {
        "fingerprint": fingerprint(images, arrays, classes, site_names),
        "digests_sha256": hashlib.sha256(content.tobytes()).hexdigest(),
        "source": source,
        "root": root,
        "classes": list(classes),
        "site_names": site_names,
        "skipped": list(skipped),
        "ids": list(ids),
        "notes": list(notes),
        "window": window,
        "patients": list(patients),
    }
    write_about(folder, about)


def fingerprint(
    images: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    classes: Sequence[str],
    site_names: Sequence[str],
) -> str:
    """SHA-256 over images, then labels, groups and sites, and what their numbers stand for."""
    about = [images.shape, list(classes), list(site_names)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for start in range(0, len(images), _BLOCK):
        digest.update(np.ascontiguousarray(images[start : start + _BLOCK]).data)
    for name in ("labels", "groups", "sites"):
        digest.update(arrays[name].astype("<i8").tobytes())
    return digest.hexdigest()


def group_codes(names: Sequence[str]) -> np.ndarray:
    """Number groups by first appearance, int64 [n]; every empty name is a group of its own."""
    numbers: dict[str | int, int] = {}
    return np.array(
        [numbers.setdefault(name or place, len(numbers)) for place, name in enumerate(names)],
        dtype=np.int64,
    )
