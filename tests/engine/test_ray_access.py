"""Ray while a run lasts: closed to strangers, no trace in the process; and when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from fedsim import InputError, Result, RunError
from fedsim.cli import main
from fedsim.grid import cluster
from fedsim.grid import ray as grid
from fedsim.locks import held

_STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    print("let in", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)))
except Exception as error:
    print(type(error).__name__)
"""


# What is looked at here is Ray, not the run.
SHORT = ("rounds=1", "resources.workers=1")


def _knock(address: str, **variables: str) -> str:
    """What a second process gets that asks a Ray cluster who is in it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, address],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def _token() -> str:
    """The token of the running Ray, as its own workers have it."""
    # The actors have taken all cores.
    ask: Any = ray.remote(num_cpus=0)(lambda: os.environ["RAY_AUTH_TOKEN"])
    token = ray.get(ask.remote())
    assert isinstance(token, str)
    return token


def test_a_run_leaves_the_environment_and_the_mode_as_they_were(
    run_tiny: Callable[..., Result],
) -> None:
    import sklearn.metrics  # Which sets variables when a run scores first.  # noqa: F401

    grid.shutdown()
    before = dict(os.environ)
    run_tiny(*SHORT, backend="ray")
    first = _token()
    assert dict(os.environ) == before
    grid.shutdown()
    assert grid._raylet.get_authentication_mode() == grid._raylet.AuthenticationMode.DISABLED
    run_tiny(*SHORT, backend="ray")
    assert _token() != first, "each Ray has a token of its own"


@pytest.fixture
def own_ray(run_tiny: Callable[..., Result]) -> Result:
    """A run on a Ray that fedsim started, and which still lives; any earlier test's will do."""
    return run_tiny(*SHORT, backend="ray")


def test_a_stranger_without_the_token_is_refused(own_ray: Result) -> None:
    address, token = ray.get_runtime_context().gcs_address, _token()
    assert len(token) == 64
    assert _knock(address) == "AuthenticationError"
    assert _knock(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "let in 1"


def test_workers_are_as_nice_as_the_driver_and_few_processes_help_them(own_ray: Result) -> None:
    assert "RAY_worker_niceness" not in os.environ
    nice: Any = ray.remote(num_cpus=0)(lambda: os.nice(0))
    assert ray.get(nice.remote()) == os.nice(0)
    node: Any = ray._private.worker._global_node
    started = {kind for kind, _ in node.live_processes()}
    assert {"gcs_server", "raylet"} <= started
    assert not started & {"dashboard", "monitor", "log_monitor"}
    assert node.start_monitor.__name__ == "start_monitor", "Ray's own is back"


def test_no_worker_that_starts_is_told(
    monkeypatch: pytest.MonkeyPatch, run_tiny: Callable[..., Result]
) -> None:
    run_tiny(*SHORT, backend="ray")
    monkeypatch.setattr(cluster, "PLACING_SECONDS", 0.0)
    with pytest.raises(RunError, match="no worker started within 0 s"):
        run_tiny(*SHORT, backend="ray")


def test_the_token_is_in_no_command_line_no_log_and_no_run_folder(own_ray: Result) -> None:
    token = _token().encode()
    node: Any = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())
    closed = session.parents[1]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    for folder in (session, own_ray.folder):
        for file in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # Ray turns its logs over.
                assert not file.is_file() or token not in file.read_bytes(), file
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert token not in process.read_bytes()
    grid.shutdown()
    assert not closed.exists()


def test_an_address_where_nobody_answers_is_refused_in_time(
    monkeypatch: pytest.MonkeyPatch, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    grid.shutdown()
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(InputError, match="no Ray cluster answers at"):
            run_tiny(f"resources.ray_address=127.0.0.1:{port}", backend="ray")
    assert not (tmp_path / "runs").exists()
    with socket.socket() as mute:  # Something listens, and never says a word.
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        with pytest.raises(InputError, match="nothing within 1 s"):
            run_tiny(f"resources.ray_address=127.0.0.1:{port}", backend="ray")


@pytest.mark.slow
def test_a_killed_raylet_is_told_in_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid.shutdown()
    client = "client=misbehaving:KillsRay"
    assert main(["run", str(tiny), client, "--backend", "ray", "--runs", str(tmp_path / "r")]) == 1
    shown = capsys.readouterr().err
    assert "Ray stopped" in shown or "died" in shown
    assert len(shown.splitlines()) <= 3
    grid.shutdown()


@pytest.mark.slow
def test_who_ends_the_whole_group_interrupts_a_run_that_can_go_on(
    tiny: Path, tmp_path: Path
) -> None:
    """As batch systems, `make` and `timeout` do: Ray's processes get the signal, too, and twice."""
    grid.shutdown()
    words = ["run", str(tiny), "--backend", "ray", "--runs", "runs", "rounds=500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedsim", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round "):
            break
    os.killpg(process.pid, signal.SIGTERM)
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert told.startswith("error: interrupted; to go on, type: fedsim run --resume ")
    assert len(told.splitlines()) == 1
    (record,) = tmp_path.glob("runs/*/*-seed0/run.json")
    assert json.loads(record.read_text())["status"] == "interrupted"


def test_the_folder_of_a_ray_whose_process_was_killed_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grid, "_YOUNG_SECONDS", 0.0)
    left, lives = tmp_path / "fedsim-ray-a", tmp_path / "fedsim-ray-b"
    others = tmp_path / "fedsim-c"
    for folder in (left / "ray", lives, others):
        folder.mkdir(parents=True)
    with held(lives):
        grid._remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == [others, lives]


def test_a_second_interruption_ends_at_once_in_one_line(tmp_path: Path) -> None:
    code = """
import signal, sys
from fedsim import cli
cli.TWICE_SECONDS = 0.0
def slow(arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)
        print("not reached")
cli.clean._clean = slow
sys.exit(cli.main(["clean"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["error: interrupted again; ended at once"]
