"""A run that is killed goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim import InputError, Result, run
from fedsim.api import resume
from fedsim.errors import Interruption
from fedsim.folder.runfolder import RunFolder
from fedsim.locks import held
from fedsim.terminal.console import Console
from tests.engine.conftest import GDD, VIEWS
from tests.engine.test_bits import assert_same

QUIET = Console(quiet=True)
METHODS = {
    "fedavg": ("rounds=4",),
    "fedadam": ("rounds=4", "strategy={name: flwr.serverapp.strategy.FedAdam, eta: 0.01}"),
    "counts": ("rounds=4", "client=misbehaving:Counts"),
    "selected": ("rounds=4", "evaluation.select=pooled_val", "federation.participation=0.5"),
    "buffers": ("rounds=4", "model={name: odd_models.Odd}", "strategy=server_momentum"),
    "gdd": GDD,
    "gdd-evaluated": (*GDD, "evaluation.on_clients=true"),
}


def start(tiny: Path, runs: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fedsim", "run", str(tiny), *overrides, "--runs", str(runs)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has come so far."""
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("the run did not come so far in a minute")


def only(runs: Path) -> Path | None:
    return next((p for p in (runs / "tiny").glob("*seed*") if not p.is_symlink()), None)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_cut_after_any_round_goes_on_to_the_same_bits(
    method: str, run_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = METHODS[method]
    whole = run_tiny(*overrides)
    append = RunFolder.append
    # What holds state of its own is cut where it has that of two rounds, or in its only one.
    moments = {"fedavg": (1, 2, 3), "selected": (1, 3), "gdd": (1,), "gdd-evaluated": (1,)}
    for moment in moments.get(method, (3,)):
        # Stop like a kill: in the middle of writing, with lines that the checkpoint must take back.
        written = 0

        def stopping(self: RunFolder, name: str, row: dict, at: int = moment) -> None:
            nonlocal written
            append(self, name, row)
            written += 1
            if written == 5 * at - 3:
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append", stopping)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "tiny.yaml", *overrides, runs=tmp_path / f"cut{moment}")
        folder = only(tmp_path / f"cut{moment}")
        assert folder is not None
        assert_same(whole, resume(folder, [], QUIET))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_sigkill_of_the_whole_group_loses_nothing(
    backend: str, tiny: Path, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    overrides = ("rounds=6", "client.epochs=3")
    whole = run_tiny(*overrides)
    process = start(tiny, tmp_path / "killed", *overrides, "--backend", backend)

    def two_rounds() -> bool:
        folder = only(tmp_path / "killed")
        return folder is not None and (folder / "checkpoint" / "round-000002.ckpt").exists()

    wait_for(two_rounds, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    folder = only(tmp_path / "killed")
    assert folder is not None
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    before = RunFolder(folder).read_lines("rounds.jsonl")
    resumed = resume(folder, ["resources.backend=inline"], QUIET)
    assert_same(whole, resumed)
    # A round that was not run again still has the seconds it took then.
    assert resumed.rounds[0]["seconds"] == before[0]["seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [GDD, VIEWS], ids=["images", "views"])
def test_replies_of_a_one_shot_run_are_stored_on_arrival(
    method: tuple[str, ...], tiny: Path, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    overrides = [*method, "client.iterations=20"]
    whole = run_tiny(*overrides)
    process = start(tiny, tmp_path / "killed", *overrides, "--backend", "inline")

    def one_reply() -> bool:
        folder = only(tmp_path / "killed")
        return folder is not None and any((folder / "checkpoint").glob("reply-*"))

    wait_for(one_reply, process)
    process.kill()
    process.wait()
    folder = only(tmp_path / "killed")
    assert folder is not None
    before = {p: p.stat().st_mtime_ns for p in (folder / "checkpoint").glob("reply-*")}
    assert before
    assert_same(whole, resume(folder, [], QUIET))
    assert not list((folder / "checkpoint").glob("reply-*")), "the checkpoint holds them now"


@pytest.mark.slow
def test_an_ended_run_exits_with_130_and_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedsim", "run", str(tiny), "rounds=200", "--runs"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "cut")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: only(tmp_path / "cut") is not None, process)  # type: ignore[arg-type]
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    folder = only(tmp_path / "cut")
    assert process.returncode == 130, err.decode()
    assert f"fedsim run --resume {folder}" in err.decode()
    assert folder is not None
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_an_interruption_inside_an_exec_still_exits_with_130(tiny: Path, tmp_path: Path) -> None:
    # Both signals have one handler: this one is Ctrl-C, and the one above what a batch system does.
    client = f"client={{name: 'misbehaving:Interrupts', number: {int(signal.SIGINT)}}}"
    process = subprocess.run(
        [sys.executable, "-m", "fedsim", "run", str(tiny), client, "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        # A background job of a shell ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.returncode == 130
    assert "fedsim run --resume" in process.stderr
    folder = only(tmp_path)
    assert folder is not None
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"


def test_only_the_last_two_checkpoints_are_kept(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("rounds=4")
    kept = sorted(path.name for path in (result.folder / "checkpoint").iterdir())
    assert kept == ["round-000003.ckpt", "round-000004.ckpt"]


def test_a_resumed_run_keeps_its_scenario_and_its_data(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_tiny()
    with pytest.raises(InputError, match="keeps its scenario"):
        resume(result.folder, ["rounds=9"], QUIET)
    again = resume(result.folder, [], QUIET)
    assert again.metrics == result.metrics, "a finished run is left alone"
    record = json.loads((result.folder / "run.json").read_text())
    record["status"] = "interrupted"
    record["data"]["fingerprint"] = "other"
    (result.folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="the data are not those"):
        resume(result.folder, [], QUIET)


def test_a_run_that_another_process_runs_is_not_resumed(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny()
    record = json.loads((result.folder / "run.json").read_text())
    (result.folder / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with held(result.folder) as mine:
        assert mine
        with pytest.raises(InputError, match="is running in another process"):
            resume(result.folder, [], QUIET)
    assert resume(result.folder, [], QUIET).metrics == result.metrics
