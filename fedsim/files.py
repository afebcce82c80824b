"""Files: names made of anybody's text, reading what may be no file at all, writing that lasts, and
where prepared data lies.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_MOST_BYTES = 80  # of a name; what is put before and after it has the rest of a file system's 255
_HARMLESS = "-_.+=,@() "
# Names of devices on Windows, whatever follows the first dot.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    A pipe, a device or a socket is refused, never waited for.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most} bytes")
    return content


def require_regular(path: str | Path) -> None:
    """Raise OSError for a pipe, a device or a socket: reading it would be waited for.

    What is not there, and a folder, are left to who opens them.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a file")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seen_from(here: Path, path: Path) -> Path:
    """The path as seen from a folder, if it lies below."""
    return path.relative_to(here) if path.is_relative_to(here) else path


def file_names(texts: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """A file name for each text, different ones even where upper and lower case are the same.

    What is harmless stays as it is. All others, and all that would collide, end in a digest of
    the text, so that the names do not depend on the order of the texts.

    Args:
        texts: anybody's.
        reserved: names that other files in the folder have.
    """
    taken = {_folded(name) for name in reserved}
    unique = sorted(set(texts))
    names = {text: file_name(text) for text in unique}
    length = _DIGEST
    while length <= 64:
        owners: dict[str, list[str]] = {}
        for text, name in names.items():
            owners.setdefault(_folded(name), []).append(text)
        collided = [
            text for name, same in owners.items() if len(same) > 1 or name in taken for text in same
        ]
        if not collided:
            break
        names |= {text: _with_digest(text, length) for text in collided}
        length += _DIGEST
    return names


def file_name(text: str) -> str:
    """A name for a file, without a suffix, that holds as much of the text as is harmless.

    It has no separator, no control character, no leading dot or dash, no name that a system
    reserves, and at most 80 bytes. Harmless text is its own name; any other is followed by a
    digest of it. Of several texts use `file_names`: names may differ in case alone.
    """
    return text if text == _harmless(text) else _with_digest(text, _DIGEST)


_DIGEST = 8


def _with_digest(text: str, length: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
    stem = _cut(_harmless(text), _MOST_BYTES - length - 1)
    return f"{stem}-{digest}"


def _harmless(text: str) -> str:
    """The text without what is not harmless in a file's name."""
    normal = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isalnum() or c in _HARMLESS else "_" for c in normal)
    kept = _cut(kept, _MOST_BYTES).lstrip(".- ").rstrip(". ")
    if not kept or kept.partition(".")[0].strip().casefold() in _DEVICES:
        kept = f"_{kept}"
    return kept


def _cut(text: str, most: int) -> str:
    """As much of the text as has at most so many bytes, whole characters."""
    return text.encode()[:most].decode(errors="ignore")


def _folded(name: str) -> str:
    """What file systems that know neither case nor composition take for the same name."""
    return unicodedata.normalize("NFKD", name).casefold()


def cache_folder() -> Path:
    """Where prepared data lies: FEDSIM_CACHE, else the user's cache folder."""
    base = os.environ.get("FEDSIM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"
