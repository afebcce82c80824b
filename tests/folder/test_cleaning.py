"""`fedsim clean`: what it removes, and what it never touches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsim import Result, run
from fedsim.api import resume
from fedsim.cli import main
from fedsim.folder.runfolder import RunFolder
from fedsim.locks import held
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Typed:
    """Types a command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


def folder(path: str, status: str) -> Path:
    """A run folder with 3,000 bytes of checkpoint, and results."""
    run = Path(path)
    (run / "checkpoint").mkdir(parents=True)
    for name in ("round-000001.ckpt", "reply-000002-000000.pkl", ".round-000002.ckpt.x8f3"):
        (run / "checkpoint" / name).write_bytes(bytes(1000))
    (run / "scenario.yaml").write_text("name: x\n")
    (run / "run.json").write_text(json.dumps({"status": status, "seed": 0}))
    (run / "model.safetensors").write_bytes(bytes(10))
    return run


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def store(path: str) -> Path:
    place = Path(path)
    place.mkdir(parents=True)
    np.save(place / "images.npy", np.zeros((5, 8, 8, 3), np.uint8))
    (place / "store.json").write_text("{}")
    return place


def test_only_checkpoints_of_finished_runs_are_removed(typed: Typed) -> None:
    done, cut = folder("runs/a/1", "done"), folder("runs/a/2", "interrupted")
    others = [folder("runs/b/3", "failed"), folder("runs/b/4", "running")]
    prepared = store("cache/skin-32-abc")
    before = {run: files(run) for run in (done, cut, *others, prepared)}
    code, out, _ = typed("clean", "--dry-run")
    assert code == 0
    assert "1 to remove, 0.003 MB would be freed" in out
    assert files(done) == before[done]

    code, out, _ = typed("clean", "--yes")
    assert code == 0
    assert "0.003 MB  runs/a/1/checkpoint (checkpoint of a run, done): removed" in out
    assert "1 removed, 0.003 MB freed" in out
    assert out.count("kept: resuming needs it") == 3
    assert "MB of prepared data" in out
    assert files(done) == {name for name in before[done] if not name.startswith("checkpoint")}
    for place in (cut, *others, prepared):
        assert files(place) == before[place]


def test_the_history_of_a_finished_run_goes_with_its_checkpoint(typed: Typed) -> None:
    for name, status in (("done", "done"), ("cut", "interrupted")):
        run = folder(f"runs/x/{name}", status)
        inner = run / "history" / "round-000001"
        inner.mkdir(parents=True)
        (inner / "000-norms.safetensors").write_bytes(bytes(500))
        (inner / "000-000001.safetensors").write_bytes(bytes(500))
    (run / "history" / "notes.txt").write_text("mine")
    away = Path("elsewhere")
    away.mkdir()
    (away / "000-norms.safetensors").write_bytes(bytes(500))
    (Path("runs/x/done/history") / "round-000002").symlink_to(away.resolve())
    code, out, _ = typed("clean")
    assert code == 0
    assert "history of a run, done): removed" in out
    assert "history of a run, interrupted): kept" in out
    assert not Path("runs/x/done/history/round-000001").exists()
    assert (away / "000-norms.safetensors").exists()
    assert (inner / "000-norms.safetensors").exists()
    assert typed("clean", "runs/x/cut", "--yes")[0] == 0
    assert [path.name for path in (run / "history").rglob("*")] == ["notes.txt"]


def test_an_unfinished_run_goes_only_when_it_is_named_and_meant(typed: Typed) -> None:
    cut = folder("runs/a/2", "interrupted")
    Path("runs/a/latest").symlink_to("2")
    before = files(cut)
    assert typed("clean", str(cut))[0] == 0
    assert typed("clean", "runs/a", "--yes")[0] == 0
    assert files(cut) == before
    with held(cut) as mine:
        assert mine
        assert "kept: it is running" in typed("clean", str(cut), "--yes")[1]
        assert files(cut) == before
    code, out, _ = typed("clean", "runs/a/latest", "--yes")
    assert (code, "1 removed" in out) == (0, True)
    assert files(cut) == {"scenario.yaml", "run.json", "model.safetensors"}


def test_links_are_not_followed_and_foreign_files_stay(typed: Typed) -> None:
    outside = folder("elsewhere/a/1", "done")
    whole = files(outside)
    done = folder("runs/a/1", "done")
    (done / "checkpoint" / "notes.txt").write_text("mine")
    (done / "checkpoint" / "linked.pkl").symlink_to(Path("elsewhere/a/1/run.json").resolve())
    second = folder("runs/a/2", "done")
    (second / "checkpoint").rename("moved")
    (second / "checkpoint").symlink_to(Path("moved").resolve())
    Path("runs/a/out").symlink_to(outside.resolve())
    Path("runs/b").symlink_to(Path("elsewhere/a").resolve())
    code, out, _ = typed("clean", "--yes")
    assert (code, "1 removed" in out) == (0, True)
    assert files(outside) == whole
    assert files(done / "checkpoint") == {"notes.txt", "linked.pkl"}
    assert len(files(Path("moved"))) == 3
    code, _, err = typed("clean", "runs/a/out")
    assert (code, "is a link to" in err) == (2, True)


def test_places_without_runs_are_all_refused_before_anything_is_removed(typed: Typed) -> None:
    done = folder("runs/a/1", "done")
    Path("empty").mkdir()
    before = files(done)
    code, _, err = typed("clean", "runs", "empty", "gone", "runs/a/1/checkpoint")
    assert code == 2
    assert err.startswith("error: ")
    for words in ("empty: holds no run", "gone: does not exist", "checkpoint: holds no run"):
        assert words in err
    assert files(done) == before


def test_nothing_to_clean_is_no_error(typed: Typed) -> None:
    assert typed("clean") == (0, "0 removed, 0.000 MB freed\n", "")
    Path("runs/sweeps").mkdir(parents=True)
    assert typed("clean")[0] == 0


def test_prepared_data_go_only_when_it_is_meant_and_nobody_reads_them(typed: Typed) -> None:
    plain, used = store("cache/skin-32-abc"), store("cache/skin-64-def")
    foreign = store("cache/skin-96-ghi")
    (foreign / "mine.txt").write_text("")
    Path("cache/other").mkdir()
    code, out, _ = typed("clean", "--stores")
    assert code == 0
    assert out.count("to remove it, type: fedsim clean --stores --yes") == 2
    assert len(list(Path("cache").iterdir())) == 4
    images = np.load(used / "images.npy", mmap_mode="r")
    code, out, _ = typed("clean", "--stores", "--yes")
    assert code == 0
    if Path("/proc/self/maps").exists():
        assert "a process reads it now" in out
        assert files(used) == {"images.npy", "store.json"}
    del images
    assert "it holds files that fedsim has not put there" in out
    assert files(foreign) == {"images.npy", "store.json", "mine.txt"}
    assert not plain.exists()
    typed("clean", "--stores", "--yes")
    assert {path.name for path in Path("cache").iterdir()} == {foreign.name, "other"}


def test_preparations_that_were_interrupted_go_after_a_day(typed: Typed) -> None:
    for name, age in (("old", 25), ("new", 0), ("slow", 25)):
        place = Path(f"cache/.building-1-{name}")
        place.mkdir(parents=True)
        (place / "images.npy").write_bytes(bytes(2000))
        then = time.time() - 3600 * age
        os.utime(place / "images.npy", (then, then))
        os.utime(place, (then, then))
    os.utime("cache/.building-1-slow/images.npy")
    code, out, _ = typed("clean")
    assert (code, "1 removed, 0.002 MB freed" in out) == (0, True)
    assert {path.name[12:] for path in Path("cache").iterdir()} == {"new", "slow"}


def test_what_is_left_of_a_folder_of_runs_works(typed: Typed) -> None:
    Path("tiny.yaml").write_text(TINY)
    quiet = Console(quiet=True)
    done, cut = (run("tiny.yaml", "rounds=1", seed=0) for _ in range(2))
    record = RunFolder(cut.folder).read_json("run.json")
    (cut.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    code, out, _ = typed("clean")
    assert (code, "1 removed" in out) == (0, True)
    assert not (done.folder / "checkpoint").exists()
    again: Result = resume(done.folder, [], quiet)
    assert again.metrics == done.metrics
    later = resume(cut.folder, [], quiet)
    assert later.metrics == done.metrics
    assert typed("compare", "runs")[0] == 0
