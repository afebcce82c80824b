"""`fedsim tune`: what is run, what is run again, what is stopped, and what is never looked at."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main
from fedsim.errors import EXIT_INTERRUPTED, Interruption
from fedsim.observers.telling import Observers
from fedsim.sweeping import signals
from fedsim.tuning import trials as trials_module
from tests.sweeping.conftest import Typed
from tests.tuning.conftest import Trials

TUNE = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", "rounds=1", "--batch", "2")


def rows(folder: Path = Path("runs/tuning/tiny")) -> list[dict[str, str]]:
    """The lines of trials.csv."""
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def told(folder: Path = Path("runs/tuning/tiny")) -> dict[str, Any]:
    """The content of tuning.json."""
    found: dict[str, Any] = json.loads((folder / "tuning.json").read_text())
    return found


def what(found: list[dict[str, str]]) -> list[tuple[str, ...]]:
    """Number, score and value of each trial."""
    return [(one["trial"], one["val_auc"], one["client.learning_rate"]) for one in found]


def test_the_best_by_validation_is_named_as_a_command(typed: Typed, trials: Trials) -> None:
    code, out, err = typed(*TUNE, "--trials", "3")
    assert code == 0, err
    best = max(rows(), key=lambda one: float(one["val_auc"]))
    line = f"fedsim run tiny.yaml rounds=1 client.learning_rate={best['client.learning_rate']}"
    assert line in out.splitlines()
    assert told()["best"]["command"] == line
    page = Path("runs/tuning/tiny/index.html")
    assert f"page: {page}" in out.splitlines()
    assert "3 of 3 trials have ended" in page.read_text()
    assert all(f"{float(one['val_auc']):.3f}" in page.read_text() for one in rows())
    for one in rows():
        run = Path(one["run"])
        last = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])
        assert float(one["val_auc"]) == last["metrics"]["val_auc"] != last["metrics"]["auc"]
        # What the tuning says holds no score of the test split.
        assert f" auc {last['metrics']['auc']:.3f}" not in f" {out}"
    # Trials are no results: a comparison of all runs leaves them out.
    code, _, err = typed("compare", "runs")
    assert code == 2
    assert "holds no run folder" in err
    assert typed(*shlex.split(line)[1:], "--dry-run")[0] == 0


def test_typed_again_it_runs_nothing_and_typed_with_more_it_runs_the_rest(
    typed: Typed, trials: Trials
) -> None:
    typed(*TUNE, "--trials", "3", "--jobs", "1")
    first = rows()
    assert len(trials.commands) == 3
    assert typed(*TUNE, "--trials", "3")[0] == 0
    assert rows() == first
    assert len(trials.commands) == 3
    # Neither how many run at a time, nor how many there will be, changes what is tried.
    assert typed(*TUNE, "--trials", "4", "--jobs", "2")[0] == 0
    assert what(rows())[:2] == what(first)[:2]
    assert len(trials.commands) <= 5
    assert typed(*TUNE, "--trials", "1", "--seed", "1")[0] == 0
    assert what(rows())[0][2] != what(first)[0][2]


def test_another_tuning_in_the_same_folder_says_so(typed: Typed, trials: Trials) -> None:
    assert "held another" not in "".join(typed(*TUNE, "--trials", "1")[1:])
    assert "held another" not in "".join(typed(*TUNE, "--trials", "2")[1:])
    other = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1)", "rounds=1", "--batch", "2")
    code, out, err = typed(*other, "--trials", "1")
    assert code == 0, err
    assert "held another tuning (another space)" in out
    assert len(rows()) == 1
    assert len(list(Path(TRIALS).glob("*-seed0*"))) == 3
    Path("runs/tuning/tiny/tuning.json").write_text("{")
    code, _, err = typed(*other)
    assert code == 2
    assert "tuning.json cannot be read" in err


def test_runs_that_are_no_folder_are_said(typed: Typed, trials: Trials) -> None:
    Path("file").touch()
    code, _, err = typed(*TUNE, "--trials", "2", "--runs", "file")
    assert code == 2
    assert "Not a directory" in err
    assert "choose another place: --runs DIR" in err
    assert not trials.commands


def test_interrupted_and_typed_again_it_ends_like_one_that_was_not(
    typed: Typed, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(*TUNE, "--trials", "4", "--runs", "whole")
    whole, count = what(rows(Path("whole/tuning/tiny"))), len(trials.commands)

    def interrupt(self: signals.Signals) -> int:
        return int(len(trials.commands) == count + 3)

    with monkeypatch.context() as patched:
        patched.setattr(signals.Signals, "count", property(interrupt, lambda *_: None), False)
        code, _, err = typed(*TUNE, "--trials", "4")
    assert code == EXIT_INTERRUPTED
    assert "to go on, type the same command again" in err
    assert what(rows()) == whole[:2]  # The first batch is told.
    assert typed(*TUNE, "--trials", "4")[0] == 0
    assert what(rows()) == whole
    assert len(trials.commands) == 2 * count


def test_what_fails_stops_no_other_and_is_said(typed: Typed, trials: Trials) -> None:
    key = "client.learning_rate=choice(0.01,1e30)"
    code, out, err = typed("tune", "tiny.yaml", key, "rounds=1", "--trials", "6", "--batch", "3")
    assert code == 0
    assert {one["status"] for one in rows()} == {"done", "failed"}
    assert "diverged" in err
    (line,) = (line for line in out.splitlines() if line.startswith("fedsim run"))
    assert "client.learning_rate=0.01" in line
    # The same values are one run.
    assert len(trials.commands) == 2
    assert typed("tune", "tiny.yaml", "client.learning_rate=choice(1e30,1e31)", "rounds=1")[0] == 1


def test_a_trial_that_is_clearly_worse_is_stopped(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-6,1e-1)", "rounds=2")
    words += ("--batch", "5", "--trials", "8")
    code, out, err = typed(*words)
    assert code == 0, err
    stopped = [one for one in rows() if one["status"] == "stopped"]
    assert stopped
    assert all(int(one["trial"]) > 5 for one in stopped)
    early = [one for one in stopped if one["stopped_after"] == "1"]
    assert all(one["rounds_scored"] == "1" for one in early)
    assert f"{len(stopped)} stopped early" in out
    before = rows()
    assert typed(*words)[0] == 0
    assert rows() == before
    typed(*words, "--no-early-stop")
    assert {one["status"] for one in rows()} == {"done"}


def test_trials_of_a_random_number_know_nothing_of_each_other() -> None:
    from fedsim.api.tuning import Wanted

    one = Wanted(trials=20, stopping="geometric")
    assert (one.chosen_by, one.stops) == ("random", False)
    assert len({one.count(seed) for seed in range(5)}) > 1
    assert one.count(3) == one.count(3)
    plain = Wanted(trials=20, sampler="sobol")
    assert (plain.chosen_by, plain.stops, plain.count(3)) == ("sobol", True, 20)


def test_trials_of_one_batch_are_not_compared_with_each_other(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-6,1e-1)", "rounds=2")
    code, _, err = typed(*words, "--batch", "6", "--trials", "6")
    assert code == 0, err
    scores = sorted(float(one["val_auc"]) for one in rows())
    assert scores[0] < scores[4]  # Some are worse than the median of the others.
    assert {one["status"] for one in rows()} == {"done"}


class Watched:
    """A process that pauses after its first round, and goes on if it is left alone.

    Attributes:
        folder: its run's.
    """

    def __init__(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.words, self.polls, self.ended = words, 0, False
        told = Observers.round

        def round(self: Observers, row: Any) -> None:
            told(self, row)
            raise Interruption

        with monkeypatch.context() as patched:
            patched.setattr(Observers, "round", round)
            assert main(words) == EXIT_INTERRUPTED
        self.folder = (Path(TRIALS) / "latest").resolve()

    def poll(self) -> int | None:
        """Exit code; None: it runs."""
        self.polls += 1
        if self.ended:
            return EXIT_INTERRUPTED
        if self.polls < 3:
            return None
        return main(["run", "--resume", str(self.folder), "--quiet"])

    def terminate(self) -> None:
        """End it, as SIGTERM does."""
        self.ended = True


TRIALS = "runs/tuning/tiny/trials/tiny"


def test_a_trial_that_runs_is_ended_when_it_is_worse(
    typed: Typed, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials_module, "_LOOK_SECONDS", 0.0)
    begun: list[Watched] = []

    def watched(words: list[str]) -> Any:
        if len(trials.commands) <= 5:
            return None
        begun.append(Watched(words, monkeypatch))
        return begun[-1]

    trials.before = watched
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-6,1e-1)", "rounds=2")
    code, out, err = typed(*words, "--batch", "5", "--trials", "8", "--jobs", "1")
    assert code == 0, err
    stopped = {one["run"] for one in rows() if one["stopped_after"] == "1"}
    assert stopped
    assert len(stopped) == sum(one.ended for one in begun)
    for run in stopped:
        assert len((Path(run) / "rounds.jsonl").read_text().splitlines()) == 1
        assert json.loads((Path(run) / "run.json").read_text())["status"] == "interrupted"
    assert "worse than the median of the others" in out
    # They are not begun again.
    count, before = len(trials.commands), rows()
    assert typed(*words, "--batch", "5", "--trials", "8")[0] == 0
    assert len(trials.commands) == count
    assert rows() == before


@pytest.mark.parametrize("metric", ["auc", "test_auc", "auc@site-0", "external_auc"])
def test_a_score_on_test_records_is_refused(metric: str, typed: Typed, trials: Trials) -> None:
    code, _, err = typed(*TUNE, "--metric", metric)
    assert code == 2
    assert f"--metric {metric}: is of test records, which tuning never looks at" in err
    assert "type: --metric val_auc" in err
    assert not trials.commands


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("tiny.yaml",), "nothing to tune"),
        ((), "which scenario?"),
        (("tiny.yaml", "isic_iid_gdd", "a=int(1,2)"), "one scenario at a time"),
        (("tiny.yaml", "client.no=int(1,2)"), "client.no"),
        (("tiny.yaml", "client.batch_size=choice(8,0)"), "client.batch_size"),
        (("tiny.yaml", "rounds=int(1,2)", "data.split.val=0"), "needs data.split.val above 0"),
        (("tiny.yaml", "rounds=int(1,2)", "--metric", "val_dice"), "has val_auc"),
        (("tiny.yaml", "rounds=int(1,2)", "evaluation.val_scores=false"), "sets evaluation.val_sc"),
        (("tiny.yaml", "rounds=int(1,2)", "--trials", "0"), "expected at least 1"),
        (("tiny.yaml", "rounds=int(1,2)", "--batch", "0"), "expected at least 1"),
        (("tiny.yaml", "rounds=int(1,2)", "--name", "../x"), "--name"),
        (("tiny.yaml", "rounds=int(1,2)", "--random-stopping", "poisson"), "not private"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    words: tuple[str, ...], error: str, typed: Typed, trials: Trials
) -> None:
    code, _, err = typed("tune", *words)
    assert code == 2
    assert error in err
    assert not trials.commands


def test_a_dry_run_names_the_first_trials(typed: Typed, trials: Trials) -> None:
    code, out, _ = typed(*TUNE, "--dry-run")
    assert code == 0
    assert out.count("would run") == 2
    assert "the first 2 of 30 trials" in out
    assert not trials.commands
