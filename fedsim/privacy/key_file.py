"""The key of a run's secret noise, for as long as the run can go on.

It lies in the checkpoint folder, readable by its owner alone, and nowhere else: a run that was
interrupted or failed needs it to release the same bits again. It is erased when the run is done.
Overwriting reaches the file's own blocks; copies that a file system or a disk made of them it does
not.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from fedsim.errors import InputError
from fedsim.files import sync
from fedsim.privacy.noise import KEY_BYTES


class KeyFile:
    """`checkpoint/noise.key` of a run folder."""

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoint" / "noise.key"

    def create(self) -> None:
        """Draw a key from the operating system and keep it: whole or not at all, mode 0600."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self.path)
        sync(self.path.parent)

    def read(self) -> bytes:
        """The key.

        Raises:
            InputError: it is gone, or what lies there is no key.
        """
        problem = "is gone"
        try:
            # A link, or something that never answers, is no key.
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                regular = stat.S_ISREG(os.fstat(handle).st_mode)
                key = file.read(KEY_BYTES + 1) if regular else b""
            if len(key) == KEY_BYTES:
                return key
            problem = "is damaged"
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        raise InputError(
            f"the key of this run's secret noise {problem}: {self.path}; without it the noise that "
            "was drawn cannot be drawn again, and other noise would cost epsilon twice",
            hint=f"start again: fedsim run {self.path.parents[1] / 'scenario.yaml'}",
        )

    def erase(self) -> None:
        """Overwrite and remove the key, and what a kill left of its writing.

        What lies there and is no file (a link to one, a pipe) is no key, and stays.
        """
        for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*")):
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    continue
                with path.open("r+b") as file:
                    file.write(bytes(KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()
            except FileNotFoundError:
                continue
            sync(path.parent)
