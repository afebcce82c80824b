"""Checkpoints: enough to go on, to the same bits, after a kill at any moment.

A checkpoint is one file, written whole, after a round and before the round's lines; it holds these
lines itself. To resume is to cut the JSONL files back to what they were before that round, to
append the checkpoint's lines, and to go on with the next round. The last two are kept.

Where a strategy makes several exchanges a round there is one after each exchange, too, with the
lines since the checkpoint before. There, and in the one long round of one-shot methods, each
client's reply is stored on arrival, and a resumed run asks only the others.

Nothing is unpickled: the bytes are those of fedsim/folder/storing.py. Each file says which run it
is of.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.errors import InputError, Problem, RunError, problems_of
from fedsim.files import require_regular
from fedsim.folder.runfolder import RunFolder, write_whole
from fedsim.folder.storing import (
    DamagedError,
    OtherFormatError,
    UnstorableError,
    decode,
    encoded,
    require_storable,
)
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.strategy import Strategy
from fedsim.scenario.parameters import shown
from fedsim.wire import flower

LINES = ("rounds.jsonl", "traffic.jsonl", "privacy.jsonl")
"""The files that grow by lines, and are cut back on resume."""

SUFFIX = ".ckpt"
_KEPT = 2
_IDENTITY = ("run_id", "seed", "scenario_sha256")
# Made anew, by the same code, with the strategy itself.
_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    functools.partial,
    logging.Logger,
)


@dataclass(frozen=True)
class Mark:
    """What a file of lines was at some moment: its bytes, and their SHA-256."""

    length: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a round, or between two exchanges of the next one.

    Attributes:
        round: the last finished round.
        exchange: number of the exchange that comes next in the round after it.
        so_far: what that round has come to, see `fedsim.method.exchanges.RoundSoFar`; None before
            its first exchange.
        arrays: the global arrays.
        selected: the models that the scenario's rule chose so far.
        loop: what the loop remembers besides (metrics of `selected`, the best validation score).
        strategy: the strategy's state, see `strategy_state`.
        contexts: the states of the clients that keep something, by client number: who never joined
            takes no room.
        ledger: the traffic ledger's state.
        privacy: the privacy ledger's state; None without one.
        marks: each file of lines at the checkpoint before.
        lines: the text that was appended to each since.
        seconds: time spent on the run so far.
    """

    round: int
    arrays: dict[str, np.ndarray]
    selected: list[dict[str, np.ndarray]]
    loop: dict[str, Any]
    strategy: dict[str, Any]
    contexts: dict[int, RecordDict]
    ledger: dict[str, Any]
    marks: dict[str, Mark]
    lines: dict[str, str]
    seconds: float
    privacy: dict[str, Any] | None = None
    exchange: int = 0
    so_far: dict[str, Any] | None = None

    @property
    def moment(self) -> tuple[int, int]:
        """When it was made: orders checkpoints."""
        return self.round, self.exchange

    @property
    def name(self) -> str:
        """Its file, without the suffix; names are in the order of moments."""
        between = f"+{self.exchange:03d}" if self.exchange else ""
        return f"round-{self.round:06d}{between}"

    @property
    def words(self) -> str:
        """When it was made, for a person."""
        if not self.exchange:
            return f"round {self.round}"
        return f"exchange {self.exchange - 1} of round {self.round + 1}"


def arrays_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The record's arrays, read-only, as a checkpoint holds them."""
    return flower.tensors(record)


def strategy_state(
    strategy: FlowerStrategy, _around: tuple[FlowerStrategy, ...] = ()
) -> dict[str, Any]:
    """A strategy's state: what it says itself or, of a foreign one, what can be stored of it.

    Of a foreign strategy these are the attributes that are `fedsim.folder.storing.STORABLE`, and
    the state of strategies that it wraps. Code (functions, classes) is made anew with the strategy.
    The attributes that are none of these are named in `lost`, with their types.

    Raises:
        RunError: a fedsim strategy's `state_dict` holds what cannot be stored.
    """
    name = type(strategy).__name__
    if isinstance(strategy, Strategy):
        state = dict(strategy.state_dict())
        try:
            require_storable(state, "state_dict()")
        except UnstorableError as error:
            raise RunError(f"strategy {name}: {error}") from error
        return state
    kept: dict[str, Any] = {}
    wrapped: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for attribute, value in vars(strategy).items():
        if isinstance(value, FlowerStrategy):
            if any(value is one for one in (*_around, strategy)):
                continue
            wrapped[attribute] = strategy_state(value, (*_around, strategy))
            inner = {} if isinstance(value, Strategy) else wrapped[attribute]["lost"]
            lost |= {f"{attribute}.{one}": kind for one, kind in inner.items()}
        elif not isinstance(value, _CODE):
            try:
                require_storable(value, attribute)
                kept[attribute] = value
            except UnstorableError:
                lost[attribute] = type(value).__name__
    return {"kept": kept, "wrapped": wrapped, "lost": lost}


def lost_line(strategy: FlowerStrategy, state: Mapping[str, Any]) -> str:
    """What of a foreign strategy a resumed run begins anew, in a line; "" where it is nothing."""
    if isinstance(strategy, Strategy) or not state["lost"]:
        return ""
    names = ", ".join(f"{name} ({kind})" for name, kind in state["lost"].items())
    return (
        f"checkpoints do not hold all of strategy {type(strategy).__name__}: {names} cannot be "
        "stored, and begins anew in a run that is resumed"
    )


def restore_strategy(strategy: FlowerStrategy, state: Mapping[str, Any]) -> None:
    """Give a strategy its state back."""
    if isinstance(strategy, Strategy):
        strategy.load_state_dict(dict(state))
        return
    vars(strategy).update(state["kept"])
    for attribute, inner in state["wrapped"].items():
        restore_strategy(vars(strategy)[attribute], inner)


@dataclass
class _Watched:
    """A file of lines as far as it has been read, to take its mark without reading it again."""

    length: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def read(self, path: Path) -> Mark:
        """Read what has been appended, wait until it is on the disk, and mark the whole."""
        if path.exists():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
                file.seek(self.length)
                while block := file.read(1 << 20):
                    self.digest.update(block)
                    self.length += len(block)
        return Mark(self.length, self.digest.hexdigest())


class Checkpoints:
    """The `checkpoint/` folder of a run.

    Args:
        folder: the run folder; run.json is in it.
        say: prints a line.
    """

    def __init__(self, folder: RunFolder, say: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._say = folder, say
        self._path = folder.path / "checkpoint"
        self._watched = {name: _Watched() for name in LINES}
        self._identity: dict[str, Any] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove all but the last two and the replies it contains."""
        values = vars(checkpoint) | {
            "marks": {name: [m.length, m.sha256] for name, m in checkpoint.marks.items()}
        }
        self._write(self._path / f"{checkpoint.name}{SUFFIX}", values)
        for old in self._rounds()[:-_KEPT]:
            old.unlink()
        for reply in self._path.glob(f"reply-*{SUFFIX}"):
            reply.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None before the first round's end.

        Raises:
            InputError: there were checkpoints, and none is left that can be used; or one is of
                another run or version.
        """
        damaged: list[Problem] = []
        for path in reversed(self._rounds()):
            found = self._read_round(path, damaged)
            if found is not None:
                for problem in damaged:
                    self._say(f"{problem}; going back to {found.words}")
                return found
        rounds = self._folder.path / LINES[0]
        if not damaged and rounds.exists() and rounds.stat().st_size:
            what = f"holds no checkpoint although {rounds.name} has the lines of finished rounds"
            damaged = [Problem(str(self._path), what)]
        if damaged:
            raise self._refusal("no checkpoint is left to go on from", damaged)
        return None

    def problems(self) -> list[Problem]:
        """Why a run cannot go on from here; nothing where it can."""
        try:
            self._rewound(self.latest())
        except InputError as error:
            return problems_of(error)
        return []

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Bring the files of lines to the checkpoint's state (empty without one).

        A file that lost lines gets them back from the checkpoint before, if that has them.

        Raises:
            InputError: a file is short or damaged further back; then nothing is changed.
        """
        whole = self._rewound(checkpoint)
        self._drop_replies(checkpoint)
        for name in LINES:
            path = self._folder.path / name
            if path.exists() or whole.get(name):
                write_whole(path, whole.get(name, b""))
            self._watched[name] = _Watched()

    def _drop_replies(self, checkpoint: Checkpoint | None) -> None:
        """Remove replies that the checkpoint contains: a kill came before they were removed."""
        done = checkpoint.moment if checkpoint else (0, 0)
        for path in self._path.glob(f"reply-*{SUFFIX}"):
            number, _, *further = path.name.removesuffix(SUFFIX).split("-")[1:]
            if (int(number) - 1, int(further[0]) if further else 0) < done:
                path.unlink()

    def _rewound(self, checkpoint: Checkpoint | None) -> dict[str, bytes]:
        """What the files of lines become; InputError where lines are lost."""
        whole: dict[str, bytes] = {}
        problems: list[Problem] = []
        for name in LINES if checkpoint else ():
            assert checkpoint is not None
            before = self._lines_before(name, checkpoint)
            if before is None:
                what = f"is short or was changed before {checkpoint.words}"
                problems.append(Problem(str(self._folder.path / name), what))
            else:
                whole[name] = before + checkpoint.lines.get(name, "").encode()
        if problems:
            raise self._refusal("lines of finished rounds are lost", problems)
        return whole

    def marks(self) -> dict[str, Mark]:
        """What each file of lines is now; all of it is on the disk."""
        return {name: self._watched[name].read(self._folder.path / name) for name in LINES}

    def save_reply(
        self, round: int, client: int, content: RecordDict, state: RecordDict, exchange: int = 0
    ) -> None:
        """Store a client's reply and state as it arrives."""
        values = {"round": round, "client": client, "content": content, "state": state}
        values["exchange"] = exchange
        self._write(self._reply(round, client, exchange), values)

    def reply(
        self, round: int, client: int, exchange: int = 0
    ) -> tuple[RecordDict, RecordDict] | None:
        """The stored reply and state of a client; None where there is none, or it is damaged.

        Raises:
            InputError: it is another run's, or of another version.
        """
        path = self._reply(round, client, exchange)
        if not path.exists():
            return None
        damaged: list[Problem] = []
        values = self._read(path, damaged)
        wanted = (round, client, exchange)
        if values is not None and wanted != (
            values.get("round"),
            values.get("client"),
            values.get("exchange", 0),
        ):
            damaged.append(Problem(str(path), "is the reply of another client or round"))
        if values is None or damaged:
            self._say(f"{damaged[0]}; the client is asked again")
            return None
        return values["content"], values["state"]

    def _lines_before(self, name: str, checkpoint: Checkpoint) -> bytes | None:
        """The bytes of a file before the checkpoint's round; None where they are lost."""
        path = self._folder.path / name
        data = path.read_bytes() if path.is_file() else b""
        wanted = checkpoint.marks[name]
        if _marked(data[: wanted.length]) == wanted:
            return data[: wanted.length]
        for older in self._rounds():
            found = self._read_round(older, [])
            if found is not None and found.moment < checkpoint.moment:
                mark = found.marks[name]
                rebuilt = data[: mark.length] + found.lines.get(name, "").encode()
                if _marked(data[: mark.length]) == mark and _marked(rebuilt) == wanted:
                    self._say(f"{path}: lines were lost or changed; rebuilt from {older.name}")
                    return rebuilt
        return None

    def _read_round(self, path: Path, damaged: list[Problem]) -> Checkpoint | None:
        """A checkpoint; None, and a problem more, where it is damaged."""
        values = self._read(path, damaged)
        if values is None:
            return None
        try:
            marks = {name: Mark(*values["marks"][name]) for name in LINES}
            found = Checkpoint(**{**values, "marks": marks})
            _require_kinds(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            damaged.append(Problem(str(path), f"is not a checkpoint of this fedsim: {error}"))
            return None
        if self._path / f"{found.name}{SUFFIX}" != path:
            damaged.append(Problem(str(path), f"is the checkpoint of {found.words}"))
            return None
        return found

    def _read(self, path: Path, damaged: list[Problem]) -> dict[str, Any] | None:
        """What a file of this run holds; None, and a problem more, where it is damaged."""
        try:
            require_regular(path)
            values = decode(path.read_bytes())
            if not isinstance(values, dict) or not isinstance(values.get("identity"), dict):
                raise DamagedError("is not of a run")
        except OtherFormatError as error:
            problem = Problem(str(path), str(error))
            raise self._refusal("its checkpoints are another fedsim's", [problem]) from error
        except (OSError, DamagedError) as error:
            damaged.append(Problem(str(path), str(error)))
            return None
        own, theirs = self._own_identity(), values.pop("identity")
        wrong = [key for key in _IDENTITY if own[key] != theirs.get(key)]
        if wrong:
            what = f"is of another run than run.json ({', '.join(wrong)})"
            raise self._refusal("its files are not of one run", [Problem(str(path), what)])
        return values

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        try:
            parts = encoded({"identity": self._own_identity(), **values}, path.name)
        except UnstorableError as error:
            raise RunError(f"the state of the run cannot be stored: {error}") from error
        write_whole(path, *parts)

    def _own_identity(self) -> dict[str, Any]:
        if self._identity is None:
            record = self._folder.read_json("run.json")
            self._identity = {key: record.get(key) for key in _IDENTITY}
        return self._identity

    def _refusal(self, why: str, problems: list[Problem]) -> InputError:
        scenario = self._folder.path / "scenario.yaml"
        return InputError(
            f"{self._folder.path} cannot go on: {why}",
            problems,
            hint=f"to start again, type: fedsim run {scenario} "
            f"--seed {self._own_identity().get('seed')}",
        )

    def _reply(self, round: int, client: int, exchange: int) -> Path:
        further = f"-{exchange:03d}" if exchange else ""
        return self._path / f"reply-{round:06d}-{client:06d}{further}{SUFFIX}"

    def _rounds(self) -> list[Path]:
        found = self._path.glob(f"round-*{SUFFIX}")
        return sorted(found, key=lambda path: path.name.removesuffix(SUFFIX))


def _marked(data: bytes) -> Mark:
    return Mark(len(data), hashlib.sha256(data).hexdigest())


def _require_kinds(found: Checkpoint) -> None:
    """Raise TypeError or ValueError where a checkpoint's parts are not of the kinds written.

    What its checksum finds is damage; this is what a stranger made. Whether the arrays fit the
    model is for who builds it.
    """
    of_arrays = [found.arrays, *found.selected]
    values = [value for arrays in of_arrays for value in arrays.values()]
    kinds: list[tuple[Any, type]] = [
        (found.round, int),
        (found.exchange, int),
        (found.so_far or {}, dict),
        (found.seconds, float),
        (found.strategy, dict),
        (found.loop["metrics"], dict),
        (found.loop["failed"], int),
        *((value, np.ndarray) for value in values),
        *((state, RecordDict) for state in found.contexts.values()),
        *((mark.length, int) for mark in found.marks.values()),
        *((found.lines.get(name, ""), str) for name in LINES),
    ]
    wrong = [shown(value) for value, kind in kinds if not isinstance(value, kind)]
    if wrong or "best" not in found.loop or not math.isfinite(found.seconds):
        raise TypeError(f"it holds {wrong[0] if wrong else 'no times or scores'} in a wrong place")
    TrafficLedger().load_state_dict(found.ledger)
