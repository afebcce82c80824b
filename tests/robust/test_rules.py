"""Golden numbers and properties of the rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.robust import (
    DOS,
    RULES,
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    Median,
    NormClipping,
    Rule,
    TrimmedMean,
    copod,
    cosine_distances,
    krum_scores,
    squared_distances,
)
from fedsim.robust.distances import _BLOCK

SIX = np.array([[1, 0], [1.1, 0], [0.9, 0.1], [1, 0.2], [1.2, -0.1], [5, 5]])
ALL: dict[str, Callable[[], Rule]] = {**RULES, "multi_krum": lambda: Krum(1, chosen=3)}


def split(values: NDArray[np.float64]) -> list[dict[str, NDArray[np.float64]]]:
    """A row for each client, in two arrays of different shapes."""
    return [{"a": row[:1].reshape(1, 1), "b": row[1:]} for row in values]


def joined(arrays: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([arrays["a"].reshape(-1), arrays["b"].reshape(-1)])


def combined(rule: Rule, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return joined(rule.combine(split(values), np.ones(len(values))))


def test_krum_of_six() -> None:
    scores = krum_scores(squared_distances(split(SIX)), 1)
    assert scores == pytest.approx([0.07, 0.08, 0.09, 0.11, 0.20, 119.7])
    assert combined(Krum(1), SIX).tolist() == [1.0, 0.0]
    assert combined(Krum(1, chosen=2), SIX) == pytest.approx([1.05, 0.0])


def test_trimmed_mean_and_median_of_six() -> None:
    assert combined(TrimmedMean(1), SIX) == pytest.approx([1.075, 0.075])
    assert combined(Median(), SIX) == pytest.approx([1.05, 0.05])
    assert combined(TrimmedMean(0), SIX) == pytest.approx([1.7, 0.866667], abs=1e-6)


def test_dos_of_six() -> None:
    rows = split(SIX)
    scores = copod(np.sqrt(squared_distances(rows)))
    assert scores == pytest.approx(
        [3.968573, 4.256255, 4.517879, 4.917133, 5.290329, 10.750557], abs=1e-6
    )
    weights = [0.559289, 0.314600, 0.093796, 0.012429, 0.019886, 0.0]
    assert DOS().weights(rows) == pytest.approx(weights, abs=1e-6)
    assert combined(DOS(), SIX) == pytest.approx([1.026059, 0.009878], abs=1e-6)


def test_colluders_near_the_mean_are_what_krum_takes() -> None:
    draws = np.random.default_rng(0)
    honest = draws.normal(size=(7, 20))
    bad = np.repeat(honest.mean(0, keepdims=True) + 0.1, 3, axis=0)
    everybody = np.concatenate([honest, bad])
    scores = krum_scores(squared_distances(split(everybody)), 3)
    assert scores[7:] == pytest.approx(scores[7])
    assert scores[:7].min() > scores[7]
    assert combined(Krum(3), everybody) == pytest.approx(bad[0])


def test_near_and_large_vectors_lose_no_digits() -> None:
    draws = np.random.default_rng(1)
    base = draws.normal(size=200_000) * 10
    near = [base, base + 1e-3 * draws.normal(size=base.size), base]
    rows = [{"w": one.astype(np.float32)} for one in near]
    found = squared_distances(rows)
    exact = np.square(rows[1]["w"].astype(np.float64) - rows[0]["w"].astype(np.float64)).sum()
    assert found[0, 1] == pytest.approx(exact, rel=1e-12)
    assert found[0, 2] == 0.0
    # The form that is told not to be taken, in single precision.
    one, two = rows[0]["w"], rows[1]["w"]
    short = float(one @ one + two @ two - 2 * (one @ two))
    assert abs(short - exact) > exact


def test_distances_do_not_depend_on_blocks() -> None:
    values = np.random.default_rng(2).normal(size=(3, 2 * _BLOCK + 5))
    found = squared_distances([{"w": row} for row in values])
    assert found == pytest.approx(np.square(values[:, None] - values[None]).sum(-1), rel=1e-12)
    cosine = cosine_distances([{"w": row} for row in values])
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    assert cosine == pytest.approx(1 - unit @ unit.T, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
@given(order=st.permutations(range(7)), seed=st.integers(0, 1000))
def test_the_order_of_clients_does_not_matter(name: str, order: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(7, 4))
    one, other = combined(ALL[name](), values), combined(ALL[name](), values[list(order)])
    assert other == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_clients_that_agree_are_believed(name: str) -> None:
    row = np.array([0.3, -0.2, 0.1])
    assert combined(ALL[name](), np.repeat(row[None], 7, axis=0)) == pytest.approx(row)


MOVES_ALONG = ("median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median")


@pytest.mark.parametrize("name", MOVES_ALONG)
def test_what_all_add_is_added(name: str) -> None:
    values = np.random.default_rng(3).normal(size=(7, 4))
    moved = combined(ALL[name](), values + 3.0)
    assert moved == pytest.approx(combined(ALL[name](), values) + 3.0, abs=1e-8)


# The centre of clipping is kept; a weight of DOS is small, and never 0.
@pytest.mark.parametrize("name", [n for n in ALL if n not in ("centred_clipping", "dos")])
def test_one_client_that_sends_anything_moves_little(name: str) -> None:
    honest = np.random.default_rng(4).normal(size=(6, 4)) * 0.1 + 0.2
    for far in (1e3, 1e9):
        values = np.concatenate([honest, np.full((1, 4), far)])
        assert np.linalg.norm(combined(ALL[name](), values) - honest.mean(0)) < 1.0


def test_centred_clipping_keeps_its_centre() -> None:
    rule = CentredClipping(radius=0.5)
    values = np.full((3, 2), 2.0)
    first = combined(rule, values)
    assert np.linalg.norm(first) == pytest.approx(0.5)
    assert np.linalg.norm(combined(rule, values)) == pytest.approx(1.0)
    assert combined(CentredClipping(radius=0.5, iterations=2), values) == pytest.approx(first * 2)


def test_clipped_changes_are_as_long_as_the_radius() -> None:
    values = np.array([[3.0, 4.0], [0.0, 0.1]])
    assert combined(NormClipping(1.0), values) == pytest.approx([0.3, 0.45])


def test_the_geometric_median_is_the_least_sum_of_distances() -> None:
    values = np.random.default_rng(5).normal(size=(7, 3))
    found = combined(GeometricMedian(iterations=300), values)

    def total(point: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(values - point, axis=1).sum())

    for step in np.random.default_rng(6).normal(size=(50, 3)) * 1e-2:
        assert total(found + step) >= total(found) - 1e-9


def test_bulyan_of_one_far_client_is_the_mean_around_the_median() -> None:
    values = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [100.0]])
    values = np.hstack([values, values])
    # Five are chosen, and the three nearest to their median are averaged.
    assert combined(Bulyan(1), values) == pytest.approx([3.0, 3.0], abs=1.0)
    assert combined(Bulyan(1), values)[0] < 5


@pytest.mark.parametrize(
    ("rule", "clients", "words"),
    [
        (TrimmedMean(2), 4, "needs at least 5 clients"),
        (Krum(3), 5, "needs at least 6 clients"),
        (Krum(0, chosen=4), 3, "chosen: 4 of 3 clients"),
        (Bulyan(1), 6, "needs at least 7 clients"),
    ],
)
def test_where_a_rule_is_undefined_it_says_so(rule: Rule, clients: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule.require(clients)
    with pytest.raises(ValueError, match=words):
        combined(rule, np.zeros((clients, 2)))
