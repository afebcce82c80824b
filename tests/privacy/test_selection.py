"""The cost of choosing the best of several private runs, against other ways to compute it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from fedsim.privacy.accounting import ORDERS, Entry, epsilon_of_curve, epsilon_rdp, rdp_curve
from fedsim.privacy.selection import Stopping, draw_runs, rdp_of_best, stopping_rate

SHAPES: dict[Stopping, float] = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}
GAUSSIAN = [Entry(2.0, 0.02, 500)]
GOLDEN = {"geometric": 2.1411, "logarithmic": 1.7839, "poisson": 2.2970}


@pytest.mark.parametrize("stopping", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 10.0, 40.0])
def test_epsilon_of_the_best_is_that_of_an_independent_accountant(
    stopping: Stopping, mean: float
) -> None:
    dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting.rdp import RdpAccountant

    orders = tuple(float(order) for order in range(2, 65))
    one = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(2.0)), 500
    )
    theirs = RdpAccountant(orders).compose(
        dp_accounting.dp_event.RepeatAndSelectDpEvent(one, mean, SHAPES[stopping])
    )
    curve = rdp_of_best(rdp_curve(GAUSSIAN, orders), orders, stopping, mean)
    ours = epsilon_of_curve(curve, 1e-5, orders)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-6)


def test_known_costs_of_a_run_of_epsilon_one() -> None:
    """Golden numbers, from dp-accounting 0.6 at whole orders from 2 to 64."""
    orders = tuple(float(order) for order in range(2, 65))
    one = rdp_curve(GAUSSIAN, orders)
    told = {
        name: epsilon_of_curve(rdp_of_best(one, orders, name, 10.0), 1e-5, orders)
        for name in SHAPES
    }
    assert epsilon_of_curve(one, 1e-5, orders) == pytest.approx(1.0153, abs=1e-4)
    assert told == pytest.approx(GOLDEN, abs=1e-4)


@pytest.mark.parametrize("stopping", SHAPES)
def test_no_divergence_of_the_best_coin_is_above_the_bound(stopping: Stopping) -> None:
    """A run tosses a coin that a record tilts; the best of K tosses is computed exactly."""
    orders, tilt, mean = np.array(ORDERS), 0.3, 6.0
    coins = np.array([0.5, 0.5 * math.exp(-tilt)])  # of heads, without and with the record

    def best(heads: float) -> np.ndarray:
        rate, tails = stopping_rate(stopping, mean), 1 - heads
        if stopping == "poisson":  # No run: nothing is published.
            none, all_tails = math.exp(-rate), math.exp(rate * (tails - 1))
            return np.array([none, all_tails - none, 1 - all_tails])
        left = 1 - rate
        if stopping == "geometric":
            all_tails = rate * tails / (1 - left * tails)
        else:
            all_tails = math.log(1 - left * tails) / math.log(rate)
        return np.array([all_tails, 1 - all_tails])

    def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        logs = [a * np.log(p) + (1 - a) * np.log(q) for a in orders]
        return np.array([logsumexp(one) for one in logs]) / (orders - 1)

    plain = [np.array([heads, 1 - heads]) for heads in coins]
    one = np.maximum(divergence(*plain), divergence(*plain[::-1]))
    chosen = [best(heads) for heads in coins]
    exact = np.maximum(divergence(*chosen), divergence(*chosen[::-1]))
    bound = rdp_of_best(one, ORDERS, stopping, mean)
    assert (exact <= bound).all()
    # The choice does cost something: the bound of a single run would be wrong.
    assert (exact > one).any()


@pytest.mark.parametrize("stopping", SHAPES)
def test_runs_have_the_mean_that_the_bound_takes_for_granted(stopping: Stopping) -> None:
    generator, mean = np.random.default_rng(0), 8.0
    drawn = [draw_runs(stopping, mean, generator) for _ in range(20_000)]
    assert np.mean(drawn) == pytest.approx(mean, rel=0.05)
    assert min(drawn) == (0 if stopping == "poisson" else 1)


def test_a_mean_of_one_run_is_no_choice() -> None:
    with pytest.raises(ValueError, match="above 1"):
        stopping_rate("geometric", 1.0)


def test_a_run_without_noise_has_no_epsilon() -> None:
    curve = rdp_of_best(rdp_curve([Entry(0.0, 0.1, 1)]), ORDERS, "geometric", 5.0)
    assert epsilon_of_curve(curve, 1e-5) is None
    assert epsilon_rdp(GAUSSIAN, 1e-5) == epsilon_of_curve(rdp_curve(GAUSSIAN), 1e-5)
