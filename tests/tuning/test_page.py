"""The page of a tuning: what it shows of trials that finished, were stopped, or failed."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.privacy.selection import Stopping
from fedsim.tasks.metric import Metric
from fedsim.tuning.charge import Cost
from fedsim.tuning.outcome import Charge
from fedsim.tuning.page import _axis, build_page
from fedsim.tuning.space import Choice, Dimension, Range
from fedsim.tuning.trials import Plan, Trial

RATE, STEPS = Range("client.learning_rate", 1e-3, 1e-1, "log"), Range("client.steps", 1, 5, "int")
METHOD = Choice("strategy", ("fedavg", "{name: a_strategy_with_a_very_long_name}"))
SPACE: tuple[Dimension, ...] = (RATE, STEPS, METHOD)


def trial(number: int, rate: str, method: str, **of: Any) -> Trial:
    values = {RATE.key: rate, STEPS.key: str(number), METHOD.key: method}
    return Trial(number, values, None, **of)


TRIALS = [
    trial(1, "0.01", "fedavg", status="done", score=0.7, rounds=4, seconds=90.0),
    trial(2, "0.1", METHOD.values[1], status="done", score=0.8, rounds=4, seconds=60.0),
    trial(3, "0.001", "fedavg", status="stopped", score=0.4, rounds=2, stopped_at=2),
    trial(4, "0.05", "fedavg", status="failed", error="client 1 <b>diverged</b>"),
    trial(5, "0.02", "fedavg"),
]


def page(trials: list[Trial], charge: Charge | None = None) -> str:
    metric = Metric("auc", "AUC")
    plan = Plan("a/tiny.yaml", ("rounds=4",), (), 0, False, 5, 2, "val_auc", metric, False)
    done = [one for one in trials if one.status == "done"]
    best = max(done, key=lambda one: one.score or 0, default=None)
    tuning: Any = SimpleNamespace(plan=plan, trials=trials, best=best)
    return build_page(tuning, SPACE, charge)


def figures(html: str) -> dict[str, str]:
    """Heading -> figure."""
    found = re.findall(r"<figure>\s*<h3>(.*?)</h3>(.*?)</figure>", html, re.DOTALL)
    return dict(found)


def places(figure: str, colour: int) -> list[tuple[int, int]]:
    """Where the dots of a colour are, of 1000 to the right and down."""
    drawn = figure[figure.index('class="box"') :]
    (path,) = re.findall(rf'class="dots" stroke="var\(--c{colour}\)" d="(M[^"]*)"/>', drawn)
    return [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h0", path)]


def test_each_trial_that_ended_has_a_row_and_the_best_its_command() -> None:
    html = page(TRIALS)
    assert "4 of 5 trials have ended; 3 keys are tuned, seed 0." in html
    rows = re.findall(r"<tr><th scope=\"row\"[^>]*>(\d)</th>(.*?)</tr>", html)
    assert [number for number, _ in rows] == ["1", "2", "3", "4"]
    assert "stopped after round 2" in rows[2][1]
    assert "client 1 &lt;b&gt;diverged&lt;/b&gt;" in rows[3][1]
    assert "<b>" not in html
    command = re.search(r"<pre>(.*?)</pre>", html)
    assert command is not None
    assert command[1].startswith("fedsim run a/tiny.yaml rounds=4 client.learning_rate=0.1")
    assert "http" not in html.replace("http-equiv", "")


def test_scores_are_drawn_over_trials_and_over_each_key() -> None:
    found = figures(page(TRIALS))
    assert list(found) == ["Score over trials", *(f"Score over {one.key}" for one in SPACE)]
    # 0.01 lies in the middle between 0.001 and 0.1, whose ends have room of a twentieth.
    (first, low), (second, high) = places(found[f"Score over {RATE.key}"], 0)
    assert first == 500
    assert second == pytest.approx(1000 * 1.05 / 1.1, abs=1)
    assert low > high
    assert places(found[f"Score over {METHOD.key}"], 0)[0][0] == 250
    for figure in found.values():
        assert len(places(figure, 1)) == 1, "the stopped one"
        assert figure.count('class="cross"') == 1, "the failed one"
        assert figure.count('class="ring core"') == 1, "the best one"
        assert "report/" not in figure


def test_the_ticks_of_a_logarithm_are_powers_of_ten_or_its_ends() -> None:
    assert [text for _, text in _axis(RATE).ticks] == ["0.001", "0.01", "0.1"]
    assert [text for _, text in _axis(Range("k", 0.2, 0.8, "log")).ticks] == ["0.2", "0.8"]


@pytest.mark.parametrize("some", [[], TRIALS[3:]])
def test_where_no_trial_has_finished_the_page_says_so(some: list[Trial]) -> None:
    html = page(some)
    assert "No trial has finished yet." in html
    assert not figures(html)


def test_a_secret_tuning_says_that_its_page_is_secret() -> None:
    cost = Cost(None, 1e-5, "no curve")
    stopping: Stopping = "geometric"
    assert "may be published" in page(TRIALS, Charge(cost, 5, stopping))
    told = page(TRIALS, Charge(cost, 5, None))
    assert "may be published" not in told
    assert "UNCHARGED" in told
