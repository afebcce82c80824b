"""What tuning private runs costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedsim.engine.privacy import privacy_plan
from fedsim.federation.building import build_federation
from fedsim.privacy.accounting import Entry, epsilon_rdp
from fedsim.scenario import load
from fedsim.tuning.charge import cost_of_a_trial
from fedsim.tuning.space import parse
from tests.sweeping.conftest import Typed
from tests.tuning.conftest import Trials

PRIVATE = (
    "privacy={noise_multiplier: 2.0, delta: 1e-3, expected_batch: 16, unit: record}",
    "model={name: convnet, width: 8}",
    "client.class_balanced=false",
    "federation.partition={name: iid}",
    "rounds=1",
)


def test_all_trials_together_are_charged(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *PRIVATE)
    code, out, err = typed(*words, "--trials", "2")
    assert code == 0, err
    found = json.loads(Path("runs/tuning/tiny/tuning.json").read_text())["privacy"]
    scenario = load("tiny.yaml", PRIVATE)
    plan = privacy_plan(scenario, build_federation(scenario, 0))
    assert plan is not None
    entries = [client.entry for client in plan.clients.values()]
    worst = max(epsilon_rdp([one], 1e-3) or 0.0 for one in entries)
    twice = max(
        epsilon_rdp([Entry(one.noise_multiplier, one.sample_rate, 2 * one.steps)], 1e-3) or 0.0
        for one in entries
    )
    assert found["epsilon_of_a_trial"] == pytest.approx(worst, rel=1e-9)
    assert found["epsilon"] == pytest.approx(twice, rel=1e-9)
    assert found["epsilon"] > found["epsilon_of_a_trial"]
    assert f"all 2 trials together have epsilon {twice:.3g}" in out
    assert "the validation records, whose scores choose, are not protected" in out


@pytest.mark.parametrize("how", ["geometric", "logarithmic", "poisson"])
def test_the_best_of_a_random_number_is_certified(how: str, typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *PRIVATE)
    words += ("--trials", "20", "--random-stopping", how)
    code, out, err = typed(*words, "--dry-run")
    assert code == 0, err
    assert f"the best of a random number of trials ({how}, mean 20) has epsilon" in out
    # Each trial has a seed, and with it noise, of its own.
    assert len(set(seeds(out))) == len(seeds(out))


def charged() -> dict[str, Any]:
    """What tuning.json says of privacy."""
    found: dict[str, Any] = json.loads(Path("runs/tuning/tiny/tuning.json").read_text())["privacy"]
    return found


def test_a_folder_has_the_trials_of_one_private_tuning(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", *PRIVATE)
    rate = "client.learning_rate=log(1e-3,1e-1)"
    assert typed(*words, rate, "--trials", "2")[0] == 0
    two = charged()["epsilon"]
    # The second of two trials was published, too.
    code, out, _ = typed(*words, rate, "--trials", "1")
    assert code == 0
    assert charged()["epsilon"] == two
    assert "all 2 trials together" in out
    count = len(trials.commands)
    for other in (
        ("client.learning_rate=log(1e-3,1)",),
        (rate, "client.momentum=0.5"),
        (rate, "--seed", "3"),
        (rate, "--random-stopping", "geometric"),
    ):
        code, _, err = typed(*words, *other, "--trials", "2")
        assert code == 2
        assert "which are not counted in what this one costs" in err
        assert "--name NAME" in err
    assert len(trials.commands) == count


def test_card_and_page_of_a_trial_say_what_it_costs_to_choose_it(
    typed: Typed, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.api.tuning.draw_runs", lambda *_: 1)
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *PRIVATE)
    assert typed(*words, "--trials", "3", "--random-stopping", "geometric")[0] == 0
    (run,) = Path("runs/tuning/tiny/trials/tiny").glob("*-seed0")
    told = f"As the chosen one it has epsilon {charged()['epsilon']:.3g}"
    assert told in (run / "MODEL_CARD.md").read_text()
    (page,) = run.glob("*/index.html")
    assert told in page.read_text()


def test_no_trials_of_a_random_number_are_written_down(
    typed: Typed, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.api.tuning.draw_runs", lambda *_: 0)
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *PRIVATE)
    code, out, err = typed(*words, "--trials", "3", "--random-stopping", "poisson")
    assert code == 0, err
    assert "the random number of trials is 0" in out
    assert not trials.commands
    found = json.loads(Path("runs/tuning/tiny/tuning.json").read_text())
    assert (found["trials"], found["best"]) == (0, None)
    assert found["privacy"]["epsilon"] > found["privacy"]["epsilon_of_a_trial"]


def test_secret_noise_is_paid_for_at_every_attempt(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=choice(0.01,1e30)", *PRIVATE)
    words += ("privacy.noise=secret", "--trials", "6")
    assert typed(*words)[0] == 0
    first = charged()["epsilon"]
    failed = sum(
        json.loads(one.read_text())["status"] == "failed"
        for one in Path("runs/tuning/tiny/trials/tiny").glob("*/run.json")
    )
    assert failed == 1
    code, out, _ = typed(*words)
    assert code == 0
    assert "all 7 trials together" in out
    assert charged()["epsilon"] > first
    code, _, err = typed(*words, "--random-stopping", "geometric")
    assert code == 2
    assert "are more trials than were drawn" in err


def test_a_trial_that_is_lost_is_paid_for_again(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *PRIVATE)
    words += ("privacy.noise=secret", "--trials", "3")
    code, out, _ = typed(*words)
    assert (code, len(trials.commands)) == (0, 3)
    assert "all 3 trials together" in out
    # Runs of one second have a number behind their seed.
    runs = sorted(Path("runs/tuning/tiny/trials/tiny").glob("*-seed0*"))
    assert len(runs) == 3
    shutil.rmtree(runs[0])
    assert "all 4 trials together" in typed(*words, "--dry-run")[1]
    with (runs[1] / "rounds.jsonl").open("a") as file:
        file.write("{}\n")
    code, out, _ = typed(*words, "--dry-run")
    assert "all 5 trials together" in out
    code, _, err = typed(*words, "--random-stopping", "geometric")
    assert code == 2
    assert "2 of the trials" in err


def test_the_newest_trial_is_paid_for_once(typed: Typed, trials: Trials) -> None:
    # `latest` leads to its folder, too.
    words = ("tune", "tiny.yaml", "client.learning_rate=log(1e29,1e30)", *PRIVATE)
    words += ("privacy.noise=secret", "--trials", "1")
    assert typed(*words)[0] == 1
    assert "all 2 trials together" in typed(*words, "--dry-run")[1]


def seeds(out: str) -> list[str]:
    """What tells the trials of a dry run apart."""
    return [line.split("] ")[1] for line in out.splitlines() if "would run" in line]


def test_the_best_costs_less_than_all(typed: Typed) -> None:
    space, fixed = parse(["client.learning_rate=log(1e-3,1e-1)", *PRIVATE])
    cost = cost_of_a_trial(space, lambda more: load("tiny.yaml", [*fixed, *more]), [0])
    assert cost is not None
    one, best, all_ = cost.of_one(), cost.of_best("geometric", 50), cost.of_all(50)
    assert one is not None
    assert best is not None
    assert all_ is not None
    assert one < best < all_


@pytest.mark.parametrize(
    ("words", "why"),
    [
        # Who holds what depends on the seed, and with it what a trial costs.
        (("federation.partition={name: dirichlet, alpha: 0.5}",), "depends on its seed"),
        (("privacy.expected_batch=int(8,64)",), "give its values as choice(...)"),
        (("privacy.filter={reference: paper_unsound}",), "has no proof"),
    ],
)
def test_what_cannot_be_certified_is_refused(
    words: tuple[str, ...], why: str, typed: Typed, trials: Trials
) -> None:
    keys = {word.partition("=")[0] for word in words}
    base = [word for word in PRIVATE if word.partition("=")[0] not in keys]
    asked = ["tune", "tiny.yaml", "client.learning_rate=log(1e-3,1e-1)", *base, *words]
    code, _, err = typed(*asked, "--trials", "8", "--random-stopping", "geometric")
    assert code == 2
    assert why in err
    assert not trials.commands


@pytest.mark.parametrize("steps", ["1,null", "null,1"])
def test_a_range_is_looked_at_with_every_choice(steps: str, typed: Typed, trials: Trials) -> None:
    # What is a step where `steps` says so is a pass where it does not.
    words = (f"client.steps=choice({steps})", "client.epochs=int(1,50)", *PRIVATE)
    code, out, _ = typed("tune", "tiny.yaml", *words, "--dry-run")
    assert code == 0
    assert "UNCHARGED" in out
    assert "depends on client.epochs" in out


def test_an_uncharged_tuning_says_so(typed: Typed, trials: Trials) -> None:
    words = ("tune", "tiny.yaml", "privacy.expected_batch=int(8,64)", *PRIVATE, "--dry-run")
    code, out, _ = typed(*words)
    assert code == 0
    assert "UNCHARGED" in out


def test_choices_are_charged_as_the_dearest(typed: Typed) -> None:
    def cost(*words: str) -> float:
        space, fixed = parse(words)
        found = cost_of_a_trial(space, lambda more: load("tiny.yaml", [*fixed, *more]), [0])
        assert found is not None
        return found.of_one() or 0.0

    rate = "client.learning_rate=log(1e-3,1e-1)"
    both = cost("privacy.expected_batch=choice(8,32)", *PRIVATE)
    alone = [cost(rate, *PRIVATE, f"privacy.expected_batch={one}") for one in ("8", "32")]
    assert both == pytest.approx(max(alone), rel=1e-9)
    assert min(alone) < max(alone)
