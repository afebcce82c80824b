"""Locks that end with the processes that hold them, however these end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def take(descriptor: int) -> bool:
    """Lock an open file or folder; False when somebody else has it.

    The lock belongs to the open file: a child process that inherits the descriptor holds it, too,
    and it ends when the last of them has closed it or is gone.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks: nobody can be kept out.
        return True
    return True


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock a file or folder meanwhile; yields False when somebody else has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield take(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def waited(path: Path) -> Iterator[None]:
    """Lock a file or folder meanwhile, once nobody else has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_taken(path: Path) -> bool:
    """Whether a process holds the lock of this file or folder; False when there is none."""
    try:
        with held(path) as mine:
            return not mine
    except FileNotFoundError:
        return False
