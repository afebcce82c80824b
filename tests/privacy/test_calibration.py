"""The noise that a target needs: by the tighter bound, found quickly, and kept."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy import calibration
from fedsim.privacy.accounting import Entry, epsilon_rdp, epsilon_upper, largest_upper, would_exceed
from fedsim.privacy.calibration import calibrate


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Nothing was found before in this process."""
    found: dict[str, float] = {}
    monkeypatch.setattr(calibration, "_found", found)
    return found


def histories(plans: list[list[tuple[float, int]]], sigma: float) -> list[list[Entry]]:
    return [[Entry(sigma, *step) for step in plan] for plan in plans]


@settings(max_examples=4, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([0.01, 1.0]), st.integers(1, 900)), min_size=1, max_size=4),
    st.sampled_from([0.5, 2.0, 8.0]),
)
def test_the_largest_epsilon_meets_the_target(
    steps: list[tuple[float, int]], target: float
) -> None:
    plans = [[plan] for plan in steps]
    sigma = calibrate(plans, 1e-5, target)
    worst = largest_upper(histories(plans, sigma), 1e-5).epsilon
    assert worst is not None
    assert 0.999 * target <= worst <= target
    # The run that was planned fits its budget; many more steps than planned do not.
    spent = histories(plans, sigma)
    assert not any(would_exceed([], history, 1e-5, target) for history in spent)
    assert any(would_exceed(h, [*h, *h], 1e-5, target) for h in spent)


@pytest.mark.parametrize(
    ("q", "steps", "delta", "target"),
    [
        (0.256, 80, 1e-4, 1.0),
        (0.256, 80, 1e-4, 8.0),
        (0.01, 1000, 1e-5, 2.0),
        (1.0, 20, 1e-5, 4.0),
        (64 / 1437, 450, 1e-4, 4.0),
    ],
)
def test_the_same_claim_needs_less_noise_than_renyi_divergences_ask_for(
    q: float, steps: int, delta: float, target: float
) -> None:
    sigma = calibrate([[(q, steps)]], delta, target)

    def by_rdp(at: float) -> float:
        return epsilon_rdp([Entry(at, q, steps)], delta) or 0.0

    assert by_rdp(sigma) > target
    assert by_rdp(sigma / 0.97) > target  # at least 3 per cent less noise
    assert by_rdp(sigma / 0.85) < target  # and no more than 15 less


@pytest.mark.parametrize(
    ("target", "golden"), [(0.5, 5.894), (1.0, 3.186), (2.0, 1.734), (4.0, 0.959), (8.0, 0.543)]
)
def test_one_release_of_the_full_batch_needs_the_noise_of_balle_and_wang(
    target: float, golden: float
) -> None:
    sigma = calibrate([[(1.0, 1)]], 1e-4, target)
    assert round(sigma, 3) == golden
    epsilon = epsilon_upper([Entry(sigma, 1.0, 1)], 1e-4).epsilon
    assert epsilon is not None
    assert target * (1 - 1e-8) < epsilon <= target
    assert not would_exceed([], [Entry(sigma, 1.0, 1)], 1e-4, target)
    # Four releases need twice the noise.
    assert calibrate([[(1.0, 3), (1.0, 1)]], 1e-4, target) == pytest.approx(2 * sigma, rel=1e-8)


def test_plans_of_several_entries_and_a_worst_one_that_comes_late() -> None:
    plans = [[(0.01, 1000)], [(0.1, 100), (0.2, 50)], [(0.02, 10)], []]
    sigma = calibrate(plans, 1e-5, 3.0)
    found = [epsilon_upper(history, 1e-5).epsilon or 0.0 for history in histories(plans, sigma)]
    assert max(found) == found[1]
    assert 2.997 <= found[1] <= 3.0


def test_plans_that_cost_less_than_another_are_left_out() -> None:
    plans = [(Entry(1.0, q, n),) for q, n in [(0.1, 10), (0.2, 10), (0.2, 5), (0.05, 99), (0.1, 9)]]
    both = (Entry(1.0, 0.01, 1), Entry(1.0, 0.02, 1))
    left = calibration._undominated([*plans, both])
    assert set(left) == {plans[1], plans[3], both}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to calibrate"):
        calibrate([[], [(0.1, 0)]], 1e-5, 1.0)
    with pytest.raises(ValueError, match="above 0"):
        calibrate([[(0.1, 10)]], 1e-5, 0.0)
    with pytest.raises(ValueError, match="choose a larger target"):
        calibrate([[(0.1, 10)]], 1e-5, 1e-4)


def test_a_target_that_needs_hardly_any_noise_is_met() -> None:
    sigma = calibrate([[(0.1, 10)]], 1e-5, 1e12)
    assert 0 < sigma <= 2.0**-6
    bound = epsilon_upper([Entry(sigma, 0.1, 10)], 1e-5)
    assert bound.epsilon is not None
    assert bound.epsilon <= 1e12


def test_a_composition_that_fails_leaves_what_renyi_divergences_ask_for(
    monkeypatch: pytest.MonkeyPatch, forget: dict[str, float]
) -> None:
    monkeypatch.setattr("fedsim.privacy.accounting.epsilon_prv", lambda *_: None)
    sigma = calibrate([[(0.01, 1000)]], 1e-5, 2.0)
    bound = epsilon_upper([Entry(sigma, 0.01, 1000)], 1e-5)
    assert bound.accountant == "rdp"
    assert 1.998 <= (bound.epsilon or 0.0) <= 2.0


def test_the_search_says_so_and_is_made_once(tmp_path: Path, forget: dict[str, float]) -> None:
    said: list[str] = []
    asked = ([[(1.0, 10)]], 1e-5, 2.0)
    first = calibrate(*asked, cache=tmp_path, say=said.append)
    assert said == ["finding the noise for epsilon 2 at delta 1e-05"]
    assert calibrate(*asked, cache=tmp_path, say=said.append) == first
    forget.clear()  # another process
    assert calibrate(*asked, cache=tmp_path, say=said.append) == first
    assert len(said) == 1
    # Whatever the answer depends on is another question.
    for other in (
        ([[(1.0, 11)]], 1e-5, 2.0),
        ([[(1.0, 10)]], 1e-6, 2.0),
        ([[(1.0, 10)]], 1e-5, 3.0),
    ):
        assert calibrate(*other, cache=tmp_path, say=said.append) != first
    assert len(said) == 4
    assert len(list((tmp_path / "noise").glob("*.json"))) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: json.dumps(json.loads(text) | {"noise_multiplier": 0.01}),
        lambda text: json.dumps(json.loads(text) | {"epsilon": 9.0}),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_file_is_searched_again(
    damage: object, tmp_path: Path, forget: dict[str, float]
) -> None:
    asked = ([[(1.0, 10)]], 1e-5, 2.0)
    first = calibrate(*asked, cache=tmp_path)
    (path,) = (tmp_path / "noise").glob("*.json")
    whole = path.read_text()
    path.write_text(damage(whole))  # type: ignore[operator]
    forget.clear()
    said: list[str] = []
    assert calibrate(*asked, cache=tmp_path, say=said.append) == first
    assert len(said) == 1
    assert path.read_text() == whole


def test_another_version_of_the_accounting_is_not_believed(
    tmp_path: Path, forget: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ([[(1.0, 10)]], 1e-5, 2.0)
    calibrate(*asked, cache=tmp_path)
    monkeypatch.setattr(calibration, "_versions", lambda: {"fedsim": -1})
    said: list[str] = []
    calibrate(*asked, cache=tmp_path, say=said.append)
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, forget: dict[str, float]
) -> None:
    (tmp_path / "noise").write_text("a file where the folder should be")
    assert calibrate([[(1.0, 10)]], 1e-5, 2.0, cache=tmp_path) > 1


def test_a_kept_value_that_is_no_file_is_found_again(
    tmp_path: Path, forget: dict[str, float]
) -> None:
    asked = ([[(1.0, 10)]], 1e-5, 2.0)
    first = calibrate(*asked, cache=tmp_path)
    (path,) = (tmp_path / "noise").glob("*.json")
    path.unlink()
    path.symlink_to("/dev/zero")
    forget.clear()
    assert calibrate(*asked, cache=tmp_path) == first


def test_several_at_a_time_write_one_whole_file(tmp_path: Path, forget: dict[str, float]) -> None:
    asked = ([[(1.0, 10)]], 1e-5, 2.0)

    def go(number: int) -> float:
        forget.clear()
        return calibrate(*asked, cache=tmp_path)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(go, range(8)))) == 1
    (path,) = (tmp_path / "noise").iterdir()
    assert json.loads(path.read_text())["epsilon"] == 2.0
