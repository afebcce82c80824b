"""The numerical composition, in both directions, against an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedsim.privacy import composition
from fedsim.privacy.accounting import Entry, epsilon_rdp, epsilon_upper
from fedsim.privacy.audit import gaussian_epsilon
from fedsim.privacy.composition import _Joining, epsilon_prv, tail_deltas


def tail_of(history: list[tuple[float, float, int]], delta: float) -> float:
    whole, one = tail_deltas(history, delta)
    tails = [epsilon_rdp([Entry(*release) for release in history], whole)]
    tails += [epsilon_rdp([Entry(sigma, q, 1)], one) for sigma, q, _ in history]
    return max(tail for tail in tails if tail is not None)


SETTINGS = [
    ([(1.0, 0.01, 1000)], 1e-5),
    ([(1.2, 0.256, 80)], 1e-4),
    ([(5.0, 1.0, 20)], 1e-5),
    ([(4.0, 1.0, 1)], 1e-5),
    ([(0.5, 0.5, 1)], 1e-4),
    ([(1.0, 0.9, 10)], 1e-4),
    ([(6.0, 0.999, 10)], 1e-5),
    ([(1.0, 0.032, 100), (1.5, 0.032, 100)], 1e-5),
]


@pytest.mark.parametrize(("history", "delta"), SETTINGS)
def test_both_directions_lie_closely_above_an_independent_composition(
    history: list[tuple[float, float, int]], delta: float
) -> None:
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    assert accounting
    whole = None
    for sigma, q, steps in history:
        kind = {"sampling_prob": q, "value_discretization_interval": 1e-3}
        part = from_gaussian_mechanism(sigma, **kind).self_compose(steps)
        whole = part if whole is None else whole.compose(part)
    leaving = whole._pmf_remove.get_epsilon_for_delta(delta)
    joining = whole._pmf_add.get_epsilon_for_delta(delta)
    steps, tail = [count for _, _, count in history], tail_of(history, delta)
    ours_leaving = composition._compose(
        [PoissonSubsampledGaussianPRV(q, sigma) for sigma, q, _ in history], steps, delta, tail
    )
    ours_joining = composition._compose(
        [_Joining(q, sigma) for sigma, q, _ in history], steps, delta, tail
    )
    assert 0.005 < ours_leaving - leaving < 0.0125
    assert 0.005 < ours_joining - joining < 0.0125
    bound = epsilon_upper([Entry(*release) for release in history], delta)
    if all(q == 1 for _, q, _ in history):  # What is known exactly is claimed instead.
        assert bound.epsilon < min(leaving, joining)
    else:
        assert bound.epsilon == max(ours_leaving, ours_joining)


def test_the_grid_is_as_wide_as_opacus_would_make_it() -> None:
    from opacus.accountants.analysis import prv

    history, delta = [(1.0, 0.032, 100), (1.5, 0.1, 40)], 1e-5
    theirs = prv.compute_safe_domain_size(
        prvs=[prv.PoissonSubsampledGaussianPRV(q, sigma) for sigma, q, _ in history],
        max_self_compositions=[100, 40],
        eps_error=composition.EPS_ERROR,
        delta_error=delta / 1000,
    )
    assert tail_of(history, delta) + 3 == pytest.approx(theirs, rel=1e-3)


def test_the_larger_direction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"PoissonSubsampledGaussianPRV": 1.0, "_Joining": 1.5}
    monkeypatch.setattr(
        composition, "_compose", lambda losses, *_: values[type(losses[0]).__name__]
    )
    assert epsilon_prv(((1.0, 0.0101, 1000),), 1e-5, 3.0) == 1.5


def test_a_direction_that_fails_leaves_renyi_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    history = [Entry(1.0, 0.0102, 1000)]

    def fails(losses: list[object], *_: object) -> float:
        if isinstance(losses[0], _Joining):
            raise RuntimeError("no grid")
        return 0.1

    for broken in (fails, lambda *_: math.nan):
        composition.epsilon_prv.cache_clear()
        monkeypatch.setattr(composition, "_compose", broken)
        bound = epsilon_upper(history, 1e-5)
        assert bound.accountant == "rdp"
        assert bound.epsilon == epsilon_rdp(history, 1e-5)
    composition.epsilon_prv.cache_clear()


def test_a_grid_that_would_not_fit_in_memory_is_not_made() -> None:
    history = [(0.3, 0.1, 1000)]
    assert epsilon_prv(tuple(history), 1e-5, tail_of(history, 1e-5)) is None
    assert epsilon_prv(((1.0, 0.1, 10),), 1e-5, math.inf) is None


def test_the_loss_of_joining_is_that_of_the_density() -> None:
    """Its distribution function counts the draws whose loss is at most t."""
    q, sigma = 0.3, 0.8
    x = np.random.default_rng(7).normal(0, sigma, 200_000)
    losses = -np.log(1 - q + q * np.exp((2 * x - 1) / (2 * sigma**2)))
    found = _Joining(q, sigma).cdf(np.array([-3.0, -1.0, -0.2, 0.0, 0.2, 0.35, 0.36, 5.0]))
    counted = [(losses <= t).mean() for t in (-3.0, -1.0, -0.2, 0.0, 0.2, 0.35, 0.36, 5.0)]
    assert found == pytest.approx(counted, abs=5 * 0.5 / np.sqrt(len(x)))


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    exact = gaussian_epsilon(math.sqrt(20) / 5, 1e-5)
    history = [(5.0, 1.0, 20)]
    found = epsilon_prv(tuple(history), 1e-5, tail_of(history, 1e-5))
    assert found is not None
    assert exact <= found <= exact + 0.0115
