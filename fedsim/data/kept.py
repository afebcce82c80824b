"""Prepared data in the cache are checked before they are used, and made anew where damaged.

The check reads everything: the arrays' digest is the fingerprint, so that the fingerprint in a
run's record is of the bytes that the run trained on. It runs at the speed of SHA-256, about
1,300 MB a second on a processor that has instructions for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedsim.errors import InputError, Problem
from fedsim.files import require_regular
from fedsim.raising import one_line

ABOUT = "store.json"
"""What is known of a store, and the checksum of just that."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write store.json, with its checksum."""
    text = json.dumps({**about, "checksum": _checksum(about)}, indent=1)
    (folder / ABOUT).write_text(text)


def read_about(folder: Path, tuples: Sequence[str]) -> dict[str, Any]:
    """What store.json says, the values of these keys as tuples.

    Raises:
        OSError, ValueError, KeyError: it cannot be read, or is not as it was written.
    """
    require_regular(folder / ABOUT)
    about = json.loads((folder / ABOUT).read_text())
    if not isinstance(about, dict) or about.pop("checksum", None) != _checksum(about):
        raise ValueError(f"{ABOUT} is not as it was written: its checksum does not hold")
    return about | {key: tuple(about[key]) for key in tuples}


def read_array(path: Path, dtype: str, shape: Sequence[int | None], mapped: bool = False) -> Any:
    """An array file, in memory or mapped, read-only.

    Args:
        path: a `.npy` file.
        dtype: what it must hold.
        shape: the length of each axis; None: any.
        mapped: whether to map it.

    Raises:
        OSError, ValueError: it cannot be read, or holds something else.
    """
    require_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python: each kind means damage.
        raise ValueError(f"{path.name} is no array file: {one_line(error)}") from error
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    if array.offset + array.nbytes != path.stat().st_size:
        raise ValueError(f"{path.name} is longer than its array")
    return array if mapped else np.array(array)


def require_codes(name: str, codes: np.ndarray, count: int) -> None:
    """Raise ValueError unless all numbers lie in [0, count)."""
    if codes.size and not 0 <= codes.min() <= codes.max() < count:
        raise ValueError(f"{name} lie between {codes.min()} and {codes.max()}, not below {count}")


def require_digests(digests: np.ndarray, about: dict[str, Any]) -> None:
    """Raise ValueError where the records' digests are not those of store.json, which lets go of it.

    Args:
        digests: uint8 [n, bytes].
        about: the content of store.json; its key `digests_sha256` is taken out.
    """
    if hashlib.sha256(digests.tobytes()).hexdigest() != about.pop("digests_sha256"):
        raise ValueError("digests.npy is not as it was written: its checksum does not hold")


def require_fingerprint(found: str, about: Mapping[str, Any]) -> None:
    """Raise ValueError where arrays do not have the fingerprint that was written with them."""
    if found != about["fingerprint"]:
        raise ValueError("its arrays are not as they were written: their checksum does not hold")


def unusable(folder: Path, error: Exception) -> InputError:
    """The error of prepared data that cannot be used."""
    return InputError(
        "a prepared data set cannot be opened",
        [Problem(str(folder), str(error))],
        "delete this folder; the next run prepares it again",
    )


def found_whole(opened: Callable[[Path], _T], folder: Path) -> _T | None:
    """The prepared data in a folder; None where there are none, or they are damaged.

    Damaged ones are removed, and a line on the log says so: they will be prepared again.

    Raises:
        InputError: they are damaged and cannot be removed.
    """
    if not os.path.isdir(folder):  # Of a name that is too long, too.
        return None
    try:
        return opened(folder)
    except InputError as error:
        damage = error
        why = error.problems[0].message if error.problems else error.headline
        _log.warning("prepared data in %s are damaged (%s); preparing them again", folder, why)
    # Out of the way at once: a process that has them open keeps what it sees.
    aside = folder.with_name(f".building-damaged-{secrets.token_hex(4)}")
    try:
        folder.rename(aside)
    except FileNotFoundError:  # Another process was first.
        return None
    except OSError:
        raise damage from None
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _checksum(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
