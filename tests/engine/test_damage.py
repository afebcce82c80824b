"""Damaged, edited and foreign files of run folders: found, named, left out, and exit code 2."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.folder.identity import results, sealed
from fedsim.folder.runfolder import RunFolder
from fedsim.folder.storing import decode, encode
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.engine.test_bits import assert_same

QUIET = Console(quiet=True)
RESULTS = (
    *("run.json", "scenario.yaml", "rounds.jsonl", "traffic.jsonl", "summary.json"),
    *("model.safetensors", "predictions.npz"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """Two finished runs, of the seeds 0 and 1."""
    base = tmp_path_factory.mktemp("base")
    (base / "tiny.yaml").write_text(TINY)
    one, two = (run(base / "tiny.yaml", "rounds=3", seed=k, runs=base / "runs") for k in (0, 1))
    return one, two


@pytest.fixture
def pair(runs: tuple[Result, Result], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to be damaged."""
    folders = [tmp_path / "runs" / "tiny" / f"seed{k}" for k in (0, 1)]
    for result, folder in zip(runs, folders, strict=True):
        shutil.copytree(result.folder, folder)
    return folders[0], folders[1]


def set_status(folder: Path, status: str) -> None:
    """What a kill, or an interruption, leaves in run.json."""
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": status, "finished": None}))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit())
    data[place] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


def pad(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(100))


DAMAGE = (empty, cut, flip, delete, pad)


def refused(words: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with 2 and name the file; what it printed."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert str(path) in err
    assert "fault in fedsim" not in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 40
    return out


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", RESULTS)
def test_every_verb_names_the_file_and_goes_on_with_the_other_run(
    name: str,
    damage: Callable[[Path], None],
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = pair
    damage(one / name)
    base = str(one.parent)
    shutil.rmtree(two / "report")
    assert "tiny" in refused(["compare", base], one / name, capsys)
    refused(["report", base], one / name, capsys)
    assert (two / "report" / "index.html").is_file()
    out = refused(["clean", base], one / name, capsys)
    assert "1 removed" in out
    assert (one / "checkpoint").is_dir()
    assert not (two / "checkpoint").exists()
    refused(["run", "--resume", str(one)], one if damage is delete else one / name, capsys)
    if name in ("run.json", "scenario.yaml"):
        refused(["audit", str(one)], one if damage is delete else one / name, capsys)


@pytest.mark.parametrize("name", ["summary.json", "rounds.jsonl", "scenario.yaml", "run.json"])
def test_a_sweep_names_damaged_runs_and_runs_their_cells_again(
    name: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["sweep", str(tmp_path / "tiny.yaml"), "rounds=3", "--seeds", "0", "1"]
    words += ["--runs", str(tmp_path / "runs"), "--dry-run"]
    assert main(words) == 0
    assert "2 cells: 2 finished" in capsys.readouterr().out
    flip(one / name)
    assert "2 cells: 1 finished, 0 to go on with, 0 in" in refused(words, one / name, capsys)


def test_a_sweep_does_not_go_on_with_what_cannot(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = pair
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["sweep", str(tmp_path / "tiny.yaml"), "rounds=3", "--seeds", "0", "1"]
    words += ["--runs", str(tmp_path / "runs"), "--dry-run"]
    set_status(one, "interrupted")
    set_status(two, "interrupted")
    assert main(words) == 0
    assert "2 to go on with" in capsys.readouterr().out
    for path in (one / "checkpoint").iterdir():
        cut(path)
    old = json.loads((two / "run.json").read_text())
    (two / "run.json").write_text(json.dumps({k: v for k, v in old.items() if k != "digest"}))
    out = refused(words, one / "checkpoint" / "round-000003.ckpt", capsys)
    assert "its checkpoints are damaged" in out
    assert f"an older fedsim began {two}, which cannot go on" in out
    assert "0 to go on with" in out


# --- Resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [empty, cut, flip, delete])
def test_a_damaged_newest_checkpoint_costs_a_round_and_no_bit(
    damage: Callable[[Path], None],
    runs: tuple[Result, Result],
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, _ = pair
    newest = one / "checkpoint" / "round-000003.ckpt"
    damage(newest)
    set_status(one, "running")
    capsys.readouterr()
    assert main(["run", "--resume", str(one)]) == 0
    out = capsys.readouterr().out
    assert (str(newest) in out and "going back to round 2" in out) == (damage is not delete)
    assert "resumed after round 2 of 3" in out
    again = resume(one, [], QUIET)
    assert_same(runs[0], again)


@pytest.mark.parametrize("length", [0, 1, 500])
@pytest.mark.parametrize("name", ["rounds.jsonl", "traffic.jsonl"])
def test_a_short_file_of_lines_is_refused_and_nothing_is_changed(
    name: str, length: int, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    set_status(one, "interrupted")
    (one / name).write_bytes((one / name).read_bytes()[:length])
    before = {p.name: p.read_bytes() for p in one.iterdir() if p.is_file() and p.suffix != ".html"}
    refused(["run", "--resume", str(one)], one / name, capsys)
    after = {p.name: p.read_bytes() for p in one.iterdir() if p.is_file() and p.suffix != ".html"}
    assert json.loads(after.pop("run.json"))["status"] == "interrupted"
    before.pop("run.json")
    assert after == before


def test_lines_that_a_checkpoint_holds_are_rebuilt(
    runs: tuple[Result, Result], pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    set_status(one, "running")
    lines = (one / "traffic.jsonl").read_bytes().splitlines(True)
    kept = sum(json.loads(line)["round"] < 2 for line in lines)
    (one / "traffic.jsonl").write_bytes(b"".join(lines[: kept + 1]))
    assert main(["run", "--resume", str(one)]) == 0
    assert "rebuilt from round-000002.ckpt" in capsys.readouterr().out
    assert_same(runs[0], resume(one, [], QUIET))


@pytest.mark.parametrize(
    "names",
    [
        ("scenario.yaml",),
        ("run.json",),
        ("run.json", "scenario.yaml"),
        ("checkpoint/round-000003.ckpt",),
        ("checkpoint/round-000003.ckpt", "checkpoint/round-000002.ckpt"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("checkpoints", [True, False])
def test_files_of_another_run_are_refused(
    names: tuple[str, ...],
    checkpoints: bool,
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = pair
    (two / "scenario.yaml").write_text(
        (two / "scenario.yaml").read_text().replace("batch_size: 16", "batch_size: 8")
    )
    for folder in pair:
        set_status(folder, "interrupted")
    if not checkpoints and "checkpoint" not in names[0]:
        for path in (one / "checkpoint").iterdir():
            path.unlink()
    for name in names:
        shutil.copy(two / name, one / name)
    capsys.readouterr()
    assert main(["run", "--resume", str(one)]) == 2
    err = capsys.readouterr().err
    assert any(str(one / name) in err for name in (*names, "scenario.yaml", "checkpoint"))
    assert json.loads((one / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1), ("started", "2020-01-01"), ("run_id", "0" * 32), ("versions", {})],
)
@pytest.mark.parametrize("status", ["interrupted", "done"])
def test_an_edited_run_json_is_refused(
    key: str,
    value: object,
    status: str,
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, _ = pair
    record = json.loads((one / "run.json").read_text())
    (one / "run.json").write_text(json.dumps(record | {key: value, "status": status}))
    refused(["run", "--resume", str(one)], one / "run.json", capsys)


def test_a_model_that_the_checkpoint_is_not_of_is_refused(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    set_status(one, "interrupted")
    from fedsim.engine import scoring

    build = scoring.build_model

    def other(scenario: object, task: object) -> object:
        wider = scenario.model_copy(  # type: ignore[attr-defined]
            update={"model": scenario.model.model_copy(update={"width": 16})}  # type: ignore[attr-defined]
        )
        return build(wider, task)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "build_model", other)
    with pytest.raises(InputError, match="the checkpoint of round 3 is not of this run's model"):
        resume(one, [], QUIET)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("older", [True, False])
def test_pickles_in_a_run_folder_are_never_executed(
    older: bool, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    set_status(one, "interrupted")
    for path in list((one / "checkpoint").iterdir()):
        path.write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
        if older:
            path.rename(path.with_suffix(".pkl"))
    if older:
        record = json.loads((one / "run.json").read_text())
        for key in ("run_id", "scenario_sha256", "digest", "files"):
            del record[key]
        (one / "run.json").write_text(json.dumps(record))
    assert main(["run", "--resume", str(one)]) == 2
    assert not (tmp_path / "executed").exists()
    err = capsys.readouterr().err
    assert ("an older fedsim began it, whose checkpoints were pickles" in err) == older
    if older:  # What it left can still be read.
        record["status"] = "done"
        (one / "run.json").write_text(json.dumps(record))
        for words in (["compare", str(one)], ["report", str(one)], ["run", "--resume", str(one)]):
            assert main(words) == 0


def reseal(folder: Path, **changes: object) -> None:
    """Make the digests hold again, as who forges a run folder can."""
    record = json.loads((folder / "run.json").read_text())
    del record["digest"]
    record |= {"files": results(RunFolder(folder))} | changes
    (folder / "run.json").write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize("value", [10**400, "0.9", [1]])
def test_a_forged_metric_that_is_no_number_is_damage(
    value: object, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    summary = json.loads((one / "summary.json").read_text())
    summary["metrics"]["auc"] = value
    (one / "summary.json").write_text(json.dumps(summary))
    reseal(one)
    assert "tiny" in refused(["compare", str(one.parent)], one / "summary.json", capsys)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("kind", [pipe, device, folder_there])
@pytest.mark.parametrize("name", RESULTS[2:])
def test_what_is_no_file_is_named_and_never_waited_for(
    name: str,
    kind: Callable[[Path], None],
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, _ = pair
    kind(one / name)
    refused(["compare", str(one.parent)], one / name, capsys)
    refused(["report", str(one)], one / name, capsys)
    refused(["clean", str(one)], one / name, capsys)
    refused(["run", "--resume", str(one)], one / name, capsys)


@pytest.mark.parametrize(
    "name", ["rounds.jsonl", "checkpoint/round-000003.ckpt", "summary.json", "new"]
)
def test_a_pipe_in_an_unfinished_run_is_refused(
    name: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    set_status(one, "interrupted")
    (one / "new").touch()
    pipe(one / name)
    refused(["run", "--resume", str(one)], one / name, capsys)
    if name == "checkpoint/round-000003.ckpt":
        (tmp_path / "tiny.yaml").write_text(TINY)
        words = [str(tmp_path / "tiny.yaml"), "rounds=3", "--runs", str(tmp_path / "runs")]
        assert main(["sweep", *words, "--dry-run"]) in (0, 2)


def test_a_file_where_a_folder_belongs_is_named(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    shutil.rmtree(one / "report")
    (one / "report").touch()
    refused(["report", str(one)], one / "report", capsys)


@pytest.mark.parametrize("files", [{"/dev/zero": "0"}, {"../../x": "0"}, {"a\0": "0"}, [1], None])
def test_results_have_the_names_that_runs_give_them(
    files: object, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    reseal(one, files=files)
    for words in (["compare"], ["report"], ["clean"], ["run", "--resume"], ["audit"]):
        refused([*words, str(one)], one / "run.json", capsys)


def entry(array: object, dtype: object = None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, dtype))
    return buffer.getvalue()


HUGE = entry([0]).replace(b"(1,), }" + 11 * b" ", b"(1000000000000,), }")[:128]
ARCHIVES = {
    "objects": {"labels": entry([{}], object)},
    "huge": {"labels": HUGE},
    "text": {"probabilities": entry([[["a", "b"]]])},
    "complex": {"probabilities": entry([[[1j, 0]]])},
    "void": {"probabilities": entry(np.zeros((1, 1, 2), "V4"))},
    "times": {"labels": entry([0], "M8[s]")},
    "no header": {"labels": b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000},
}


@pytest.mark.parametrize("what", [*ARCHIVES, "an array", "encrypted", "unknown method"])
def test_predictions_that_no_run_writes_are_named(
    what: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    path = one / "predictions.npz"
    good = {"labels": entry([0]), "records": entry([0]), "probabilities": entry([[[0.5, 0.5]]])}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (good | ARCHIVES.get(what, {})).items():
            archive.writestr(f"{name}.npy", content)
    data = bytearray(path.read_bytes())
    if what == "an array":
        data = bytearray(entry([1, 2]))
    elif what in ("encrypted", "unknown method"):
        # Bit 0 of the flags, and the method, of the first local and the first central header.
        local, central, value = (6, 8, 1) if what == "encrypted" else (8, 10, 99)
        data[local] = data[data.find(b"PK\x01\x02") + central] = value
    path.write_bytes(data)
    reseal(one)
    refused(["compare", str(one)], one, capsys)
    refused(["report", str(one)], path, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"round": "x"},
        {"arrays": None},
        {"arrays": {"a": 1}},
        {"selected": 5},
        {"loop": None},
        {"loop": {}},
        {"strategy": [1]},
        {"contexts": {0: 1}},
        {"ledger": None},
        {"ledger": {"rounds": "x"}},
        {"lines": 5},
        {"lines": {"rounds.jsonl": 7}},
        {"marks": {"rounds.jsonl": ["x", "x"]}},
        {"seconds": "x"},
        {"seconds": float("nan")},
    ],
)
def test_a_checkpoint_of_other_kinds_is_named(
    change: dict[str, object], pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = pair
    set_status(one, "interrupted")
    paths = sorted((one / "checkpoint").glob("*.ckpt"))
    for path in paths:
        values = decode(path.read_bytes())
        marks = values["marks"] | change.get("marks", {})  # type: ignore[operator]
        path.write_bytes(encode(values | change | {"marks": marks}))
    refused(["run", "--resume", str(one)], paths[-1], capsys)


def test_a_full_disk_is_told_in_a_line(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    set_status(one, "interrupted")
    monkeypatch.setattr("os.fsync", full)
    assert main(["report", str(one)]) == 1
    told = capsys.readouterr().err
    assert told.endswith("partition.png: No space left on device\n")
    assert len(told.splitlines()) == 1
