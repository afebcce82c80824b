"""What `fedsim watch` says of runs, from their folders alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main
from fedsim.errors import InputError, Interruption, Problem
from fedsim.folder.runfolder import RunFolder
from fedsim.locks import held
from fedsim.report.rows import find_runs
from fedsim.report.watching import State, Watch, frame, look
from fedsim.verbs import watch as verb
from tests.yaml_bombs import YAML_BOMBS

Make = Callable[..., Path]


def line(number: int, **more: Any) -> str:
    row = {
        "round": number,
        "metrics": {"auc": 0.5 + number / 100},
        "seconds": 10.0 + number,
        "mb_up_total": 0.5 * number,
        "mb_down_total": 1.0 * number,
        "epsilon": None,
        "peak_rss_mb": 300.0 + number,
    }
    return json.dumps(row | more) + "\n"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a run folder with these lines of rounds, and returns it."""

    def go(
        name: str = "one", status: str = "running", rounds: str = "", scenario: str = "rounds: 5\n"
    ) -> Path:
        folder = tmp_path / "runs" / "tiny" / name
        folder.mkdir(parents=True)
        record = {"scenario": "tiny", "seed": 3, "status": status}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "scenario.yaml").write_text(scenario)
        if rounds:
            (folder / "rounds.jsonl").write_text(rounds)
        return folder

    return go


def state(folder: Path, now: float | None = None) -> State:
    return look(RunFolder(folder), time.time() if now is None else now)


def test_a_run_that_a_process_has_runs_and_one_that_none_has_is_stopped(make: Make) -> None:
    folder = make()
    assert state(folder).status == "stopped"
    with held(folder) as mine:
        assert mine
        found = state(folder)
    assert found.running
    assert (found.round, found.rounds, found.left, found.score) == (0, 5, None, "")
    assert (found.up, found.memory) == (None, None)


def test_the_newest_whole_line_counts_and_the_time_left_is_that_of_the_last_rounds(
    make: Make,
) -> None:
    unscored = line(3, metrics={"train_loss": 1.0})
    folder = make(rounds=line(1) + line(2) + unscored + line(4)[:30])
    changed = 1_000_000.0
    os.utime(folder / "rounds.jsonl", (changed, changed))
    with held(folder):
        found = state(folder, changed + 4.0)
        late = state(folder, changed + 1e6)
    assert (found.round, found.score) == (3, "AUC 0.520")
    assert (found.up, found.down, found.memory) == (1.5, 3.0, 303.0)
    assert found.left == pytest.approx(2 * 12.0 - 4.0)
    assert late.left == pytest.approx(12.0), "one round of two is over time"


@pytest.mark.parametrize(
    ("scenario", "row", "told"),
    [
        ("rounds: 5\n", {}, ""),
        ("privacy: {target_epsilon: 4}\n", {"epsilon": 2.5, "epsilon_upper": 2.0}, "2.00 of 4"),
        ("privacy: {max_epsilon: 3, target_epsilon: 4}\n", {"epsilon": 2.5}, "2.50 of 3"),
        ("privacy: {noise_multiplier: 1}\n", {"epsilon": 2.5}, "2.50"),
        ("privacy: null\n", {"epsilon_claimed": 1.0}, "claimed 1.00"),
    ],
)
def test_epsilon_is_told_with_what_it_may_become(
    make: Make, scenario: str, row: dict[str, Any], told: str
) -> None:
    assert state(make(rounds=line(1, **row), scenario=scenario)).epsilon == told


def test_the_end_of_a_long_file_is_enough(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.report.watching._TAIL_BYTES", 500)
    folder = make(rounds="".join(line(k) for k in range(1, 40)))
    assert state(folder).round == 39


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{"),
        ("run.json", '{"status": "done"}'),
        ("rounds.jsonl", "3\n"),
        ("rounds.jsonl", "{\n"),
        ("scenario.yaml", "- a\n"),
        ("scenario.yaml", "a: [\n"),
        *[pytest.param("scenario.yaml", bomb, id=name) for name, bomb in YAML_BOMBS.items()],
    ],
)
def test_damaged_folders_are_named_and_the_others_are_shown(
    make: Make, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    damaged = make("bad", "done", line(1))
    (damaged / file).write_text(text)
    make("good", "done", line(5))
    with pytest.raises(InputError, match=file):
        state(damaged)
    assert main(["watch", str(damaged.parent), "--once"]) == 2
    out = capsys.readouterr()
    assert "tiny/good" in out.out
    assert "tiny/bad" not in out.out
    assert str(damaged / file) in out.err


def test_once_prints_all_runs_those_that_run_first(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    make("a", "done", line(5))
    make("b", "failed", line(1))
    going = make("c", "running", line(2), "rounds: 5\nprivacy: {target_epsilon: 2}\n")
    with held(going):
        assert main(["watch", str(going.parent), "--once"]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if "tiny/" in row]
    assert [row.split()[0] for row in rows] == ["tiny/c", "tiny/b", "tiny/a"]
    assert [row.split()[1] for row in rows] == ["running", "failed", "done"]
    for word in ("2/5", "AUC 0.520", "1.000/2.000", "302"):
        assert word in rows[0]


def test_it_ends_when_nothing_runs_any_more(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(rounds=line(1))
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(line(1 + len(looks)))
        if len(looks) == 4:
            record = {"scenario": "tiny", "seed": 3, "status": "done"}
            (folder / "run.json").write_text(json.dumps(record))

    monkeypatch.setattr(verb.time, "sleep", sleep)
    with held(folder):
        assert main(["watch", str(folder), "--every", "0.5"]) == 0
    out = capsys.readouterr().out
    assert looks == [0.5] * 4
    assert [f"{k}/5" in out for k in range(1, 6)] == [True] * 5
    assert out.count("done") == 1


def test_between_two_runs_of_a_folder_it_waits_a_while(make: Make) -> None:
    folder = make()
    running = State(folder, "tiny", 3, "running")
    done = State(folder, "tiny", 3, "done")
    several, single = verb._Idle([folder.parent]), verb._Idle([folder])
    assert several.ended([done]), "nothing has run"
    for one, ends in ((several, False), (single, True)):
        assert not one.ended([running])
        assert one.ended([done]) is ends
    several._last -= 1e4
    assert several.ended([done])


def test_ctrl_c_ends_it_in_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()

    def interrupted(seconds: float) -> None:
        raise Interruption

    monkeypatch.setattr(verb.time, "sleep", interrupted)
    with held(folder):
        assert main(["watch", str(folder)]) == 0


def test_a_finished_run_is_read_once(make: Make) -> None:
    folder = make("a", "done", line(5))
    watch, problems = Watch(), list[Problem]()
    (first,) = watch.look(find_runs([folder]), problems)
    (folder / "rounds.jsonl").write_text("{")
    assert watch.look([RunFolder(folder)], problems) == [first]
    assert problems == []


def test_of_more_runs_than_fit_the_rest_is_counted_and_narrow_terminals_get_less(
    make: Make,
) -> None:
    states = [State(Path(f"/r/{k}"), "tiny", k, "done" if k else "running") for k in range(9)]
    table = frame(states, 120, 4)
    assert table.row_count == 4
    assert str(table.caption) == "and 5 done"
    assert len(frame(states, 80).columns) == len(table.columns) - 2
    assert frame(states, 80).caption is None


def test_runs_of_one_name_are_told_apart_by_their_settings(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    scenario = "rounds: 5\nseeds: [{seed}]\nclient: {{learning_rate: {rate}}}\n"
    for name, seed, rate in (("a", 0, 0.01), ("b", 1, 0.01), ("c", 0, 0.1)):
        make(name, "done", line(5), scenario.format(seed=seed, rate=rate))
    alone = make("d", "done", line(5), scenario.format(seed=0, rate=0.3))
    assert main(["watch", str(alone), "--once"]) == 0
    assert "learning_rate" not in capsys.readouterr().out, "there is nothing to tell it from"
    (alone / "run.json").unlink()
    (alone / "scenario.yaml").unlink()
    (alone / "rounds.jsonl").unlink()
    assert main(["watch", str(alone.parent), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {k.split()[0]: lines[n + 1].strip() for n, k in enumerate(lines) if "tiny/" in k}
    assert told == {
        "tiny/a": "client.learning_rate=0.01",
        "tiny/b": "client.learning_rate=0.01",
        "tiny/c": "client.learning_rate=0.1",
    }


def test_a_run_with_settings_takes_two_lines_of_those_that_fit() -> None:
    states = [State(Path(f"/r/{k}"), "tiny", k, "done", settings="a=1") for k in range(9)]
    assert frame(states, 120, 5).row_count == 2
    assert frame(states, 120, 1).row_count == 1


@pytest.mark.parametrize("every", ["0", "-1", "nan", "1e9"])
def test_a_pause_that_makes_no_sense_is_wrong_input(make: Make, every: str) -> None:
    assert main(["watch", str(make()), "--every", every]) == 2


def test_a_place_without_runs_is_wrong_input(tmp_path: Path) -> None:
    assert main(["watch", str(tmp_path / "gone"), "--once"]) == 2
