"""Checkpoints on their own: what is kept, what is found damaged, and what the lines become."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg

from fedsim import Strategy
from fedsim.engine.checkpoint import (
    LINES,
    Checkpoint,
    Checkpoints,
    Mark,
    lost_line,
    restore_strategy,
    strategy_state,
)
from fedsim.errors import InputError, RunError
from fedsim.folder.identity import new_identity, sealed
from fedsim.folder.runfolder import RunFolder, line_of
from fedsim.wire.flower import tensor_record

ROUNDS = 4


def new_folder(path: Path, seed: int = 0) -> RunFolder:
    """A run folder with nothing but its identity."""
    path.mkdir()
    folder = RunFolder(path)
    folder.write_text("scenario.yaml", f"name: {path.name}\n")
    about = {"scenario": "tiny", "seed": seed, "data": {}, "status": "running"}
    folder.write_json("run.json", sealed(about | new_identity(folder)))
    return folder


def checkpoint_of(number: int, marks: dict[str, Mark], lines: dict[str, str]) -> Checkpoint:
    return Checkpoint(
        round=number,
        arrays={"w": np.full(3, number, np.float32), "n": np.array(number)},
        selected=[{"w": np.zeros(3, np.float32)}],
        loop={"metrics": {"auc": None, "f1": 0.1}, "best": float("nan"), "failed": 0},
        strategy={"velocity": {"w": np.ones(3)}},
        contexts={0: RecordDict({"arrays": tensor_record({"w": np.ones(2)})}), 1: RecordDict()},
        ledger={"rounds": [[1, 2, 3]]},
        marks=marks,
        lines=lines,
        seconds=1.5,
    )


def lines_of(number: int) -> dict[str, str]:
    """What a round appends to each file."""
    return {name: line_of({"round": number, "what": f"{name} of {number}"}) for name in LINES}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder after four rounds, as the loop writes it."""
    found = new_folder(tmp_path / "one")
    go(found)
    return found


def go(folder: RunFolder, rounds: int = ROUNDS) -> None:
    checkpoints = Checkpoints(folder)
    for number in range(1, rounds + 1):
        marks, lines = checkpoints.marks(), lines_of(number)
        checkpoints.save(checkpoint_of(number, marks, lines))
        for name, text in lines.items():
            with (folder.path / name).open("a") as file:
                file.write(text)


def content(folder: RunFolder) -> dict[str, bytes]:
    return {name: (folder.path / name).read_bytes() for name in LINES}


def resumed(folder: RunFolder) -> tuple[int, list[str]]:
    """Take up the newest checkpoint, rewind to it; its round, and what was said."""
    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    found = checkpoints.latest()
    checkpoints.rewind(found)
    assert found is not None
    return found.round, said


def newest(folder: RunFolder, back: int = 0) -> Path:
    return sorted((folder.path / "checkpoint").glob("round-*"))[-1 - back]


def test_a_checkpoint_comes_back_to_the_bit(folder: RunFolder) -> None:
    found = Checkpoints(folder).latest()
    assert found is not None
    assert (found.round, found.seconds, found.privacy) == (4, 1.5, None)
    assert found.arrays["n"].shape == ()
    assert found.arrays["w"].dtype == np.float32
    assert list(found.contexts) == [0, 1]
    assert repr(found.loop) == "{'metrics': {'auc': None, 'f1': 0.1}, 'best': nan, 'failed': 0}"
    assert found.lines == lines_of(4)


def test_the_last_two_are_kept_and_no_file_of_others_is_touched(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "one")
    (folder.path / "checkpoint").mkdir()
    key = folder.path / "checkpoint" / "noise.key"
    key.write_bytes(bytes(32))
    checkpoints = Checkpoints(folder)
    checkpoints.save_reply(1, 0, RecordDict(), RecordDict())
    go(folder)
    names = {path.name for path in (folder.path / "checkpoint").iterdir()}
    assert names == {"round-000003.ckpt", "round-000004.ckpt", "noise.key"}


def test_lines_are_on_the_disk_before_the_checkpoint_that_counts_them(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    checkpoints = Checkpoints(folder)
    checkpoints.save(checkpoint_of(5, checkpoints.marks(), lines_of(5)))
    files = [re.sub(r"^\.(round-\d+\.ckpt)\..*", r"\1", name) for name in synced]
    assert files == [*LINES, "round-000005.ckpt", "checkpoint"]


@pytest.mark.parametrize("name", LINES)
def test_lines_of_a_round_that_is_not_finished_are_cut(folder: RunFolder, name: str) -> None:
    whole = content(folder)
    with (folder.path / name).open("a") as file:
        file.write('{"round": 5, "unfin')
    assert resumed(folder) == (4, [])
    assert content(folder) == whole


@pytest.mark.parametrize("name", LINES)
def test_a_file_of_lines_is_rebuilt_or_refused_never_padded(folder: RunFolder, name: str) -> None:
    whole = content(folder)
    path = folder.path / name
    ends = [len(b"".join(whole[name].splitlines(True)[:count])) for count in range(ROUNDS + 1)]
    for length in range(len(whole[name])):
        path.write_bytes(whole[name][:length])
        if length < ends[2]:  # The two checkpoints hold the lines of rounds 3 and 4.
            with pytest.raises(InputError, match="lines of finished rounds are lost") as caught:
                resumed(folder)
            assert [problem.where for problem in caught.value.problems] == [str(path)]
            assert path.read_bytes() == whole[name][:length], "a refusal changes nothing"
            path.write_bytes(whole[name])
            assert content(folder) == whole
        else:
            number, said = resumed(folder)
            assert number == 4
            assert len(said) == (length < ends[3])
            assert content(folder) == whole


@pytest.mark.parametrize("name", LINES)
def test_a_changed_byte_of_finished_lines_is_found(folder: RunFolder, name: str) -> None:
    whole = content(folder)
    path = folder.path / name
    length = len(whole[name])
    for place in range(0, length, 3):
        changed = bytearray(whole[name])
        changed[place] ^= 1
        path.write_bytes(changed)
        if place < length // 2:
            with pytest.raises(InputError, match=re.escape(str(path))):
                resumed(folder)
        else:
            resumed(folder)
            assert content(folder) == whole


@pytest.mark.parametrize("name", LINES)
def test_a_file_of_lines_that_is_gone_is_refused(folder: RunFolder, name: str) -> None:
    (folder.path / name).unlink()
    with pytest.raises(InputError, match=name):
        resumed(folder)
    assert not (folder.path / name).exists()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _delete(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _old(path: Path) -> None:
    path.write_bytes(newest_of_folder(path, 0).read_bytes())


def newest_of_folder(path: Path, place: int) -> Path:
    return sorted(path.parent.glob("round-*"))[place]


@pytest.mark.parametrize("damage", [_empty, _cut, _flip, _folder, _old])
def test_the_older_checkpoint_is_taken_and_said(
    folder: RunFolder, damage: Callable[[Path], None]
) -> None:
    whole = content(folder)
    damage(newest(folder))
    number, said = resumed(folder)
    assert number == 3
    (line,) = said
    assert line.startswith(str(newest(folder)))
    assert line.endswith("; going back to round 3")
    cut = {name: b"".join(data.splitlines(True)[:3]) for name, data in whole.items()}
    assert content(folder) == cut


def test_a_deleted_newest_checkpoint_is_the_older_one(folder: RunFolder) -> None:
    newest(folder).unlink()
    assert resumed(folder) == (3, [])


@pytest.mark.parametrize("damage", [_empty, _cut, _flip, _delete])
def test_without_a_whole_checkpoint_a_run_is_refused(
    folder: RunFolder, damage: Callable[[Path], None]
) -> None:
    whole = content(folder)
    paths = [newest(folder), newest(folder, 1)]
    for path in paths:
        damage(path)
    with pytest.raises(InputError, match="no checkpoint is left") as caught:
        resumed(folder)
    named = [problem.where for problem in caught.value.problems]
    assert named == ([str(paths[0].parent)] if damage is _delete else [str(p) for p in paths])
    assert content(folder) == whole


def test_before_the_first_round_there_is_none(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "one")
    folder.append("traffic.jsonl", {"round": 1})
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() is None
    checkpoints.rewind(None)
    assert (folder.path / "traffic.jsonl").read_bytes() == b""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_checkpoint_of_another_run_is_refused(
    folder: RunFolder, tmp_path: Path, seed: int
) -> None:
    other = new_folder(tmp_path / "two", seed)
    go(other)
    newest(folder).write_bytes(newest(other).read_bytes())
    with pytest.raises(InputError, match="not of one run") as caught:
        resumed(folder)
    (problem,) = caught.value.problems
    assert problem.where == str(newest(folder))
    assert ("seed" in problem.message) == (seed == 1)


def test_a_checkpoint_of_another_format_is_refused(folder: RunFolder) -> None:
    data = newest(folder).read_bytes()
    newest(folder).write_bytes(b"fedsim 3 " + data.split(b" ", 2)[2])
    with pytest.raises(InputError, match="of format 3; this fedsim reads format 2"):
        resumed(folder)


def reply(number: int) -> tuple[RecordDict, RecordDict]:
    content = RecordDict({"images": tensor_record({"images": np.full((2, 2), number, np.uint8)})})
    return content, RecordDict({"seen": ConfigRecord({"n": number})})


def test_replies_come_back_and_damaged_ones_are_asked_again(tmp_path: Path) -> None:
    folder, other = new_folder(tmp_path / "one"), new_folder(tmp_path / "two")
    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    for client in (0, 1):
        checkpoints.save_reply(1, client, *reply(client))
    assert checkpoints.reply(1, 2) is None
    found = checkpoints.reply(1, 1)
    assert found is not None
    assert repr(found[1]) == repr(reply(1)[1])
    assert found[0].array_records["images"]["images"].numpy().tolist() == [[1, 1], [1, 1]]

    first, second = sorted((folder.path / "checkpoint").iterdir())
    second.write_bytes(first.read_bytes())
    assert checkpoints.reply(1, 1) is None
    _cut(first)
    assert checkpoints.reply(1, 0) is None
    assert [line.partition(" ")[0] for line in said] == [f"{second}:", f"{first}:"]
    assert all(line.endswith("; the client is asked again") for line in said)

    Checkpoints(other).save_reply(1, 0, *reply(0))
    first.write_bytes((other.path / "checkpoint" / first.name).read_bytes())
    with pytest.raises(InputError, match="not of one run"):
        checkpoints.reply(1, 0)


# --- States of strategies ------------------------------------------------------------------------


class Remembers(Strategy):
    """Says what it is told to."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        raise NotImplementedError


def test_a_state_that_cannot_be_stored_is_an_error_that_names_the_key() -> None:
    with pytest.raises(RunError) as caught:
        strategy_state(Remembers({"velocity": {"w": {1, 2}}}))
    assert "strategy Remembers: state_dict()['velocity']['w'] is of type set" in str(caught.value)


class Odd(FedAvg):
    """A strategy of Flower's kind that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.count = {3: 1.5}
        self.record = tensor_record({"w": np.zeros(2)})
        self.log = logging.getLogger("odd")
        self.rule: Callable[[], int] = lambda: 1
        self.seen: set[int] = set()
        self.inner: FedAvg = FedAdam()
        self.me = self


def test_what_flowers_strategies_keep_is_stored_and_the_rest_is_named() -> None:
    strategy = Odd()
    assert isinstance(strategy.inner, FedAdam)
    strategy.inner.m_t = {"w": np.ones(3)}
    strategy.seen.add(1)
    state = strategy_state(strategy)
    assert lost_line(strategy, state) == (
        "checkpoints do not hold all of strategy Odd: seen (set) cannot be stored, and "
        "begins anew in a run that is resumed"
    )
    again = Odd()
    again.count, again.seen = {}, {5}
    restore_strategy(again, state)
    assert again.count == {3: 1.5}
    assert isinstance(again.inner, FedAdam)
    assert again.inner.m_t is not None
    assert again.inner.m_t["w"].tolist() == [1, 1, 1]
    assert again.seen == {5}
    assert again.rule() == 1
    assert lost_line(FedAdam(), strategy_state(FedAdam())) == ""
