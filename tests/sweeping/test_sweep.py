"""Sweeps: their cells, what is not run again, and what is left when something goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import Result, run
from fedsim.folder.runfolder import RunFolder
from fedsim.locks import is_taken, take
from fedsim.sweeping import capacity, scheduler
from fedsim.sweeping import cells as cells_module
from fedsim.sweeping import epsilons as epsilons_module
from fedsim.sweeping import signals as signals_of_sweeps
from fedsim.sweeping.cells import Cell, fingerprints, plan, split_values, standing
from fedsim.sweeping.scheduler import Sweep
from fedsim.sweeping.signals import Signals
from fedsim.terminal.console import Console
from tests.engine.conftest import TINY
from tests.sweeping.conftest import Typed


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of the sweeps below a folder of runs, in order."""
    return [json.loads(path.read_text()) for path in sorted((folder / "sweeps").glob("*.json"))]


def times(folder: Path) -> dict[Path, int]:
    """When each file below a folder was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --- Values --------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.integers() | st.text("ab,'\"[]{}\\: ", max_size=6) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy,]", max_size=2), inner),
    max_leaves=6,
)


@given(st.lists(VALUES.map(json.dumps), min_size=1))
def test_values_are_split_at_the_commas_between_them(values: list[str]) -> None:
    assert split_values(",".join(values)) == values


@given(st.text("a,'\"[]{}\\: "))
def test_no_character_is_lost_by_splitting(text: str) -> None:
    assert ",".join(split_values(text)) == text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3", ["3"]),
        ("{name: a, b: 1},{name: b}", ["{name: a, b: 1}", "{name: b}"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("'a,b', \"c,d\"", ["'a,b'", ' "c,d"']),
        ("'it''s, one',two", ["'it''s, one'", "two"]),
        ("site's,site't", ["site's", "site't"]),
        ("a,", ["a", ""]),
    ],
)
def test_brackets_and_quotes_hold_a_value_together(text: str, values: list[str]) -> None:
    assert split_values(text) == values


# --- Cells ---------------------------------------------------------------------------------------


def test_the_cells_are_the_product_and_each_is_there_once(typed: Typed) -> None:
    words = ["rounds=1,2", "client={name: supervised, epochs: 2}", "model.width=4,8,8"]
    cells = plan(["tiny.yaml"], words, [3, 0])
    found = [(c.scenario.rounds, c.scenario.model.parameters["width"], c.seed) for c in cells]
    assert found == [(r, w, s) for r in (1, 2) for w in (4, 8) for s in (3, 0)]
    assert {cell.scenario.client.parameters["epochs"] for cell in cells} == {2}
    assert len({cell.label for cell in cells}) == len(cells)
    assert cells[0].label == "rounds=1 model.width=4 seed 3", "only what varies"
    assert [cell.seed for cell in plan(["tiny.yaml"], ["seeds=[4,5]"])] == [4, 5]
    other = Path("other.yaml")
    other.write_text(TINY.replace("name: tiny", "name: other"))
    assert [cell.label for cell in plan(["tiny.yaml", "./other.yaml"], [])] == [
        "tiny.yaml",
        "./other.yaml",
    ]


def test_a_cell_is_what_its_result_depends_on(typed: Typed) -> None:
    def identity(*overrides: str) -> str:
        return plan(["tiny.yaml"], [], (), overrides)[0].identity

    same = ("resources.backend=ray", "resources.workers=7", "seeds=[9]", "description=x")
    other = ("resources.threads=2", "rounds=3", "data.split.seed=1", "client.epochs=1")
    assert len({identity(), *map(identity, same)}) == 1
    assert len({identity(), *map(identity, other)}) == 1 + len(other)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tiny.yaml", "rounds=0,x", "strategy.codec=a,uint8"], ["rounds=0", "rounds=x", "codec"]),
        (["tiny.yaml", "nowhere", "rounds=0"], ["nowhere", "rounds"]),
        (["tiny.yaml", "rounds=1", "rounds=2"], ["rounds is given twice"]),
        (["rounds=1,2"], ["which scenarios"]),
        (["tiny.yaml", "--seeds", "one"], ["'one'"]),
        (["tiny.yaml", "--seeds", "0"], ["one number is a count", "--seed 0"]),
        (["tiny.yaml", "--seed", "1", "--seeds", "1"], ["give one of them"]),
        (["tiny.yaml", "--seed", "-1"], ["--seed -1: expected a whole number"]),
        (["tiny.yaml", "--jobs", "0"], ["--jobs 0"]),
        (["tiny.yaml", "data.embedded={images: 2},{images: 3}"], ["images: 2}:", "images: 3}:"]),
    ],
)
def test_all_that_is_wrong_is_said_before_anything_runs(
    typed: Typed, words: list[str], expected: list[str]
) -> None:
    code, out, err = typed("sweep", *words)
    assert code == 2
    assert err.startswith("error: ")
    for text in expected:
        assert text in err
    assert "Traceback" not in out + err
    assert not Path("runs").exists()


# --- What stands already -------------------------------------------------------------------------


@pytest.fixture
def finished(typed: Typed) -> tuple[Result, Cell, str]:
    """A finished run, its cell and the fingerprint of its data."""
    result = run("tiny.yaml", "rounds=1")
    cell = plan(["tiny.yaml"], ["rounds=1"])[0]
    return result, cell, fingerprints([cell])[cell.data_key]


def set_record(folder: Path, **entries: Any) -> None:
    record = RunFolder(folder).read_json("run.json")
    (folder / "run.json").write_text(json.dumps(record | entries))


def test_only_a_finished_run_of_the_same_cell_on_the_same_data_counts(
    finished: tuple[Result, Cell, str],
) -> None:
    result, cell, fingerprint = finished
    runs = result.folder.parents[1]

    def action(of: Cell = cell, data: str = fingerprint) -> tuple[str, Path | None]:
        found = standing(of, runs, data)
        return found.action, found.folder

    assert action() == ("done", result.folder)
    assert action(plan(["tiny.yaml"], ["rounds=1"], [1])[0])[0] == "run", "another seed"
    assert action(plan(["tiny.yaml"], ["rounds=2"])[0])[0] == "run", "another scenario"
    assert action(data="other") == ("run", None)
    for status in ("interrupted", "running"):
        set_record(result.folder, status=status)
        assert action() == ("resume", result.folder)
        assert action(data="other") == ("run", None), "it could not go on with other data"
    set_record(result.folder, status="failed")
    assert action() == ("run", None)


def test_one_path_can_stand_for_runs_of_several_scenarios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two folders in which one types, or after a run folder has gone and another took its name.
    path, found = Path("runs/tiny/20261127T200000-seed0/scenario.yaml"), []
    for folder, rate in (("one", 0.1), ("other", 0.2), ("other", 0.3)):
        (tmp_path / folder / path.parent).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        path.write_text(TINY.replace("batch_size: 16", f"learning_rate: {rate}"))
        found.append(cells_module._identities_of(path, False))
        assert found[-1] == cells_module._identities_of(path, False)
    assert len(set(found)) == 3
    path.unlink()
    assert cells_module._identities_of(path, False) == frozenset()


def test_a_cell_whose_unit_of_privacy_the_data_decide_on_is_not_run_again(
    typed: Typed, tmp_path: Path
) -> None:
    words = [
        "rounds=1",
        "client={name: supervised, class_balanced: false, steps: 1}",
        "privacy={noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3}",
    ]
    runs = tmp_path / "runs"
    result = run("tiny.yaml", *words, runs=runs)
    assert result.summary["unit"] == "patient"
    (open_cell,) = plan(["tiny.yaml"], words)
    (told,) = plan(["tiny.yaml"], [*words, "privacy.unit=patient"])
    (other,) = plan(["tiny.yaml"], [*words, "privacy.unit=record"])
    fingerprint = fingerprints([open_cell])[open_cell.data_key]
    assert [standing(cell, runs, fingerprint).action for cell in (open_cell, told, other)] == [
        "done",
        "done",
        "run",
    ]
    # A run whose scenario named the unit is not that of a cell that leaves it to the data.
    record = json.loads((result.folder / "run.json").read_text())
    (result.folder / "run.json").write_text(json.dumps(record | {"unit_from": "scenario"}))
    assert standing(open_cell, runs, fingerprint).action == "run"


def test_a_run_that_another_process_has_is_not_touched(
    finished: tuple[Result, Cell, str],
) -> None:
    result, cell, fingerprint = finished
    runs = result.folder.parents[1]
    set_record(result.folder, status="running")
    handle = os.open(result.folder, os.O_RDONLY)
    assert take(handle)
    assert standing(cell, runs, fingerprint).action == "wait"
    os.close(handle)
    assert standing(cell, runs, fingerprint).action == "resume"


def test_the_lock_of_a_log_ends_with_the_process_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as log:
        assert take(log.fileno())
        child = subprocess.Popen(["sleep", "60"], stdout=log)
    assert is_taken(path), "the child goes on although its parent has closed the file"
    child.kill()
    child.wait()
    assert not is_taken(path)
    assert not is_taken(tmp_path / "none")


@pytest.mark.parametrize("cause", ["a second interruption", "no end in 0 s"])
def test_a_cell_that_the_sweep_killed_itself_is_not_said_to_lack_memory(
    cause: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_PATIENCE_SECONDS", 0.0 if cause.endswith("0 s") else 600.0)
    sweep = Sweep(plan(["tiny.yaml"], []), {}, tmp_path / "runs", Console(quiet=True))
    (entry,) = sweep.entries
    log = entry.cell.log(tmp_path / "runs")
    log.parent.mkdir(parents=True)
    log.touch()
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(600)"
    entry.process = subprocess.Popen([sys.executable, "-uc", stubborn], stdout=subprocess.PIPE)
    assert entry.process.stdout is not None
    entry.process.stdout.readline()
    entry.status, entry.began = "running", time.monotonic()
    sweep._signals.count = 2 if cause.startswith("a second") else 1
    sweep._stop()
    assert entry.status == "interrupted"
    assert entry.error == f"killed by this sweep: {cause}"


# --- How many at a time --------------------------------------------------------------------------


def fitting(cells: list[Cell], jobs: int | None = None) -> int:
    """How many of these cells may run at a time."""
    sweep = Sweep(cells, {}, Path("runs"), Console(quiet=True), jobs)
    for entry in sweep.entries:
        if not sweep._fits(entry.cell):
            break
        entry.status = "running"
    return sum(entry.status == "running" for entry in sweep.entries)


def test_cores_and_memory_limit_the_cells_at_a_time(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(cores: int, memory: float) -> None:
        for module in (capacity, scheduler):
            monkeypatch.setattr(module, "cores", lambda: cores)
        monkeypatch.setattr(scheduler, "available_mb", lambda: memory)

    def cells(*overrides: str) -> list[Cell]:
        return plan(["tiny.yaml"], [], range(20), overrides)

    machine(8, 1e6)
    assert fitting(cells()) == 8, "inline: a core each"
    assert fitting(cells("resources.threads=2")) == 4
    assert fitting(cells("resources.backend=ray", "resources.workers=3")) == 2
    assert fitting(cells("resources.backend=ray", "resources.workers=null")) == 1
    assert fitting(cells("resources.gpus=0.5")) == 1
    assert fitting(cells("resources.workers=16", "resources.backend=ray")) == 1, "at least one"
    assert fitting(cells("resources.gpus=0.5"), jobs=3) == 3, "whoever says so knows"
    machine(8, 3500.0)
    assert fitting(cells()) == 3
    machine(8, 10.0)
    assert fitting(cells()) == 1


# --- Running -------------------------------------------------------------------------------------


def test_a_failing_cell_stops_no_other_and_what_is_done_is_left_alone(typed: Typed) -> None:
    one, two = (f"client={{name: supervised, epochs: {n}}}" for n in (1, 2))
    # Interrupted before: the sweep goes on with it.
    first = run("tiny.yaml", one, "rounds=1")
    set_record(first.folder, status="interrupted")
    axis = f"{one},'misbehaving:Raises',{two.removeprefix('client=')}"
    command = ["sweep", "tiny.yaml", axis, "rounds=1", "--jobs", "2"]
    code, out, _ = typed(*command, "--dry-run")
    assert code == 0
    assert "3 cells: 0 finished, 1 to go on with, 0 in another process, 2 to run" in out
    assert not Path("runs/sweeps").exists()

    code, out, err = typed(*command)
    assert code == 1
    assert err.count("failed: ") == 1
    assert "RuntimeError: the scanner is on fire\n  again: fedsim run tiny.yaml" in err
    assert f"goes on with {first.folder.relative_to(Path.cwd())}" in out
    assert "epochs: 2}: auc 0." in out
    (page,) = Path("runs/sweeps").glob("*.html")
    assert out.splitlines()[-2:] == ["fedsim compare runs/tiny", f"page: {page}"]
    assert page.with_suffix(".json").is_file()
    assert typed("report", str(page.with_suffix(".json")), "--together")[1:] == (
        f"page: {page}\n",
        "",
    )
    (record,) = records(Path("runs"))
    assert record["status"] == "failed"
    assert [cell["status"] for cell in record["cells"]] == ["done", "failed", "done"]
    assert record["cells"][0]["run"] == str(first.folder.relative_to(Path.cwd()))
    whole = run("tiny.yaml", two, "rounds=1", runs="alone")
    summary = RunFolder(Path(record["cells"][2]["run"])).read_json("summary.json")
    assert summary["metrics"] == whole.metrics, "the cell is what it says"

    before = times(Path("runs/tiny"))
    code, out, err = typed("sweep", "tiny.yaml", f"{one},{two[7:]}", "rounds=1")
    assert (code, err) == (0, "")
    assert out.count("finished already") == 2
    assert times(Path("runs/tiny")) == before
    assert all(cell["finished_before"] for cell in records(Path("runs"))[-1]["cells"])


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", "tiny.yaml", "rounds=300", "evaluation.every=100"]

    def interrupt() -> None:
        for _ in range(6000):
            if list(Path("runs/tiny").glob("*/checkpoint/round-*")):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, out, err = typed(*command)
    thread.join()
    assert code == 130, out + err
    assert "type the same command again" in err
    (record,) = records(Path("runs"))
    assert record["status"] == record["cells"][0]["status"] == "interrupted"
    folder = Path(record["cells"][0]["run"])
    assert RunFolder(folder).read_json("run.json")["status"] == "interrupted"
    code, out, err = typed(*command, "--dry-run")
    assert f"would go on with {folder}" in out


def test_an_unwritable_folder_of_runs_is_wrong_input(typed: Typed) -> None:
    Path("file").write_text("")
    code, _, err = typed("sweep", "tiny.yaml", "--runs", "file")
    assert code == 2
    assert "--runs DIR" in err


@pytest.mark.parametrize(
    "words",
    [
        [
            "sweep",
            "tiny.yaml",
            *(
                f"client.{key}={','.join(map(str, range(1, 101)))}"
                for key in ("epochs", "batch_size", "learning_rate")
            ),
        ],
        ["sweep", "tiny.yaml", "--seeds", ",".join(map(str, range(10_001)))],
        ["curve", "tiny.yaml", "--seeds", "1000000000000"],
        ["curve", "tiny.yaml", "--epsilons", *map(str, range(1, 103)), "--seeds", "100"],
    ],
)
def test_more_cells_than_anybody_waits_for_are_refused_before_they_are_read(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    loaded: list[str] = []
    for module in (cells_module, epsilons_module):
        monkeypatch.setattr(module, "load", lambda *_, **__: loaded.append("one"))
    code, out, err = typed(*words, "--dry-run")
    assert code == 2
    assert not out
    assert not loaded
    assert err.startswith("error: these are ")
    assert "10000" in err
    assert err.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "seeds", "told"),
    [
        (["--seeds", "3"], [0, 1, 2], "--seeds 3: the seeds 0 to 2; a number alone is a count. "),
        (["--seeds", "1", "--quiet"], [0], "--seeds 1: the seed 0; a number alone is a count. "),
        (["--seeds", "3", "1"], [3, 1], ""),
        (["--seeds", "0,1"], [0, 1], ""),
        (["--seed", "3"], [3], ""),
    ],
)
def test_seeds_mean_the_same_to_a_sweep_and_to_a_curve(
    typed: Typed, words: list[str], seeds: list[int], told: str
) -> None:
    private = ["privacy={target_epsilon: 1}", "client.class_balanced=false", "--epsilons", "1"]
    asked = {"sweep": [], "curve": private}
    for verb, more in asked.items():
        code, out, err = typed(verb, "tiny.yaml", *more, *words, "--dry-run")
        assert code == 0, err
        lines = out.splitlines()[:-1]
        assert [int(re.findall(r"seed (\d+)", line)[0]) for line in lines] == seeds
        assert err.startswith(told if verb == "sweep" else "")
        assert err.count("\n") == (1 if told and verb == "sweep" else 0)


@pytest.mark.parametrize("verb", ["sweep", "curve"])
@pytest.mark.parametrize("digits", [80, 5000])
def test_seeds_that_no_scenario_can_name_are_refused(typed: Typed, verb: str, digits: int) -> None:
    code, out, err = typed(verb, "tiny.yaml", "--seeds", "1", "9" * digits, "--dry-run")
    assert code == 2
    assert not out
    assert "256 bits" in err
    assert err.count("\n") <= 4


@pytest.mark.parametrize(("seconds", "count"), [(60.0, 1), (0.0, 2)])
def test_what_comes_at_once_with_an_interruption_is_the_same_one(
    monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    monkeypatch.setattr(signals_of_sweeps, "TWICE_SECONDS", seconds)
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.count == count


def test_an_interruption_while_a_child_is_started_is_counted_and_does_not_reach_it() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    wait = "import sys; print(1, flush=True); sys.stdin.read()"
    try:
        with Signals() as signals:
            with signals.ignored():
                child = subprocess.Popen(
                    [sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                signal.raise_signal(signal.SIGINT)
                assert signals.count == 0
            assert signals.count == 1
            assert child.stdout is not None
            assert child.stdout.readline() == b"1\n"
            child.send_signal(signal.SIGINT)
            child.communicate(b"", timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert child.returncode == 0
