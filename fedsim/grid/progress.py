"""Progress of long local work, written by workers and read by whoever draws it.

One small file in shared memory for a run: a row per client and one for the server. Workers write
their row, the driver reads all. Nothing waits for it, and a worker on another machine, which does
not see the file, runs without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.randomness import SERVER

_ROW = np.dtype([("done", "i8"), ("total", "i8"), ("label", "S32")])
_MOST = 2**63 - 1


class Board:
    """The progress file of one run. Row `client` belongs to that client, the last to the server."""

    def __init__(self, path: Path, clients: int, *, create: bool = False) -> None:
        mode: Literal["w+", "r+"] = "w+" if create else "r+"
        self._rows: np.ndarray = np.memmap(path, dtype=_ROW, mode=mode, shape=clients + 1)

    def post(self, client: int, done: int, total: int, label: str) -> None:
        """Write how many of `total` steps are done."""
        shown = min(done, _MOST), min(total, _MOST), label.encode()[:32]
        self._rows[client if client != SERVER else -1] = shown

    def read(self, client: int) -> tuple[int, int, str]:
        """Return (done, total, label) of a client or of `SERVER`."""
        row = self._rows[client if client != SERVER else -1]
        return int(row["done"]), int(row["total"]), bytes(row["label"]).decode(errors="ignore")


class Steps:
    """Counts the steps of local work: reports them and, for a trial, stops after a few.

    A method writes `for step in site.steps(100, "distil"):` and gets a progress bar, an estimate of
    its duration in `--dry-run`, and a one-step run in `fedsim check`, without knowing of any.
    `planned` and `seconds_per_step` say afterwards how much work the loops announced and how long
    the steps that were run took.
    """

    def __init__(
        self,
        client: int,
        *,
        board: Board | None = None,
        limit: int | None = None,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._client, self._board, self._limit, self._tick = client, board, limit, tick
        self.estimated_seconds = 0.0

    def __call__(self, total: int, label: str) -> Iterator[int]:
        run = total if self._limit is None else min(total, self._limit)
        begun = previous = time.perf_counter()
        fastest = float("inf")
        for step in range(run):
            yield step
            now = time.perf_counter()
            fastest, previous = min(fastest, now - previous), now
            if self._board is not None:
                self._board.post(self._client, step + 1, total, label)
            if self._tick is not None:
                self._tick()
        # The first step pays for warming up: a trial extrapolates from its fastest.
        spent = time.perf_counter() - begun
        self.estimated_seconds += spent if run == total else spent + fastest * (total - run)


def open_board(path: str | None, clients: int) -> Board | None:
    """Open a run's board, or return None where it cannot be seen (another machine)."""
    if path is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        return Board(Path(path), clients)
    return None
