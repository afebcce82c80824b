"""The history of a run: what clients changed in the model, round by round, for strategies that ask.

It lies in `history/` of the run folder, so memory does not grow with the rounds: for each exchange
that trains, a file of norms and, as asked, a file for each client. The files are safetensors; each
carries a SHA-256 of its arrays, which is compared whenever it is read.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedsim.errors import InputError
from fedsim.files import require_regular
from fedsim.folder.runfolder import write_whole
from fedsim.method.received import Arrays, Received, norm
from fedsim.raising import one_line

Keeps = Literal["none", "norms", "last", "full"]

FOLDER = "history"
LEVELS: tuple[Keeps, ...] = get_args(Keeps)
_SUFFIX = ".safetensors"
_ROUND = re.compile(r"round-(\d{6,})")
_FILE = re.compile(r"(\d{3,})-(norms|\d{6,})\.safetensors")
# Of "last": the newest checkpoint may be damaged, and the run goes on from the one before.
_KEPT = 2


class History:
    """What clients changed in earlier rounds.

    Args:
        keeps: what is kept.
        folder: where; None where nothing is.

    Attributes:
        round: the current round; the loop sets it.
    """

    def __init__(self, keeps: Keeps, folder: Path | None) -> None:
        self.keeps: Keeps = keeps
        self._folder = folder
        self.round = 0
        self._rows: list[tuple[int, float, float]] = []

    # --- for strategies ------------------------------------------------------------------------

    @property
    def rounds(self) -> list[int]:
        """The finished rounds that there is something of, ascending; of "last" at most one."""
        found = [number for number in self._rounds() if number < self.round]
        if self.keeps == "last":
            return [number for number in found if number == self.round - 1]
        return found

    def norms(self, round: int, exchange: int = 0) -> dict[int, float]:
        """Client -> Euclidean norm of what it changed in an exchange."""
        return self._column("norms", round, exchange)

    def weights(self, round: int, exchange: int = 0) -> dict[int, float]:
        """Client -> weight of its reply, as the strategy weights."""
        return self._column("weights", round, exchange)

    def update(self, round: int, client: int, exchange: int = 0) -> Arrays:
        """What a client changed in an exchange: name -> array, of the model's dtypes and shapes.

        Raises:
            KeyError: it is not kept, or the client did not answer.
        """
        path = self._path(round, exchange, f"{client:06d}")
        if self.keeps not in ("last", "full") or not path.exists():
            raise KeyError(
                f"The history ({self.keeps!r}) has no update of client {client} in round {round}, "
                f"exchange {exchange}."
            )
        return _read(path)

    # --- for the loop --------------------------------------------------------------------------

    def begin(self, round: int) -> None:
        """A round begins, or goes on."""
        self.round = round
        self._rows = []

    def add(
        self, exchange: int, client: int, received: Received, sent: Mapping[str, NDArray[Any]]
    ) -> None:
        """Keep what a client changed in the current exchange.

        Args:
            exchange, client: their numbers.
            received: the client's reply.
            sent: the model that it was sent.
        """
        change = received.change(sent)
        self._rows.append((client, norm(change), received.weight))
        if self.keeps in ("last", "full"):
            kept = {name: value.astype(sent[name].dtype) for name, value in change.items()}
            self._write(self._path(self.round, exchange, f"{client:06d}"), kept)

    def close(self, exchange: int) -> None:
        """All replies of the exchange were added: write their norms."""
        clients, norms, weights = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        self._rows = []
        found = {
            "clients": np.array(clients, np.int64),
            "norms": np.array(norms, np.float64),
            "weights": np.array(weights, np.float64),
        }
        self._write(self._path(self.round, exchange, "norms"), found)

    def prune(self) -> None:
        """Remove what is not kept any more; call it when the round's checkpoint is on the disk."""
        if self.keeps == "last":
            for number in self._rounds():
                if number <= self.round - _KEPT:
                    shutil.rmtree(self._of_round(number))

    def cut(self, finished: int, exchange: int) -> None:
        """Remove what is later than a checkpoint between two rounds, or two exchanges."""
        for number in self._rounds():
            if number > finished + 1 or (number == finished + 1 and not exchange):
                shutil.rmtree(self._of_round(number))
            elif number == finished + 1:
                for path in self._of_round(number).iterdir():
                    match = _FILE.fullmatch(path.name)
                    if match is None or int(match[1]) >= exchange:
                        path.unlink()

    def bytes(self, rounds: int) -> int:
        """What a run of so many rounds will have on disk at most; after a trial's one round."""
        if self._folder is None or not self._folder.exists():
            return 0
        a_round = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        return a_round * (min(rounds, _KEPT + 1) if self.keeps == "last" else rounds)

    def _column(self, name: str, round: int, exchange: int) -> dict[int, float]:
        path = self._path(round, exchange, "norms")
        if self.keeps == "none" or not path.exists():
            raise KeyError(f"The history ({self.keeps!r}) has nothing of round {round}.")
        found = _read(path)
        return dict(zip(found["clients"].tolist(), found[name].tolist(), strict=True))

    def _rounds(self) -> list[int]:
        if self._folder is None or not self._folder.is_dir():
            return []
        found = [_ROUND.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted(int(match[1]) for match in found if match is not None)

    def _of_round(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"round-{number:06d}"

    def _path(self, round: int, exchange: int, what: str) -> Path:
        if self._folder is None:
            raise KeyError("This strategy keeps no history: set `history` on its class.")
        return self._of_round(round) / f"{exchange:03d}-{what}{_SUFFIX}"

    def _write(self, path: Path, arrays: Arrays) -> None:
        whole = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
        write_whole(path, save(whole, {"sha256": _digest(whole)}))


NONE = History("none", None)
"""The history of a strategy that asks for none."""


def _read(path: Path) -> Arrays:
    """The arrays of a file; InputError where it is not as it was written."""
    try:
        require_regular(path)
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            wanted = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}", hint=_HINT) from error
    if wanted != _digest(arrays):
        raise InputError(f"{path} is not as the run wrote it: its digest does not hold", hint=_HINT)
    return arrays


_HINT = "put back the file that the run wrote, or start the run again"


def _digest(arrays: Arrays) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        found.update(f"{name}\0{value.dtype.str}{value.shape}\0".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()
