"""What Optuna is asked, and when a trial is stopped."""

from __future__ import annotations

import sys
from math import log10

import pytest

from fedsim import InputError
from fedsim.tuning.space import Choice, Range
from fedsim.tuning.study import Study, require_optuna

SPACE = [Range("rate", 1e-4, 1e-1, "log"), Choice("size", ("16", "32"))]


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install '\.\[tune\]'"):
        require_optuna()


def asked(seed: int, sampler: str = "tpe") -> list[dict[str, str]]:
    """Four batches of three trials, the best of which have the largest rate."""
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    study, found = Study(SPACE, "higher", seed, sampler), []  # type: ignore[arg-type]
    for first in range(0, 24, 3):
        found += [study.ask() for _ in range(3)]
        for number in range(first, first + 3):
            study.tell(number, float(found[number]["rate"]))
    return found


def test_a_seed_has_its_own_trials_always_the_same() -> None:
    assert asked(0) == asked(0)
    assert asked(0) != asked(1)
    assert all(1e-4 <= float(one["rate"]) <= 1e-1 for one in asked(0))
    assert {one["size"] for one in asked(0)} == {"16", "32"}


def test_tpe_learns_and_random_does_not() -> None:
    learned = [float(one["rate"]) for one in asked(0)[12:]]
    drawn = [float(one["rate"]) for one in asked(0, "random")[12:]]
    assert sorted(learned)[6] > 3 * sorted(drawn)[6]


def test_four_points_of_sobol_leave_no_quarter_of_a_key_empty() -> None:
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    space = [
        Range("rate", 1e-4, 1.0, "log"),
        Range("momentum", 0.0, 0.8, "uniform"),
        Range("steps", 1, 4, "int"),
        Choice("size", ("8", "16", "32", "64")),
    ]
    study = Study(space, "higher", 3, "sobol")
    asked = [study.ask() for _ in range(4)]
    assert sorted(int(log10(float(one["rate"]))) for one in asked) == [-3, -2, -1, 0]
    assert sorted(int(float(one["momentum"]) / 0.2) for one in asked) == [0, 1, 2, 3]
    assert sorted(one["steps"] for one in asked) == ["1", "2", "3", "4"]
    assert {one["size"] for one in asked} == {"8", "16", "32", "64"}
    again = Study(space, "higher", 3, "sobol")
    assert [again.ask() for _ in range(4)] == asked
    other = Study(space, "higher", 4, "sobol")
    assert [other.ask() for _ in range(4)] != asked


@pytest.mark.parametrize("keys", [1, 2, 5])
def test_values_of_sobol_do_not_depend_on_the_keys_that_follow(keys: int) -> None:
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    space = [Range(f"key{place}", 0.0, 1.0, "uniform") for place in range(6)]
    whole, first = Study(space, "higher", 3, "sobol"), Study(space[:keys], "higher", 3, "sobol")
    for _ in range(4):
        values = whole.ask()
        assert first.ask() == {one.key: values[one.key] for one in space[:keys]}


@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_a_trial_below_the_median_is_stopped_after_the_first_rounds(better: str, sign: int) -> None:
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    study = Study(SPACE, better, 0, stop_from=2)  # type: ignore[arg-type]
    for number in range(5):
        study.ask()
        series = [(round, sign * (number + round)) for round in (1, 2, 3)]
        assert study.stopped_at(number, series) is None  # Fewer than five are finished.
        study.tell(number, series[-1][1])
    study.ask()
    # The median of the five is 3 after round 1, and 4 after round 2.
    worse = [(1, sign * 0.0), (2, sign * 3.9), (3, sign * 99.0)]
    assert study.stopped_at(5, worse[:1]) is None
    assert study.stopped_at(5, worse) == 2
    study.tell(5, None, stopped=True)
    study.ask()
    assert study.stopped_at(6, [(1, sign * 0.0), (2, sign * 4.1), (3, sign * 5.1)]) is None


def test_a_trial_in_the_batch_does_not_stop_another_one() -> None:
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    study = Study(SPACE, "higher", 0, stop_from=1)
    for _ in range(10):
        study.ask()
    for number in range(10):
        assert study.stopped_at(number, [(1, -number), (2, -number)]) is None
