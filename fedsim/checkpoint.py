"""Checkpoints: enough to go on, to the same bits, after a kill at any moment.

A checkpoint is one file, written whole, after a round and before the round's lines; it holds these
lines itself. To resume is to cut the JSONL files back to the length they had before that round,
to append the checkpoint's lines, and to go on with the next round. The last two are kept.

One-shot methods have one long round: there each client's reply is stored on arrival, and a resumed
run asks only the others.

Checkpoints are pickles: resuming a stranger's run folder runs that stranger's code, as running
their scenario does.
"""

from __future__ import annotations

import contextlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import flower
from fedsim.runfolder import RunFolder, write_whole
from fedsim.strategy import Strategy

LINES = ("rounds.jsonl", "traffic.jsonl", "privacy.jsonl")
"""The files that grow by lines, and are cut back on resume."""
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a round.

    Attributes:
        round: the last finished round.
        arrays: the global arrays.
        selected: the models that the scenario's rule chose so far.
        loop: what the loop remembers besides (metrics of `selected`, the best validation score).
        strategy: the strategy's state.
        contexts: the clients' states, by client number.
        ledger: the traffic ledger's state.
        privacy: the privacy ledger's state; None without one.
        lengths: bytes of each file of lines before the round.
        lines: the round's own lines, by file.
        seconds: time spent on the run so far.
    """

    round: int
    arrays: dict[str, np.ndarray]
    selected: list[dict[str, np.ndarray]]
    loop: dict[str, Any]
    strategy: dict[str, Any]
    contexts: dict[int, RecordDict]
    ledger: dict[str, Any]
    lengths: dict[str, int]
    lines: dict[str, list[dict[str, Any]]]
    seconds: float
    privacy: dict[str, Any] | None = None


def arrays_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The record's arrays, copied, as a checkpoint holds them."""
    return {name: np.array(value) for name, value in flower.tensors(record).items()}


def strategy_state(strategy: FlowerStrategy) -> dict[str, Any]:
    """A strategy's state: what it says itself or, of a foreign one, the attributes that pickle."""
    if isinstance(strategy, Strategy):
        return dict(strategy.state_dict())
    state = {}
    for name, value in vars(strategy).items():
        with contextlib.suppress(Exception):
            pickle.dumps(value)
            state[name] = value
    return state


def restore_strategy(strategy: FlowerStrategy, state: dict[str, Any]) -> None:
    """Give a strategy its state back."""
    if isinstance(strategy, Strategy):
        strategy.load_state_dict(state)
    else:
        vars(strategy).update(state)


class Checkpoints:
    """The `checkpoint/` folder of a run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.path / "checkpoint"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove all but the last two and the replies it contains."""
        write_whole(self._path / f"round-{checkpoint.round:06d}.pkl", pickle.dumps(checkpoint))
        for old in self._rounds()[:-_KEPT]:
            old.unlink()
        for reply in self._path.glob("reply-*.pkl"):
            reply.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None before the first round's end."""
        paths = self._rounds()
        if not paths:
            return None
        found = pickle.loads(paths[-1].read_bytes())
        assert isinstance(found, Checkpoint)
        return found

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Bring the files of lines to the checkpoint's state (empty without one)."""
        for name in LINES:
            path = self._folder.path / name
            length = checkpoint.lengths.get(name, 0) if checkpoint else 0
            if path.exists():
                with path.open("r+b") as file:
                    file.truncate(length)
            for line in checkpoint.lines.get(name, ()) if checkpoint else ():
                self._folder.append(name, line)

    def lengths(self) -> dict[str, int]:
        """Bytes of each file of lines now."""
        sizes = {}
        for name in LINES:
            with contextlib.suppress(FileNotFoundError):
                sizes[name] = (self._folder.path / name).stat().st_size
        return {name: sizes.get(name, 0) for name in LINES}

    def save_reply(self, round: int, client: int, content: RecordDict, state: RecordDict) -> None:
        """Store a one-shot client's reply and state as it arrives."""
        data = pickle.dumps((content, state), protocol=5)
        write_whole(self._reply(round, client), data)

    def reply(self, round: int, client: int) -> tuple[RecordDict, RecordDict] | None:
        """The stored reply and state of a client, or None."""
        path = self._reply(round, client)
        if not path.exists():
            return None
        content, state = pickle.loads(path.read_bytes())
        return content, state

    def _reply(self, round: int, client: int) -> Path:
        return self._path / f"reply-{round:06d}-{client:06d}.pkl"

    def _rounds(self) -> list[Path]:
        return sorted(self._path.glob("round-*.pkl"))
