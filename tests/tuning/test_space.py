"""What is tuned, as it is typed."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim import InputError
from fedsim.scenario import Scenario
from fedsim.tuning.space import Choice, Range, changes, parse
from tests.sweeping.conftest import Typed


def test_words_with_a_form_are_tuned_and_the_others_hold_for_every_trial() -> None:
    space, fixed = parse(
        [
            "client.learning_rate=log(1e-4, 1e-1)",
            "client.momentum=uniform(0,0.9)",
            "rounds=5",
            "client.epochs=int(1,5)",
            "strategy=choice({name: fedavg},{name: feddyn, alpha: 0.1})",
        ]
    )
    assert space == [
        Range("client.learning_rate", 1e-4, 0.1, "log"),
        Range("client.momentum", 0.0, 0.9, "uniform"),
        Range("client.epochs", 1, 5, "int"),
        Choice("strategy", ("{name: fedavg}", "{name: feddyn, alpha: 0.1}")),
    ]
    assert fixed == ["rounds=5"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("a=log(0,1)", "a logarithm needs numbers above 0"),
        ("a=log(1,1)", "the first number must be below the second one"),
        ("a=uniform(1,nan)", "the first number must be below the second one"),
        ("a=uniform(1)", "expected two numbers"),
        ("a=uniform(x,y)", "expected two numbers"),
        ("a=int(1.5,2)", "expected two whole numbers"),
        ("a=choice(1)", "at least two values"),
        ("a=choice(1,,2)", "at least two values"),
        ("a=choice(1,1)", "given twice"),
        ("a=choice(0.1,0.10)", "given twice"),
        ("a=choice({b: 1, c: 2},{b: 1,  c: 2})", "given twice"),
        ("a=log (0,1)", "a logarithm needs numbers above 0"),
        ("evaluation.every=int(1,3)", "one and the same evaluation"),
        ("data.split.seed=choice(1,2)", "other validation records"),
        ("seeds=choice([0],[1])", "luck"),
        ("privacy.target_epsilon=log(1,8)", "type: fedsim curve"),
        ("privacy.unit=choice(record,client)", "a choice between guarantees"),
        ("data.positive=choice(a,b)", "other validation records"),
        ("faults.dropout=uniform(0,0.5)", "which clients fail is the question"),
        ("adversary=choice(null,{name: x, count: 1})", "is the question"),
    ],
)
def test_what_cannot_be_tuned_is_refused(word: str, told: str) -> None:
    with pytest.raises(InputError, match="expected log") as caught:
        parse([word])
    assert told in str(caught.value)


def test_a_key_is_given_once_and_there_is_something_to_tune() -> None:
    with pytest.raises(InputError, match="a: is given twice"):
        parse(["a=1", "a=int(1,2)"])
    with pytest.raises(InputError, match="nothing to tune"):
        parse(["a=1"])


PRIVATE = "{noise_multiplier: 2.0, delta: 1e-3}"
SCENARIO = {
    "name": "tiny",
    "data": {"name": "ham10000"},
    "model": {"name": "cnn"},
    "strategy": {"name": "fedavg"},
    "client": {"name": "supervised"},
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"privacy": {"noise_multiplier": 2.0}}, "privacy.noise_multiplier would change"),
        ({"privacy": {"noise_multiplier": 1.0, "unit": "client"}}, "choice between guarantees"),
        ({"privacy": None}, "privacy"),
        ({"data": {"name": "ham10000", "split": {"val": 0.3}}}, "data.split would change"),
        ({"data": {"name": "ham10000", "sites": ["a"]}}, "data.sites would change"),
        ({"faults": {"dropout": 0.5}}, "faults.dropout would change"),
        ({"evaluation": {"every": 2}}, "evaluation.every would change"),
        ({"privacy": {"noise_multiplier": 1.0, "expected_batch": 8}}, ""),
        ({"data": {"name": "ham10000", "size": 16}, "client": {"name": "x", "steps": 4}}, ""),
    ],
)
def test_a_block_may_not_change_what_its_keys_may_not(changed: Any, told: str) -> None:
    first = SCENARIO | {"privacy": {"noise_multiplier": 1.0}}
    one, other = (Scenario.model_validate(values) for values in (first, first | changed))
    for found in (changes(one, other), changes(other, one)):
        assert told in found
        assert bool(found) == bool(told)


def test_a_block_is_tuned_where_that_is_the_same_question(typed: Typed) -> None:
    words = ("tune", "tiny.yaml", "rounds=1", "--dry-run")
    code, _, err = typed(*words, f"privacy=choice(null,{PRIVATE})", "client.class_balanced=false")
    assert code == 2
    assert "privacy.mechanism would change" in err
    code, _, err = typed(*words, "client=choice(supervised,{name: supervised, batch_size: 8})")
    assert code == 0, err


class Extreme:
    """Suggests the largest number, as a float that has more digits than are typed."""

    def suggest_float(self, key: str, low: float, high: float, log: bool) -> float:
        return high * (1 - 1e-12)

    def suggest_int(self, key: str, low: int, high: int) -> int:
        return high


def test_rounded_values_stay_within_the_range() -> None:
    assert Range("a", 0.1, 0.123456, "log").suggest(Extreme()) == "0.123456"
    assert Range("a", 1, 3, "int").suggest(Extreme()) == "3"
