"""What is tuned, as it is typed."""

from __future__ import annotations

import pytest

from fedsim import InputError
from fedsim.tuning.space import Choice, Range, parse


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
        ("evaluation.every=int(1,3)", "one and the same evaluation"),
        ("data.split.seed=choice(1,2)", "other validation records"),
        ("seeds=choice([0],[1])", "luck"),
        ("privacy.target_epsilon=log(1,8)", "type: fedsim curve"),
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


class Extreme:
    """Suggests the largest number, as a float that has more digits than are typed."""

    def suggest_float(self, key: str, low: float, high: float, log: bool) -> float:
        return high * (1 - 1e-12)

    def suggest_int(self, key: str, low: int, high: int) -> int:
        return high


def test_rounded_values_stay_within_the_range() -> None:
    assert Range("a", 0.1, 0.123456, "log").suggest(Extreme()) == "0.123456"
    assert Range("a", 1, 3, "int").suggest(Extreme()) == "3"
