"""Cells as jobs of Slurm: what is submitted, what is not submitted again, and what a job does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedsim import run
from fedsim.errors import RunError
from fedsim.sweeping import slurm
from fedsim.sweeping.cells import fingerprints, plan
from fedsim.sweeping.slurm import Job, Slurm
from tests.sweeping.conftest import Typed

SLURM = ("--launcher", "slurm", "--slurm", "time=10")


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Put shell programs of these names first on the path."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("04:00:00", 240),
        ("1-12", 36 * 60),
        ("2-01:30", 49 * 60 + 30),
        ("1-00:00:01", 24 * 60 + 1),
        ("soon", 0),
        ("0", 0),
        ("1:2:3:4", 0),
    ],
)
def test_times_are_read_as_sbatch_reads_them(text: str, minutes: int) -> None:
    assert slurm._minutes(text) == minutes


def test_all_that_is_wrong_with_the_options_is_said_at_once(typed: Typed) -> None:
    words = ["partition", "Mem=3", "time=soon", "qos=a", "qos=b", "array=0-3", "cpus_per_task=x"]
    code, _, err = typed(
        "sweep", "tiny.yaml", "--launcher", "slurm", *(f"--slurm={word}" for word in words)
    )
    assert code == 2
    for told in ("'partition'", "'Mem=3'", "time=soon", "qos is given twice", "array", "=x: "):
        assert told in err
    assert "type, for example: --slurm time=04:00:00" in err
    assert "time is missing" in typed("sweep", "tiny.yaml", "--launcher", "slurm")[2]
    assert "goes with --launcher slurm" in typed("sweep", "tiny.yaml", "--slurm", "time=3")[2]
    assert "Slurm decides" in typed("sweep", "tiny.yaml", *SLURM, "--jobs", "2")[2]
    assert not Path("runs").exists()


def test_without_slurm_or_submitit_it_says_what_to_type(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nowhere:
        nowhere.setenv("PATH", str(tmp_path))
        code, out, err = typed("sweep", "tiny.yaml", *SLURM)
    assert (code, out) == (2, "")
    assert err.startswith("error: there is no Slurm here: sbatch is not found\n")
    programs(tmp_path / "bin", monkeypatch, sbatch="exit 1")
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, out, err = typed("sweep", "tiny.yaml", *SLURM)
    assert (code, out) == (2, "")
    assert "type: pip install '.[slurm]'" in err
    assert not Path("runs").exists()


# --- Submitting ----------------------------------------------------------------------------------


def test_a_cell_is_one_job_that_is_not_submitted_again_while_it_lives(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    queue, scripts = tmp_path / "queue", tmp_path / "scripts"
    queue.write_text("")
    scripts.mkdir()
    monkeypatch.setenv("USER", "me")
    count = f'n=$(($(ls {scripts} | wc -l) + 70)); cp "$1" {scripts}/$n'
    programs(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"{count}; echo $n PENDING >> {queue}; echo Submitted batch job $n",
        squeue=f"cat {queue}",
        srun="exit 1",
    )
    words = ["sweep", "tiny.yaml", "rounds=1,2", *SLURM, "--slurm", "partition=gpu"]
    words += ["--slurm", "exclusive=true", "resources.threads=3"]
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert "[1/2] rounds=1: submitted as job 70\n" in out
    assert "2 cells: 0 done, 2 queued, 0 running\n" in out
    script = (scripts / "70").read_text()
    for option in ("time=10", "partition=gpu", "exclusive", "cpus-per-task=3"):
        assert f"#SBATCH --{option}\n" in script
    assert script.count("--cpus-per-task=3") == 2, "the step does not inherit it"

    queue.write_text("70 RUNNING\n71 PENDING\n")
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert "rounds=1: job 70 is RUNNING" in out
    assert "2 cells: 0 done, 1 queued, 1 running\n" in out
    assert len(list(scripts.iterdir())) == 2
    code, out, err = typed(*words, "--dry-run")
    assert "2 cells: 0 finished, 0 to go on with, 2 in another process, 0 to run" in out
    written = sorted(Path("runs/sweeps").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    records = [json.loads(path.read_text()) for path in written]
    assert [record["status"] for record in records] == ["submitted", "submitted"]
    assert [cell["status"] for cell in records[1]["cells"]] == ["running", "queued"]
    assert [cell["job"] for cell in records[1]["cells"]] == ["70", "71"]

    queue.write_text("71 PENDING\n")
    code, out, err = typed(*words)
    assert "rounds=1: job 70 did not finish: it said nothing; Slurm's own files are in " in out
    assert "rounds=1: submitted as job 72\n" in out

    programs(tmp_path / "bin", monkeypatch, squeue="echo slurm_load_jobs error >&2; exit 1")
    code, out, err = typed(*words)
    assert (code, err) == (1, "error: squeue does not answer: slurm_load_jobs error\n")
    programs(tmp_path / "bin", monkeypatch, squeue="", sbatch="echo no such partition >&2; exit 1")
    code, out, err = typed(*words)
    assert code == 1
    assert err.startswith("error: Slurm does not take the job: ")


class Here(Slurm):
    """A queue of processes on this machine, by submitit's own executor for that."""

    def __init__(self) -> None:
        super().__init__(["time=10"])
        self.jobs: list[Any] = []

    def _require(self) -> None:
        pass

    def executor(self, folder: Path) -> Any:
        import submitit

        return submitit.LocalExecutor(folder)

    def submit(self, job: Job, folder: Path) -> str:
        executor = self.executor(folder)
        executor.update_parameters(timeout_min=10)
        self.jobs.append(executor.submit(job))
        return str(self.jobs[-1].job_id)

    def active(self) -> dict[str, str]:
        return {job.job_id: "RUNNING" for job in self.jobs if not job.done()}


def test_jobs_go_on_by_themselves_and_the_same_words_collect_and_submit_what_failed(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    here = Here()
    monkeypatch.setattr(slurm, "Slurm", lambda options: here)
    # Interrupted before: its job goes on with it.
    first = run("tiny.yaml", "client=supervised", "rounds=1")
    record = json.loads((first.folder / "run.json").read_text())
    (first.folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    words = ["sweep", "tiny.yaml", "client=supervised,'misbehaving:Raises'", "rounds=1", *SLURM]
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert f"it goes on with {first.folder.relative_to(Path.cwd())}" in out
    until = time.monotonic() + 200
    while here.active() and time.monotonic() < until:
        time.sleep(0.2)
    codes = [job.exception() is None for job in here.jobs]
    assert codes == [True, False], "Slurm knows which job failed"

    submitted: list[str] = []
    monkeypatch.setattr(here, "submit", lambda job, _: submitted.append(job.cell.label) or "99")
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert f"finished already: {first.folder.relative_to(Path.cwd())}" in out
    assert "did not finish: client 1" in out
    assert "RuntimeError: the scanner is on fire" in out
    assert len(submitted) == 1
    assert "Raises" in submitted[0]
    assert "2 cells: 1 done, 1 queued, 0 running" in out


# --- What a job does -----------------------------------------------------------------------------


@pytest.fixture
def job(typed: Typed, tmp_path: Path) -> Job:
    (cell,) = plan(["tiny.yaml"], ["rounds=1"])
    fingerprint = fingerprints([cell])[cell.data_key]
    return Job(cell, fingerprint, Path("runs"), tmp_path)


def test_a_job_stops_its_run_before_it_goes_back_into_the_queue(job: Job) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    process = job._process = subprocess.Popen(["sleep", "60"])
    delayed = job.checkpoint()
    assert process.returncode == -15
    assert delayed.function is job
    assert job._process is None, "what travels has no process"


def test_a_job_leaves_alone_what_is_done_or_runs_elsewhere(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []

    class Begun:
        def __init__(self, command: list[str], **options: Any) -> None:
            begun.append(command)

        def poll(self) -> int:
            return 1

    with monkeypatch.context() as patch:
        patch.setattr(slurm.subprocess, "Popen", Begun)
        with pytest.raises(RunError, match="ended with exit code 1"):
            job()
    assert begun[0][-7:] == ["run", "tiny.yaml", "rounds=1", "--seed", "0", "--runs", "runs"]
    log = job.cell.log(job.runs)
    with log.open("ab") as held:
        assert slurm.take(held.fileno())
        job()
    run("tiny.yaml", "rounds=1", runs="runs")
    job()
    assert log.read_text().count("fedsim run") == 1, "begun once"


def test_a_damaged_ticket_is_named(typed: Typed, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "Slurm", lambda options: Here())
    ticket = job.cell.log(Path("runs")).with_suffix(".job")
    ticket.parent.mkdir(parents=True)
    ticket.write_text("{")
    code, _, err = typed("sweep", "tiny.yaml", "rounds=1", *SLURM)
    assert code == 2
    assert f"{ticket}: " in err
    assert "delete this file" in err
